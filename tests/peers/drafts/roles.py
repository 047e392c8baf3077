"""A Flask app with every library that asks for roles, and with what hides who is asked."""

import functools
from functools import wraps

from flask import Blueprint, Flask, abort, current_app
from flask.views import MethodView
from flask_httpauth import HTTPTokenAuth
from flask_login import login_required
from flask_principal import Permission, Principal, RoleNeed, UserNeed
from flask_security import auth_required, permissions_required, roles_accepted, roles_required

auth = HTTPTokenAuth()
admins = Permission(RoleNeed("admin"))
staff = Permission(RoleNeed("editor"), RoleNeed("admin"))


def role_required(role):
    def decorate(view):
        @wraps(view)
        def guarded(*args, **kwargs):
            if role == current_app.config.get("ROLE"):
                abort(403)
            return view(*args, **kwargs)

        return guarded

    return decorate


def odd(g):
    # No wraps, and no name that says anything.
    def handler(**kwargs):
        return g(**kwargs)

    return handler


def narrow(thing):
    @wraps(thing)
    def call():
        return thing()

    del call.__wrapped__
    return call


def marked(f):
    f.needs_a_caller = True
    return f


class Guarded:
    def __init__(self, f):
        self.f = f
        self.__name__ = f.__name__

    def __call__(self):
        return self.f()


class Slotted:
    __slots__ = ("f", "__name__")

    def __init__(self, f):
        self.f, self.__name__ = f, f.__name__

    def __call__(self):
        return self.f()


class Things(MethodView):
    def get(self):
        return ""


outer = Blueprint("outer", __name__, url_prefix="/outer")
inner = Blueprint("inner", __name__, url_prefix="/inner")
tidy = Blueprint("tidy", __name__, url_prefix="/tidy")


@outer.before_request
@auth.login_required(role="editor")
def first():
    pass


@tidy.before_request
def sweep():
    pass


@inner.get("/x")
def deep():
    return ""


@tidy.get("/x")
def clean():
    return ""


outer.register_blueprint(inner)


def create_app():
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "a secret"
    Principal(app)
    app.register_blueprint(outer)
    app.register_blueprint(tidy)

    def add(path, *decorators):
        def view():
            return ""

        view.__name__ = "view" + path.replace("/", "_")
        for decorator in reversed(decorators):
            view = decorator(view)
        app.add_url_rule(path, view_func=view)

    add("/security/all", roles_required("admin", "editor"))
    add("/security/any", auth_required(), roles_accepted("admin", "editor"))
    add("/security/may", permissions_required("write"))
    add("/http/one", auth.login_required(role="admin"))
    add("/http/any", auth.login_required(role=["admin", "editor"]))
    add("/http/all", auth.login_required(role=[["admin", "editor"]]))
    add("/http/mixed", auth.login_required(role=["admin", ["editor", "auditor"]]))
    add("/http/optional", auth.login_required(optional=True, role="admin"))
    add("/principal/one", admins.require(403))
    add("/principal/any", staff.require(403))
    add("/principal/other", Permission(RoleNeed("admin"), UserNeed(1)).require(403))
    add("/twice", admins.require(403), roles_accepted("editor", "auditor"))
    add("/own", role_required("admin"))
    add("/login/own", login_required, role_required("boss"))
    add("/odd", odd)
    add("/narrow", narrow)
    add("/guarded", Guarded)
    add("/slotted", Slotted)
    add("/cached", functools.lru_cache)
    add("/plain")
    app.add_url_rule("/partial", "partial", functools.partial(login_required(lambda: "")))
    app.add_url_rule("/things", view_func=login_required(Things.as_view("things")))
    app.add_url_rule("/things/odd", view_func=wraps(odd)(odd(Things.as_view("odd"))))

    @app.get("/marked")
    @marked
    def with_mark():
        return ""

    def helper():
        return ""

    @app.get("/helped")
    def helped():
        return helper()

    return app
