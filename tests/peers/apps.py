"""Apps that go on verifying tokens by themselves, each with its real library.

Every app keeps its decorator and its secret and is put behind a gateway that shares that secret: our tokens
are accepted as they are, and those that the app has minted before are accepted by the gateway, mapped to
the account, until their end. The libraries are pinned, old ones among them; each has a folder of its own.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from support import BINARY, Checks, Gateway, free_ports, wait_for_port

HERE = Path(__file__).resolve().parent / "apps"
SECRET = "kx0WVQ3nqRrJ5oJ2ZC1vK3C3F0s0o4Zp8t7Y2b1"
# What a tutorial has; nothing that we would sign with.
SHORT = "super-secret"
UNTIL = "9999-01-01"
checks = Checks("apps with libraries of their own")


def python(directory, requirements):
    """A Python that has these packages and no others."""
    home = directory / requirements
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run(
        [home / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / f"requirements-{requirements}.txt"],
        check=True)
    return str(home / "bin/python")


def node(directory):
    home = directory / "express-jwt"
    shutil.copytree(HERE / "express-jwt", home, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=home, check=True)
    return home


class App:
    """An app on a port of its own."""

    def __init__(self, command, secret, **environment):
        self.command, self.secret, self.port = command, secret, free_ports(1)[0]
        self.environment = {**os.environ, "PORT": str(self.port), "APP_SECRET": secret, **environment}

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_for_port(self.port, self.process)
        except SystemExit:
            self.__exit__()
            self.log.seek(0)
            print(self.log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, path, body=None, **headers):
        return ask(f"http://127.0.0.1:{self.port}{path}", body, **headers)

    def mint(self, name):
        status, minted = self.ask(f"/mint/{name}")
        if status != 200:
            raise SystemExit(f"{self.command}: minted nothing: {status} {minted}")
        return minted

    def behind(self, claims="{}", accept='["bearer"]', audience="[]", legacy="", secret=SECRET):
        """A gateway in front of it."""
        more = f"""
[tokens]
algorithm = "HS256"
secret = "{secret}"
audience = {audience}
claims = {claims}
accept = {accept}
{legacy}
"""
        routes = '[[route]]\npath = "/**"\nforward_authorization = true\n'
        return Gateway(f"http://127.0.0.1:{self.port}", routes=routes, more=more)


def ask(url, body=None, **headers):
    request = urllib.request.Request(url)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    data = None
    if body is not None:
        request.add_header("Content-Type", "application/json")
        data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as answer:
        text = answer.read()
        with contextlib.suppress(ValueError):
            return answer.code, json.loads(text)
        return answer.code, text


def legacy(secret, user, more=""):
    return f'[[legacy_token]]\nalgorithm = "HS256"\nsecret = "{secret}"\nuser = "{user}"\nuntil = "{UNTIL}"\n{more}\n'


def tampered(token):
    """The same claims and header under somebody else's signature."""
    head, _ = token.rsplit(".", 1)
    return head + "." + base64.urlsafe_b64encode(b"\x01" * 32).decode().rstrip("=")


def accepts(what, app, gateway, path, expected, scheme="Bearer", refused=(401, 422)):
    """Our token passes both; what is not ours passes neither, the app asked directly."""
    token = gateway.login()["access_token"]
    status, answer = ask(gateway.url + path, Authorization=f"{scheme} {token}")
    checks.check(status == 200 and answer == expected(token), f"{what}: our token: {status} {answer}")
    status, answer = app.ask(path, Authorization=f"{scheme} {token}")
    checks.check(status == 200 and answer == expected(token), f"{what}: our token, without the gateway: {status} {answer}")
    status, answer = app.ask(path, Authorization=f"{scheme} {tampered(token)}")
    checks.check(status in refused, f"{what}: a forged token: {status} {answer}")
    status, answer = app.ask(path)
    checks.check(status in refused, f"{what}: no token: {status} {answer}")
    status, answer = ask(gateway.url + path, Authorization=f"{scheme} {tampered(token)}")
    checks.check(status == 401 and answer["code"] == "invalid_token", f"{what}: a forged token at the gateway: {status} {answer}")
    return token


def old_tokens(what, gateway, path, token, refresh=None, scheme="Bearer", seen=None, nobody=None, name="alice"):
    """A token that the app has minted passes the gateway and the app, until the account changes."""
    send = lambda text: ask(gateway.url + path, Authorization=f"{scheme} {text}")
    gateway.login(name)
    status, answer = send(token)
    checks.check(status == 200 and seen in (None, answer), f"{what}: its own token: {status} {answer}")
    for kind, text in [("forged", tampered(token)), ("refresh", refresh), ("of nobody", nobody)]:
        if text:
            status, answer = send(text)
            checks.check(
                status == 401 and answer["code"] == "invalid_token", f"{what}: a token that is {kind}: {status} {answer}")
    done = subprocess.run(
        [BINARY, "--config", gateway.config, "user", "disable", name],
        cwd=gateway.directory, capture_output=True)
    checks.check(done.returncode == 0, f"{what}: user disable: {done}")
    status, answer = send(token)
    checks.check(status == 401 and answer["code"] == "revoked_token", f"{what}: of a disabled account: {status} {answer}")


def bring(gateway, *users):
    """Accounts with the ids that the app knows them by."""
    # It listens for clients a moment before it does for commands.
    until = time.monotonic() + 30
    while not (gateway.directory / "data/gatepost.sock").exists() and time.monotonic() < until:
        time.sleep(0.02)
    file = gateway.directory / "users.jsonl"
    file.write_text("".join(json.dumps(user) + "\n" for user in users))
    done = subprocess.run(
        [BINARY, "--config", gateway.config, "user", "import", file, "--format", "jsonl"],
        cwd=gateway.directory, capture_output=True)
    checks.check(done.returncode == 0, f"user import: {done}")


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def sub_of(token):
    return claims_of(token)["sub"]


def flask_jwt_extended_4(binary):
    what = "Flask-JWT-Extended 4"
    command = [binary, str(HERE / "flask_jwt_extended_app.py")]
    with App(command, SECRET) as app:
        with app.behind() as gateway:
            accepts(what, app, gateway, "/protected", lambda token: {"logged_in_as": sub_of(token)})
            accepts("PyJWT 2", app, gateway, "/plain", lambda token: {"user": sub_of(token)})
        with app.behind(accept='["x-access-token"]') as gateway:
            token = gateway.login()["access_token"]
            status, answer = ask(gateway.url + "/plain", x_access_token=token)
            checks.check((status, answer) == (200, {"user": sub_of(token)}), f"PyJWT, x-access-token: {status} {answer}")
        # An audience that the app was not told of, which the gateway's `check` warns of.
        with app.behind(audience='["app"]') as gateway:
            token = gateway.login()["access_token"]
            status, answer = ask(gateway.url + "/plain", Authorization=f"Bearer {token}")
            checks.check(status == 401 and "udience" in str(answer), f"PyJWT, an audience: {status} {answer}")
        # One secret for its tokens and for ours: the app accepts both.
        with app.behind(legacy=legacy(SECRET, "sub")) as gateway:
            minted = app.mint("alice")
            old_tokens(what, gateway, "/protected", minted["access"], minted["refresh"], seen={"logged_in_as": "alice"},
                       nobody=app.mint("nobody")["access"])
        with app.behind(accept='["x-access-token"]', legacy=legacy(SECRET, "public_id")) as gateway:
            # Neither of them says when it was made, so the name of somebody who registered is not meant.
            gateway.login("nobody")
            bring(gateway, {"id": "alice", "username": "alice", "password": "correct horse battery"})
            status, answer = ask(gateway.url + "/plain", x_access_token=app.mint("alice")["plain"])
            checks.check((status, answer) == (200, {"user": "alice"}), f"PyJWT, public_id: {status} {answer}")
            status, answer = ask(gateway.url + "/plain", x_access_token=app.mint("nobody")["plain"])
            checks.check(status == 401 and answer["code"] == "invalid_token", f"PyJWT, public_id of nobody: {status} {answer}")
    # Its secret is too short for us: it verifies, and ours is another one.
    with App(command, SHORT) as app, app.behind(legacy=legacy(SHORT, "sub")) as gateway:
        minted = app.mint("alice")
        old_tokens(f"{what}, a short secret", gateway, "/protected", minted["access"], minted["refresh"],
                   seen={"logged_in_as": "alice"}, nobody=app.mint("nobody")["access"])


def flask_jwt_extended_3(binary):
    what = "Flask-JWT-Extended 3"
    with App([binary, str(HERE / "flask_jwt_extended_app.py")], SECRET) as app:
        with app.behind(claims='{ identity = "sub" }') as gateway:
            accepts(what, app, gateway, "/protected", lambda token: {"logged_in_as": sub_of(token)})
            accepts("PyJWT 1", app, gateway, "/plain", lambda token: {"user": sub_of(token)})
        with app.behind(legacy=legacy(SECRET, "identity")) as gateway:
            minted = app.mint("alice")
            old_tokens(what, gateway, "/protected", minted["access"], minted["refresh"], seen={"logged_in_as": "alice"},
                       nobody=app.mint("nobody")["access"])


def flask_jwt(binary):
    what = "Flask-JWT"
    with App([binary, str(HERE / "flask_jwt_app.py")], SECRET) as app:
        with app.behind(claims='{ identity = "username" }', accept='["jwt"]') as gateway:
            accepts(what, app, gateway, "/protected", lambda _: {"user": "alice"}, scheme="JWT")
        login = {"username": "alice", "password": "correct horse battery"}
        status, answer = app.ask("/auth", login)
        checks.check(status == 200, f"{what}: /auth of its own: {status} {answer}")
        token = answer["access_token"]
        checks.check(claims_of(token)["identity"] == 1, f"{what}: the identity is a number")
        numbered = legacy(SECRET, "identity", 'account = "id"')
        with app.behind(claims='{ identity = "sub_number" }', accept='["jwt"]', legacy=numbered) as gateway:
            # Account 1 is not there, and the number is nobody's name.
            gateway.login("1")
            status, answer = ask(gateway.url + "/protected", Authorization=f"JWT {token}")
            checks.check(status == 401 and answer["code"] == "invalid_token", f"{what}: of nobody: {status} {answer}")
        with app.behind(claims='{ identity = "sub_number" }', accept='["jwt"]', legacy=numbered) as gateway:
            bring(gateway, {"id": "1", "username": "alice", "password": "correct horse battery"})
            accepts(f"{what}, by number", app, gateway, "/protected", lambda _: {"user": "alice"}, scheme="JWT")
            old_tokens(what, gateway, "/protected", token, scheme="JWT", seen={"user": "alice"})


def simplejwt(binary, directory):
    what = "simplejwt"
    command = [binary, str(HERE / "simplejwt_app.py")]
    claims = '{ user_id = "sub", token_type = "=access" }'
    # Its users are of its own table, by their ids, and everything is as the library has it.
    with App(command, SECRET, APP_DATABASE=str(directory / "django.sqlite3")) as app:
        numbered = legacy(SECRET, "user_id", 'account = "id"')
        with app.behind(claims=claims, legacy=numbered) as gateway:
            bring(gateway, {"id": "1", "username": "alice", "password": "correct horse battery"})
            accepts(what, app, gateway, "/protected", lambda _: {"user": "alice"})
            minted = app.mint("alice")
            old_tokens(what, gateway, "/protected", minted["access"], minted["refresh"], seen={"user": "alice"})


def express_jwt(home):
    what = "express-jwt"
    with App(["node", str(home / "app.js")], SECRET) as app:
        with app.behind(audience='["app"]') as gateway:
            accepts(what, app, gateway, "/protected", lambda _: {"user": "alice"})
        with app.behind(legacy=legacy(SECRET, "sub")) as gateway:
            old_tokens(what, gateway, "/protected", app.mint("alice")["access"], seen={"user": "alice"},
                       nobody=app.mint("nobody")["access"])


with tempfile.TemporaryDirectory(prefix="gatepost-apps.") as name:
    directory = Path(name)
    flask_jwt_extended_4(python(directory, "flask-jwt-extended-4"))
    flask_jwt_extended_3(python(directory, "flask-jwt-extended-3"))
    flask_jwt(python(directory, "flask-jwt"))
    simplejwt(python(directory, "simplejwt"), directory)
    express_jwt(node(directory))
checks.end()
