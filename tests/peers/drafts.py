"""`gatepost init` with real Flask and real Express 4 and 5: which routes it drafts, and who may pass.

Needs node and npm, and pip; the packages, pinned in the folder drafts/, go into a temporary one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from support import BINARY, ROOT, Checks

HERE = Path(__file__).with_name("drafts")

FLASK = {
    "/static/** GET public", "/area GET authenticated", "/notes GET public", "/notes POST authenticated",
    "/locked GET authenticated", "/things/{name} GET authenticated", "/login POST public",
    "/users/{number} DELETE,GET authenticated", "/users/me GET optional", "/old GET authenticated", "/fast GET authenticated",
    "/maybe GET public", "/files/{name} GET public", "/tree/** GET public",
}
# With what is asked for; a question is to be decided.
ROLES = {
    "/static/** public", "/outer/inner/x authenticated editor", "/tidy/x authenticated ?",
    "/security/all authenticated admin+editor", "/security/any authenticated admin|editor", "/security/may authenticated ?",
    "/http/one authenticated admin", "/http/any authenticated admin|editor", "/http/all authenticated admin+editor",
    "/http/mixed authenticated ?", "/http/optional optional", "/principal/one authenticated admin",
    "/principal/any authenticated admin|editor", "/principal/other authenticated ?", "/twice authenticated admin+auditor|editor",
    "/own authenticated ?", "/login/own authenticated ?", "/odd authenticated ?", "/narrow authenticated ?",
    "/guarded authenticated ?", "/slotted authenticated ?", "/cached public", "/plain public", "/partial authenticated",
    "/things authenticated", "/things/odd authenticated ?", "/marked authenticated ?", "/helped public",
}
FLASK_BEFORE = {
    "/static/** GET public", "/register POST public", "/login POST public", "/logout POST authenticated",
    "/protected GET authenticated", "/public/about GET public", "/notes GET,POST authenticated",
    "/admin/notes GET authenticated",
}
EXPRESS = {
    "/assets/** GET public", "/ GET public", "/auth/signin POST public", "/me GET authenticated", "/api/users GET public",
    "/api/users/{id} GET authenticated", "/api/users/{id}/items GET,POST authenticated", "/other/deep GET public",
    "/any * public", "/checked GET,PUT authenticated", "/slow GET authenticated", "/users/{id} DELETE authenticated",
    "/part/x GET authenticated",
}
EXPRESS_4 = EXPRESS | {
    "/by-jwt GET authenticated", "/by-passport GET authenticated", "/after-passport GET public", "/optional GET public",
    "/optional/{part} GET public", "/number/{n} GET public", "/files/** GET public",
}
EXPRESS_EXAMPLE = {"/catalogue GET public", "/orders GET public", "/admin/orders GET public"}


# What can be named and is no app, or none without more.
APPS = '''import functools
import os

from werkzeug.middleware.proxy_fix import ProxyFix

import shop


def create_app(name, quiet=False):
    assert name == "shop" and quiet
    return shop.create_app()


def needs():
    import no_such_library


def fails():
    return os.environ["DATABASE_URL"]


def gives_nothing():
    pass


partial = functools.partial(create_app, "shop", quiet=True)
wrapped = ProxyFix(shop.app)
'''


def init(source, directory, interpreter=None, output="draft.toml"):
    more = ["--interpreter", str(interpreter)] if interpreter else []
    return subprocess.run([BINARY, "init", "--from", source, "--output", output, *more], cwd=directory, text=True,
                          capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


def rules(draft):
    found = set()
    for route in draft["route"]:
        found.add(f"{route['path']} {','.join(sorted(route.get('methods', ['*'])))} {route['access']}")
    return found


def drafted(checks, name, source, directory, expected, interpreter=None, preflight=None):
    output = f"{name}.toml"
    ran = init(source, directory, interpreter, output)
    if not checks.check(ran.returncode == 0, f"{name}: init: {ran.stdout}{ran.stderr}"):
        return ""
    text = (directory / output).read_text()
    draft = tomllib.loads(text)
    found = rules(draft)
    checks.check(found == expected, f"{name}: missing {sorted(expected - found)}, not expected {sorted(found - expected)}")
    checks.check(all(route.get("preflight") == preflight for route in draft["route"]), f"{name}: preflights")
    tests = [test["request"] for test in draft["test"]]
    checks.check(len(set(tests)) == len(draft["route"]), f"{name}: a test for each route")
    checked = subprocess.run([BINARY, "--config", output, "check"], cwd=directory, text=True, capture_output=True)
    checks.check(checked.returncode == 0 and f"{len(tests)} tests passed" in checked.stdout, f"{name}: check: {checked.stdout}")
    again = init(source, directory, interpreter, output)
    checks.check(again.returncode == 1 and "never replaces a file" in again.stderr, f"{name}: over a file: {again.stderr}")
    checks.check((directory / output).read_text() == text, f"{name}: the file was changed")
    return text


def demand(text, route):
    """What a drafted route asks for."""
    roles = "+".join(route.get("all_roles", []) + (["|".join(sorted(route["roles"]))] if "roles" in route else []))
    comments = text.split(f'path = "{route["path"]}"\n')[0].rpartition("\n\n")[2]
    asked = "?" if "# Decide: " in comments else ""
    return " ".join(one for one in [route["path"], route["access"], roles, asked] if one)


def flask(checks, directory):
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    python = directory / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "requirements.txt"],
                   check=True)
    shutil.copy(HERE / "shop.py", directory)
    shutil.copy(ROOT / "examples/flask/before/app.py", directory / "before.py")
    (directory / "apps.py").write_text(APPS)
    (directory / "needy.py").write_text("import no_such_library\n")
    (directory / "odd.py").write_text("1 +\n")
    (directory / "ends.py").write_text("import sys\nsys.exit('not today')\n")
    for name, source in [("app", "flask:shop:app"), ("factory", "flask:shop:create_app()"), ("file", "flask:shop.py:app")]:
        text = drafted(checks, name, source, directory, FLASK, python, "upstream")
        for words in ["behind token_required", "behind jwt_required()", "behind before_request of area: check",
                      "Decide: what timed asks for is not known", "its code mentions current_user", "wider than the app's /files/<name>.json"]:
            checks.check(words in text, f"{name}: says {words!r}")
    shutil.copy(HERE / "roles.py", directory)
    expected = {" ".join([one.split()[0], "GET", one.split()[1]]) for one in ROLES}
    text = drafted(checks, "roles", "flask:roles:create_app()", directory, expected, python)
    found = {demand(text, route) for route in tomllib.loads(text)["route"]}
    checks.check(found == ROLES, f"roles: missing {sorted(ROLES - found)}, not expected {sorted(found - ROLES)}")
    for words in ["Decide: what odd asks for is not known", "Decide: role_required may ask for more than a caller",
                  "behind before_request of outer: ", "Decide: what before_request of tidy: sweep asks for is not known"]:
        checks.check(words in text, f"roles: says {words!r}")
    text = drafted(checks, "before", "flask:before:app", directory, FLASK_BEFORE, python)
    checks.check("Decide: role_required('admin') may ask for more than a caller" in text, "the role is to be decided")
    checks.check("behind role_required('admin')" in text, "the role is named")
    drafted(checks, "argument", "flask:apps:create_app('shop', quiet=True)", directory, FLASK, python, "upstream")
    drafted(checks, "callable", "flask:apps:partial", directory, FLASK, python, "upstream")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "bare"], check=True)
    bare = directory / "bare/bin/python"
    for source, interpreter, words in [
        ("flask:nothing:app", python, [f"there is no module nothing in {directory}", "call init in the app's folder"]),
        ("flask:nothing.web:app", python, ["there is no module nothing", "flask:path/to/web.py:app"]),
        ("flask:nothing.py:app", python, [f"there is no file {directory}/nothing.py"]),
        ("flask:shop:app", bare, [f"{bare} has no Flask", "--interpreter venv/bin/python"]),
        ("flask:apps.py:needs", python, ["calling needs needs the module no_such_library", "apps.py, line ", "--interpreter"]),
        ("flask:needy:app", python, ["importing needy needs the module no_such_library", "needy.py, line 1"]),
        ("flask:shop:nothing", python, ["shop has no nothing; is it flask:shop:app or flask:shop:create_app()?"]),
        ("flask:shop:print", python, ["shop has no print"]),
        ("flask:apps:create_app", python, ["create_app cannot be called like that", "'name'", "create_app('test')"]),
        ("flask:apps:create_app(", python, ["is neither a name nor a call with plain values"]),
        ("flask:apps:create_app(open('x'))", python, ["is neither a name nor a call with plain values"]),
        ("flask:apps:fails", python, ["calling fails failed with KeyError: 'DATABASE_URL'", "apps.py, line ", "environment"]),
        ("flask:apps:wrapped", python, ["wrapped is no Flask app but a ProxyFix", "flask:apps:create_app()"]),
        ("flask:apps:gives_nothing()", python, ["gives_nothing() is no Flask app but a NoneType"]),
        ("flask:odd:app", python, ["importing odd failed with SyntaxError", "odd.py, line 1"]),
        ("flask:ends:app", python, ["importing ends failed with SystemExit: not today"]),
    ]:
        ran = init(source, directory, interpreter, "bad.toml")
        checks.check(ran.returncode == 1 and all(one in ran.stderr for one in words), f"{source}: {ran.returncode} {ran.stderr}")
        checks.check("importlib" not in ran.stderr and "<string>" not in ran.stderr, f"{source}: our own lines: {ran.stderr}")
        checks.check(not (directory / "bad.toml").exists(), f"{source}: a file was written")


def express(checks, version, directory):
    shutil.copytree(HERE / f"express{version}", directory)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=directory, check=True,
                   stdout=subprocess.DEVNULL)
    shutil.copy(HERE / "app.js", directory)
    text = drafted(checks, f"express{version}", "express:app.js", directory, EXPRESS_4 if version == 4 else EXPRESS, None, "upstream")
    for words in ["At /proxied there is proxy", "a regular expression", 'prefix = "/gatepost"', "behind before, verifyToken",
                  "Decide: what slowly asks for is not known", "Decide: requireRole may ask for more than a caller",
                  "Before every request the app calls a function without a name"]:
        checks.check(words in text, f"express{version}: says {words!r}")
    if version == 5:
        # A module, with import and without an export.
        shutil.copy(ROOT / "examples/express/app.js", directory / "example.mjs")
        drafted(checks, "example", "express:example.mjs", directory, EXPRESS_EXAMPLE)
    bare = directory.parent / "bare.js"
    bare.write_text("require('express')();\n")
    ran = init(f"express:{bare}", directory, None, "bad.toml")
    checks.check(ran.returncode == 1 and f"there is no Express in the node_modules of {bare.parent}" in ran.stderr
                 and "npm install" in ran.stderr, f"express{version}: bare: {ran.stderr}")
    for name, code in [("needy.js", "require('no-such-library');\n"), ("needy.mjs", "import 'no-such-library';\n")]:
        (directory / name).write_text(code)
        ran = init(f"express:{name}", directory, None, "bad.toml")
        checks.check(ran.returncode == 1 and "needs what is not there" in ran.stderr and "no-such-library" in ran.stderr
                     and "npm install" in ran.stderr, f"express{version}: {name}: {ran.stderr}")
    (directory / "broken.js").write_text("throw new Error('not today');\n")
    ran = init("express:broken.js", directory, None, "bad.toml")
    checks.check(ran.returncode == 1 and "not today" in ran.stderr, f"express{version}: broken: {ran.stderr}")
    (directory / "empty.js").write_text("require('express')();\n")
    ran = init("express:empty.js", directory, None, "bad.toml")
    checks.check(ran.returncode == 1 and "has no routes" in ran.stderr, f"express{version}: empty: {ran.stderr}")
    checks.check(not (directory / "bad.toml").exists(), f"express{version}: a file was written")


def main():
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed")
    checks = Checks("drafts")
    with tempfile.TemporaryDirectory(prefix="gatepost-drafts.") as directory:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        flask(checks, Path(directory))
        for version in (4, 5):
            express(checks, version, Path(directory) / f"express{version}")
    checks.end()


main()
