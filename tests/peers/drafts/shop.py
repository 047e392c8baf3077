"""A Flask app with every way of asking for a caller that tutorials teach."""

from functools import wraps

from flask import Blueprint, Flask, abort, jsonify, request
from flask.views import MethodView
from flask_cors import CORS
from flask_jwt_extended import JWTManager, jwt_required
from flask_login import LoginManager, current_user, login_required
from flask_restful import Api, Resource

print("what an app prints is no route table")


def token_required(f):
    @wraps(f)
    def decorated(*args, **kwargs):
        if "x-access-token" not in request.headers:
            return jsonify(message="Token is missing!"), 401
        return f(*args, **kwargs)

    return decorated


def timed(f):
    @wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)

    return wrapper


area = Blueprint("area", __name__, url_prefix="/area")


@area.before_request
def check():
    if not request.headers.get("Authorization"):
        abort(401)


@area.get("/")
def index():
    return ""


class Notes(MethodView):
    def get(self):
        return ""

    @jwt_required()
    def post(self):
        return ""


class Locked(MethodView):
    decorators = [login_required]

    def get(self):
        return ""


class Things(Resource):
    method_decorators = [jwt_required()]

    def get(self, name):
        return {}


def create_app():
    app = Flask(__name__)
    app.config.update(JWT_SECRET_KEY="a secret of thirty-two characters", SECRET_KEY="another")
    JWTManager(app)
    LoginManager(app)
    CORS(app)
    app.register_blueprint(area)
    app.add_url_rule("/notes", view_func=Notes.as_view("notes"))
    app.add_url_rule("/locked", view_func=Locked.as_view("locked"))
    Api(app).add_resource(Things, "/things/<string:name>")

    @app.post("/login")
    def login():
        return ""

    @app.route("/users/<int:number>", methods=["GET", "DELETE"])
    @jwt_required()
    def user(number):
        return str(number)

    @app.get("/users/me")
    @jwt_required(optional=True)
    def me():
        return ""

    @app.get("/old")
    @token_required
    def old():
        return ""

    @app.get("/fast")
    @timed
    def fast():
        return ""

    @app.get("/maybe")
    def maybe():
        return str(current_user)

    @app.get("/files/<name>.json")
    def file(name):
        return name

    @app.get("/tree/<path:where>")
    def tree(where):
        return where

    return app


app = create_app()
# Without a guard, as beginners write it.
app.run(port=5000)
