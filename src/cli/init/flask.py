# Run by `gatepost init` in a process of its own: imports a Flask app and prints its route table as one line of
# JSON behind a marker, or a sentence with ! in front. Needs Flask 1.0 and Python 3.8; writes nothing and serves nothing.
import ast
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
REFUSES = re.compile(r"\b40[13]\b|authorization|x-access-token|verify_jwt|unauthorized|is_authenticated", re.I)
LOOKS = re.compile(r"verify_jwt_in_request|get_jwt_identity|current_user|current_identity|request\.authorization|x-access-token|headers[^\n]*authorization|session(\[|\.get)", re.I)


def source(function):
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def own_name(function):
    """`token_required.<locals>.decorated` is what token_required has made."""
    code = getattr(function, "__code__", None)
    name = getattr(code, "co_qualname", None) or getattr(function, "__qualname__", None) or type(function).__name__
    return name.split(".<locals>")[0]


def layers(function):
    """The decorators' functions from the outside in, and what is inside of them."""
    found, seen = [], set()
    while id(function) not in seen:
        seen.add(id(function))
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            code = getattr(function, "__code__", None)
            cells = dict(zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or ()))
            for name in ("f", "fn", "func", "function", "view", "view_func", "wrapped"):
                try:
                    inner = cells[name].cell_contents
                except (KeyError, ValueError):
                    continue
                if inspect.isfunction(inner):
                    break
                inner = None
        if inner is None:
            return found, function
        found.append(function)
        function = inner
    return found, function


def written(function):
    """The decorators as they stand above the function."""
    try:
        tree = ast.parse(source(function)).body[0]
    except (SyntaxError, IndexError):
        return []
    texts = []
    for decorator in getattr(tree, "decorator_list", []):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr in ROUTING:
            continue
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        text = ast.unparse(decorator) if hasattr(ast, "unparse") else name
        texts.append((name, text))
    return texts


def kind(name, text=""):
    if "optional=True" in text.replace(" ", "") or "optional" in name.lower():
        return "optional"
    return "authenticated" if ASKS.search(name) and not ASKS_NOT.search(name) else None


def judge(function, more=()):
    """Who may call, why, and what else is known of it."""
    wrappers, inner = layers(function)
    names = written(inner)
    found = [(kind(name, text), text) for name, text in names]
    for wrapper in wrappers:
        name = own_name(wrapper)
        if any(name == known or name.endswith("." + known) for known, _ in names):
            known = [text for known, text in names if name == known or name.endswith("." + known)]
            if REFUSES.search(source(wrapper)):
                found.append((kind(name, known[0]) or "authenticated", known[0]))
        else:
            found.append((kind(name) or ("authenticated" if REFUSES.search(source(wrapper)) else None), name))
    found += more
    for guard in ("authenticated", "optional"):
        texts = [text for this, text in found if this == guard]
        if texts:
            # jwt_required(optional=True) is both, and then it is what it says.
            if guard == "authenticated" and all(any(text == one and this == "optional" for this, one in found) for text in texts):
                continue
            return guard, ", ".join(dict.fromkeys(texts)), None
    others = list(dict.fromkeys(text for _, text in found if text))
    note = "decorated with " + ", ".join(others) if others else None
    looks = LOOKS.search(source(inner))
    if looks:
        note = (note + "; " if note else "") + "its code mentions " + looks.group(0).strip("[.")
    return "public", None, note


def class_decorators(view_class, method):
    listed = list(getattr(view_class, "decorators", None) or [])
    restful = getattr(view_class, "method_decorators", None) or []
    listed += restful.get(method.lower(), []) if isinstance(restful, dict) else list(restful)
    return [(kind(own_name(one)) or ("authenticated" if REFUSES.search(source(one)) else None), own_name(one)) for one in listed]


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
    functions = app.before_request_funcs.get(name, [])
    return [one for one in functions if ASKS.search(own_name(one)) and not ASKS_NOT.search(own_name(one)) or REFUSES.search(source(one))]


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
        blueprint = rule.endpoint.rpartition(".")[0]
        around = [("authenticated", "before_request of %s: %s" % (blueprint, own_name(one))) for one in (hooks(app, blueprint) if blueprint else [])]
        view_class = getattr(view, "view_class", None)
        for group in [methods] if view_class is None else [[method] for method in methods or []]:
            if view_class is None:
                guard, why, note = judge(view, around)
            else:
                function = getattr(view_class, group[0].lower(), None) or getattr(view_class, "dispatch_request", view)
                guard, why, note = judge(function, around + class_decorators(view_class, group[0]))
            what = "static files" if rule.endpoint.split(".")[-1] == "static" and "filename" in rule.arguments else rule.endpoint
            yield {"path": rule.rule, "methods": group, "guard": guard, "why": why, "note": note, "what": what, "host": host,
                   "deep": deep, "plain": plain}


def main():
    app = load()
    try:
        from importlib.metadata import version
        framework = "Flask " + version("flask")
    except Exception:
        framework = "Flask"
    remarks = ["Before every request the app calls %s, which may ask for a caller: what is open here may not be open there."
               % own_name(one) for one in hooks(app, None)]
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
