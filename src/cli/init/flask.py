# Run by `gatepost init` in a process of its own: imports a Flask app and prints its route table as one line of
# JSON behind a marker, or a sentence with ! in front. Needs Flask 1.0 and Python 3.8; writes nothing and serves nothing.
import ast
import functools
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import textwrap
import traceback

spec, marker = sys.argv[1:3]
# What the app prints belongs to people.
out = os.dup(1)
os.dup2(2, 1)

ROUTING = {"route", "get", "post", "put", "patch", "delete", "head", "options", "endpoint"}
ASKS = re.compile(r"auth(?!or(?!iz))|jwt|token|login|logged|role|permission|admin|protect|restrict|require|api_?key|fresh|claims", re.I)
ASKS_NOT = re.compile(r"csrf|xsrf|exempt|not_required|no_auth|anonymous|unprotected|json|schema|param|args|feature|throttle", re.I)
MORE = re.compile(r"role|permission|admin|scope|claim|staff|super_?user|group|owner|acl|fresh|\b403\b|forbidden", re.I)
REFUSES = re.compile(r"\b40[13]\b|authorization|x-access-token|verify_jwt|unauthorized|is_authenticated", re.I)
LOOKS = re.compile(r"verify_jwt_in_request|get_jwt_identity|current_user|current_identity|request\.authorization|x-access-token|headers[^\n]*authorization|session(\[|\.get)", re.I)

# Libraries whose decorators ask for a caller, and those whose decorators ask for nobody.
AUTHENTICATION = {"flask_basicauth", "flask_httpauth", "flask_jwt", "flask_jwt_extended", "flask_login", "flask_praetorian",
                  "flask_principal", "flask_security", "flask_simplelogin", "flask_user"}
HARMLESS = {"apispec", "asgiref", "contextlib", "ddtrace", "elasticapm", "flasgger", "flask", "flask_babel", "flask_caching",
            "flask_compress", "flask_cors", "flask_limiter", "flask_pydantic", "flask_restful", "flask_restx", "flask_smorest",
            "flask_sqlalchemy", "flask_talisman", "flask_wtf", "functools", "marshmallow", "newrelic", "opentelemetry",
            "prometheus_client", "prometheus_flask_exporter", "sentry_sdk", "webargs", "werkzeug"}


def source(function):
    try:
        # Of the function itself: what it wraps has a source of its own.
        return textwrap.dedent(inspect.getsource(getattr(function, "__code__", function)))
    except (OSError, TypeError):
        return ""


def own_name(function):
    """`token_required.<locals>.decorated` is what token_required has made."""
    code = getattr(function, "__code__", None)
    # Before Python 3.11 the name that `wraps` has copied is the view's.
    known = code.co_name if code and hasattr(function, "__wrapped__") else getattr(function, "__qualname__", None)
    name = getattr(code, "co_qualname", None) or known or type(function).__name__
    return name.split(".<locals>")[0]


def cells_of(function):
    """What a function has from where it was made."""
    code = getattr(function, "__code__", None)
    found = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or ()):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            pass
    return found


def home(thing):
    """The package whose code it is; what `wraps` copies says nothing of that."""
    function = getattr(thing, "__func__", thing)
    name = getattr(function, "__globals__", {}).get("__name__") or type(thing).__module__
    return name.split(".")[0]


def wrapped_by(function):
    """What a decorator was put around, as far as that can be seen."""
    inner = getattr(function, "__wrapped__", None) or (isinstance(function, functools.partial) and function.func)
    if inner:
        return inner
    inside = cells_of(function) if inspect.isfunction(function) else getattr(function, "__dict__", {})
    functions = {name: one for name, one in inside.items() if inspect.isroutine(one)}
    for name in ("f", "fn", "func", "function", "view", "view_func", "view_function", "wrapped"):
        if name in functions:
            return functions[name]
    takes_all = inspect.isfunction(function) and function.__code__.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    alone = list(functions.values())
    return alone[0] if len(alone) == 1 and (takes_all or not inspect.isfunction(function)) else None


def layers(function):
    """The decorators' functions from the outside in, and what is inside of them."""
    found, seen = [], set()
    while id(function) not in seen:
        seen.add(id(function))
        function = getattr(function, "__func__", function)
        inner = None if is_view(function) else wrapped_by(function)
        if inner is None:
            return found, function
        found.append(function)
        function = inner
    return found, function


def decorators(function):
    """The decorators as they are written above a function."""
    try:
        tree = ast.parse(source(function)).body[0]
    except (SyntaxError, IndexError):
        return []
    return getattr(tree, "decorator_list", [])


def called_by(decorator):
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def is_routing(decorator):
    called = called_by(decorator)
    return isinstance(called, ast.Attribute) and called.attr in ROUTING


def is_view(function):
    """Whether it is what somebody wrote for a route, and not what a decorator has made of it."""
    return not hasattr(function, "__wrapped__") and any(is_routing(one) for one in decorators(function))


def resolve(node, function):
    """What the words of a decorator stand for."""
    try:
        if isinstance(node, ast.Attribute):
            return getattr(resolve(node.value, function), node.attr, None)
        return cells_of(function).get(node.id, function.__globals__.get(node.id))
    except Exception:
        # It is more than a name, or belongs to a request.
        return None


def written(function):
    """Their names, how they are written, and what they are; without those that make routes."""
    found = []
    for decorator in decorators(function):
        called = called_by(decorator)
        if not is_routing(decorator):
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            text = ast.unparse(decorator) if hasattr(ast, "unparse") else name
            found.append((name, text, resolve(called, function)))
    return found


def kind(name, text=""):
    if "optional=True" in text.replace(" ", "") or "optional" in name.lower():
        return "optional"
    return "authenticated" if ASKS.search(name) and not ASKS_NOT.search(name) else None


class Finding:
    """What one decorator, hook or wrapper says of who may call: `kind` is None where it says nothing."""

    def __init__(self, kind, text, needs=None, more=False):
        self.kind, self.text, self.needs, self.more = kind, text, needs, more


def find(thing, name, known_as=None, text=None):
    """What this says: a decorator, or what one has made. Whose code nobody knows may ask for anything."""
    text = text or name
    known_as = known_as or name
    if thing is not None and home(thing) in HARMLESS:
        return Finding(None, text)
    known = home(thing) in AUTHENTICATION if thing is not None else False
    needs = (known_needs(thing, name) or known_needs(thing, known_as)) if known else None
    if known and needs is None and cells_of(thing).get("optional") is True:
        return Finding("optional", text)
    words = source(thing if inspect.isroutine(thing) or thing is None else type(thing))
    guess = kind(name, text) or kind(known_as, text)
    if guess is None and ((known and not ASKS_NOT.search(name)) or (thing is not None and REFUSES.search(words))):
        guess = "authenticated"
    asks_more = cells_of(thing).get("role") is not None or home(thing) == "flask_principal" if known else MORE.search(words)
    more = needs is None and bool(asks_more or MORE.search(text) or MORE.search(name))
    return Finding(guess or "unknown", text, needs, more)


def known_needs(thing, name):
    """Roles of which any and all are needed, where a library's own decorator says so, or None: `([...], [...])`."""
    cells, module, last = cells_of(thing), home(thing), name.rpartition(".")[2]
    if module == "flask_security" and isinstance(cells.get("roles"), tuple):
        return {"roles_required": ([], cells["roles"]), "roles_accepted": (cells["roles"], [])}.get(last)
    if module == "flask_httpauth" and cells.get("role") is not None and not cells.get("optional"):
        role = cells["role"]
        if isinstance(role, str):
            return [], [role]
        if all(isinstance(one, str) for one in role):
            return role, []
        if len(role) == 1:
            return [], role[0]
    if module == "flask_principal":
        permission = getattr(cells.get("self", thing), "permission", None)
        needs = getattr(permission, "needs", ())
        if needs and not permission.excludes and all(getattr(one, "method", None) == "role" for one in needs):
            return sorted(one.value for one in needs), []
    return None


def look(function):
    """What all that is around a function says, and what is inside."""
    wrappers, inner = layers(function)
    names = written(inner)
    pairs = {}
    for wrapper in wrappers:
        name = own_name(wrapper)
        for one in names:
            if one[0] and (name == one[0] or name.endswith("." + one[0]) or (one[2] is not None and own_name(one[2]) == name)):
                pairs[id(wrapper)] = one
    rest = [one for one in wrappers if id(one) not in pairs]
    words = [one for one in names if one not in pairs.values()]
    if len(rest) == len(words):
        pairs.update((id(wrapper), one) for wrapper, one in zip(rest, words))
    found = [find(one, own_name(one), *pairs.get(id(one), (None, None))[:2]) for one in wrappers]
    found += [find(thing, name, name, text) for name, text, thing in names if (name, text, thing) not in pairs.values()]
    plain = inspect.isfunction(inner) or inspect.ismethod(inner)
    around = any(inspect.isroutine(one) for one in cells_of(inner).values())
    if home(inner) not in HARMLESS and (not plain or (around and not is_view(inner))):
        # It may be around something that cannot be seen.
        found.append(find(inner, own_name(inner)))
    return found, inner


def judge(function, more=()):
    """Who may call, why, and what else is known of it."""
    found, inner = look(function)
    return verdict(found + list(more), inner)


def verdict(found, inner):
    optional = [one.text for one in found if one.kind == "optional"]
    # jwt_required(optional=True) is both, and then it is what it says.
    asks = [one for one in found if one.kind == "authenticated" and one.text not in optional]
    unknown = [one for one in found if one.kind == "unknown"]
    texts = ", ".join(dict.fromkeys(one.text for one in asks + unknown)) or ", ".join(dict.fromkeys(optional))
    if asks or unknown:
        any_of, all_of, decide = [], [], []
        for needs in [one.needs for one in asks if one.needs]:
            one_of = [str(role) for role in needs[0]]
            # Two such lists cannot be said: then all of both.
            is_said = len(one_of) < 2 or (any_of and any_of != one_of)
            all_of += [str(role) for role in needs[1]] + (one_of if is_said else [])
            any_of = any_of if is_said else one_of
        if unknown and not asks:
            names = ", ".join(dict.fromkeys(one.text for one in unknown))
            decide.append('what %s asks for is not known; access = "public" if it asks for nobody' % names)
        decide += ["%s may ask for more than a caller; then add roles = [...]" % one.text for one in asks + unknown if one.more]
        return {"guard": "authenticated", "why": texts, "roles": any_of, "all_roles": list(dict.fromkeys(all_of)),
                "decide": list(dict.fromkeys(decide))}
    if optional:
        return {"guard": "optional", "why": texts}
    others = list(dict.fromkeys(one.text for one in found if one.text))
    note = "decorated with " + ", ".join(others) if others else None
    looks = LOOKS.search(source(inner))
    if looks:
        note = (note + "; " if note else "") + "its code mentions " + looks.group(0).strip("[.")
    return {"guard": "public", "note": note}


def class_decorators(view_class, method):
    listed = list(getattr(view_class, "decorators", None) or [])
    restful = getattr(view_class, "method_decorators", None) or []
    listed += restful.get(method.lower(), []) if isinstance(restful, dict) else list(restful)
    return [find(one, own_name(one)) for one in listed]


class Failed(Exception):
    """What was tried and what to do, for whoever has asked."""


OTHER_PYTHON = "--interpreter names the Python that runs the app, as in --interpreter venv/bin/python"


def attempt(what, call):
    """The app's own code: whatever it raises is its answer."""
    try:
        return call()
    except ModuleNotFoundError as error:
        raise Failed("%s needs the module %s, which %s does not have%s; %s"
                     % (what, error.name, sys.executable, place(error), OTHER_PYTHON))
    except BaseException as error:
        lines = "".join(traceback.format_list(frames(error)))
        said = "%s: %s" % (type(error).__name__, error) if str(error) else type(error).__name__
        raise Failed("%s failed with %s%s; give it the environment and the files that the app runs with\n%s"
                     % (what, said, place(error), lines))


def frames(error):
    """Without ours and those of the import system."""
    alien = ("<string>", "<frozen ")
    return [one for one in traceback.extract_tb(error.__traceback__)
            if not one.filename.startswith(alien) and os.sep + "importlib" + os.sep not in one.filename]


def place(error):
    """Where in the app's code it was raised."""
    if isinstance(error, SyntaxError):
        return " (%s, line %s)" % (error.filename, error.lineno)
    found = frames(error)
    own = [one for one in found if "site-packages" not in one.filename] or found
    return " (%s, line %s)" % (own[-1].filename, own[-1].lineno) if own else ""


def find_module(module):
    """The module's name, where it can be imported."""
    if module.endswith(".py"):
        path = os.path.abspath(module)
        if not os.path.isfile(path):
            raise Failed("there is no file %s" % path)
        sys.path.insert(0, os.path.dirname(path))
        return os.path.splitext(os.path.basename(path))[0]
    sys.path.insert(0, os.getcwd())
    return module


def import_module(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What is missing may be something that the module wants.
        if error.name == name or name.startswith("%s." % error.name):
            raise Failed("there is no module %s in %s nor in %s; call init in the app's folder, or name its file, as in "
                         "flask:path/to/%s.py:app" % (error.name, os.getcwd(), sys.executable, name.rpartition(".")[2]))
        return attempt("importing " + name, lambda: rethrow(error))
    except BaseException as error:
        return attempt("importing " + name, lambda: rethrow(error))


def rethrow(error):
    raise error


def could_be_meant(module, flask):
    apps = [name for name, one in vars(module).items() if isinstance(one, flask.Flask)]
    makers = [name + "()" for name, one in vars(module).items()
              if inspect.isfunction(one) and one.__module__ == module.__name__ and re.search(r"app", name, re.I)]
    names = ["flask:%s:%s" % (spec.partition(":")[0], name) for name in apps + makers]
    return "; is it %s?" % " or ".join(names) if names else "; name the app, or the function that makes it as in %s:create_app()" % module.__name__


def read_attribute(text):
    """`app`, `web.app`, `create_app()` or `create_app("test", debug=True)`: names, whether it is called, and with what."""
    try:
        tree = ast.parse(text, mode="eval").body
        called = isinstance(tree, ast.Call)
        args = [ast.literal_eval(one) for one in tree.args] if called else []
        named = {one.arg: ast.literal_eval(one.value) for one in tree.keywords} if called else {}
        name = tree.func if called else tree
        names = []
        while isinstance(name, ast.Attribute):
            names.insert(0, name.attr)
            name = name.value
        return [name.id] + names, called, args, named
    except (SyntaxError, ValueError, AttributeError, TypeError):
        raise Failed("%s is neither a name nor a call with plain values, as in create_app() or create_app('test')" % text)


def load():
    module, _, attribute = spec.partition(":")
    attribute = attribute or "app"
    try:
        import flask
    except ModuleNotFoundError as error:
        if error.name != "flask":
            raise
        raise Failed("%s has no Flask; %s" % (sys.executable, OTHER_PYTHON))
    flask.Flask.run = lambda *_, **__: None
    names, called, args, named = read_attribute(attribute)
    module = import_module(find_module(module))
    app = module
    for name in names:
        if not hasattr(app, name):
            raise Failed("%s has no %s%s" % (getattr(app, "__name__", type(app).__name__), name, could_be_meant(module, flask)))
        app = getattr(app, name)
    if called or (not isinstance(app, flask.Flask) and callable(app)):
        factory = app
        try:
            inspect.signature(factory).bind(*args, **named)
        except TypeError as error:
            if called or inspect.isroutine(factory):
                raise Failed("%s cannot be called like that: %s; arguments go between the brackets, as in create_app('test')"
                             % (".".join(names), error))
            # Perhaps a WSGI application around it.
            raise Failed("%s is no Flask app but a %s%s" % (attribute, type(app).__name__, could_be_meant(module, flask)))
        except ValueError:
            pass
        app = attempt("calling %s" % ".".join(names), lambda: factory(*args, **named))
    if not isinstance(app, flask.Flask):
        raise Failed("%s is no Flask app but a %s%s" % (attribute, type(app).__name__, could_be_meant(module, flask)))
    return app


def hooks(app, name):
    """What is called before each request, but for what is known to ask for nobody."""
    found = []
    for one in app.before_request_funcs.get(name, []):
        outside, inner = look(one)
        found += outside
        # Libraries have some that only look who it is.
        if home(inner) not in HARMLESS | AUTHENTICATION and not any(finding.kind == "authenticated" for finding in outside):
            found.append(find(inner, own_name(inner)))
    return [one for one in found if one.kind]


def around(app, blueprint):
    """The hooks of a blueprint and of those that it is in."""
    found = []
    while blueprint:
        for one in hooks(app, blueprint):
            one.text = "before_request of %s: %s" % (blueprint, one.text)
            found.append(one)
        blueprint = blueprint.rpartition(".")[0]
    return found


def routes(app):
    for rule in app.url_map.iter_rules():
        if getattr(rule, "build_only", False) or getattr(rule, "websocket", False) or rule.endpoint not in app.view_functions:
            continue
        view = app.view_functions[rule.endpoint]
        methods = rule.methods and sorted(rule.methods - {"HEAD"})
        if methods and getattr(rule, "provide_automatic_options", None) is not False:
            methods = [method for method in methods if method != "OPTIONS"]
        converters = getattr(rule, "_converters", {})
        deep = [name for name, one in converters.items() if not getattr(one, "part_isolating", "/" not in one.regex)]
        plain = [name for name, one in converters.items() if type(one).__name__ in ("UnicodeConverter", "PathConverter")]
        host = rule.host or None
        if rule.subdomain and app.config.get("SERVER_NAME"):
            host = rule.subdomain + "." + app.config["SERVER_NAME"].split(":")[0]
        outside = around(app, rule.endpoint.rpartition(".")[0])
        view_class = getattr(view, "view_class", None)
        for group in [methods] if view_class is None else [[method] for method in methods or []]:
            if view_class is None:
                judged = judge(view, outside)
            else:
                function = getattr(view_class, group[0].lower(), None) or getattr(view_class, "dispatch_request", view)
                judged = judge(function, outside + look(view)[0] + class_decorators(view_class, group[0]))
            what = "static files" if rule.endpoint.split(".")[-1] == "static" and "filename" in rule.arguments else rule.endpoint
            yield dict(judged, path=rule.rule, methods=group, what=what, host=host, deep=deep, plain=plain)


def main():
    app = load()
    try:
        from importlib.metadata import version
        framework = "Flask " + version("flask")
    except Exception:
        framework = "Flask"
    remarks = ["Before every request the app calls %s, which may ask for a caller: what is open here may not be open there."
               % name for name in dict.fromkeys(one.text for one in hooks(app, None))]
    return {"framework": framework, "preflights": "flask_cors" in sys.modules, "remarks": remarks, "routes": list(routes(app))}


try:
    answer = json.dumps(main())
except Failed as failed:
    answer = "!" + json.dumps(str(failed).strip())
with os.fdopen(out, "w") as stream:
    stream.write("\n%s%s\n" % (marker, answer))
sys.stderr.flush()
# Without waiting for what the app has started.
os._exit(0)
