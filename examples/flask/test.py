"""The same client calls against the tutorial's app and against the app behind Gatepost.

Run it in an environment that has before/requirements.txt; GATEPOST_BIN names the binary
(default: target/release/gatepost). Everything runs on free ports in a temporary folder.
"""
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
GATEPOST = os.environ.get("GATEPOST_BIN") or HERE.parents[1] / "target/release/gatepost"
PASSWORD = "correct horse battery"
ADMIN_PASSWORD = "another long password"


# --- starting and asking ----------------------------------------------------------------------


def free_ports(count):
    """Ports that were free a moment ago, all different.

    From below the range that the system itself hands out, or an outgoing connection of somebody else
    could take one before its server starts.
    """
    found = set()
    while len(found) < count:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


@contextlib.contextmanager
def running(name, command, port, log, env=None):
    """A process, from the moment it listens until the block ends."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(env or {})})
    try:
        deadline = time.monotonic() + 30
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start:\n{pathlib.Path(log).read_text(errors='replace')}")
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Client:
    """Somebody who talks to one port; `auth` is where the login lives."""

    def __init__(self, port, auth):
        self.port, self.auth = port, auth

    def call(self, method, path, body=None, token=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            # By hand: a header may come twice, and a path goes out exactly as it is given.
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if token is not None:
                connection.putheader("Authorization", f"Bearer {token}")
            data = b"" if body is None else json.dumps(body).encode()
            if body is not None:
                connection.putheader("Content-Type", "application/json")
            if data or method == "POST":
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, {}

    def register(self, name):
        return self.call("POST", f"{self.auth}/register", {"username": name, "password": PASSWORD})

    def login(self, name, password=PASSWORD):
        return self.call("POST", f"{self.auth}/login", {"username": name, "password": password})


class Report:
    """Counts checks and prints those that do not hold."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, shown=""):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {what}: {shown}", flush=True)


# --- what both must do ------------------------------------------------------------------------


def client_flow(report, side, client):
    """The calls that a front end of this app makes, with the answers it relies on."""

    def expect(what, answer, status, message=None):
        good = answer[0] == status and (message is None or answer[1].get("message") == message)
        report.check(f"{side}: {what}", good, answer)
        return answer[1]

    expect("register", client.register("alice"), 201, "User registered successfully!")
    expect("register again", client.register("alice"), 409, "User already exists!")
    expect("register another", client.register("bob"), 201)
    expect("wrong password", client.login("alice", "not the password"), 401, "Invalid credentials!")
    expect("unknown user", client.login("nobody", "not the password"), 401, "Invalid credentials!")
    alice = expect("login", client.login("alice"), 200)["access_token"]
    bob = expect("login of another", client.login("bob"), 200)["access_token"]
    boss = expect("login of the admin", client.login("boss", ADMIN_PASSWORD), 200)["access_token"]

    greeting = client.call("GET", f"{client.auth}/protected", token=alice)
    expect("protected greets", greeting, 200, "Hello, alice!")
    expect("protected without a token", client.call("GET", f"{client.auth}/protected"), 401)

    expect("notes without a token", client.call("GET", "/notes"), 401)
    expect("a note", client.call("POST", "/notes", {"text": "buy milk"}, token=alice), 201)
    mine = expect("own notes", client.call("GET", "/notes", token=alice), 200)
    report.check(f"{side}: the note is alice's", mine["notes"] == [{"owner": "alice", "text": "buy milk"}], mine)
    others = expect("notes of another", client.call("GET", "/notes", token=bob), 200)
    report.check(f"{side}: bob sees none of it", others["notes"] == [], others)
    expect("admin page as a user", client.call("GET", "/admin/notes", token=alice), 403)
    expect("admin page without a token", client.call("GET", "/admin/notes"), 401)
    everything = expect("admin page as admin", client.call("GET", "/admin/notes", token=boss), 200)
    report.check(f"{side}: the admin sees the note", len(everything["notes"]) == 1, everything)
    expect("public page", client.call("GET", "/public/about"), 200)

    expect("logout", client.call("POST", f"{client.auth}/logout", token=alice), 200, "Successfully logged out!")
    expect("the same token after logout", client.call("GET", "/notes", token=alice), 401)
    expect("another user's token", client.call("GET", "/notes", token=bob), 200)


def forged_tokens(genuine):
    """Tokens that were made by somebody without the key."""

    def part(value):
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    def read(text):
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    head, claims, signature = genuine.split(".")
    raised = {**read(claims), "roles": ["admin"]}
    unsigned = {**read(head), "alg": "none"}
    shared = {**read(head), "alg": "HS256"}
    signed = f"{part(shared)}.{part(raised)}"
    yield "unsigned", f"{part(unsigned)}.{part(raised)}."
    yield "raised under the old signature", f"{head}.{part(raised)}.{signature}"
    yield "signed with an empty secret", f"{signed}.{part(hmac.digest(b'', signed.encode(), hashlib.sha256))}"
    yield "without a signature", f"{head}.{claims}"
    yield "rubbish", "x.y.z"


def forgeries(report, side, client):
    token = client.login("bob")[1]["access_token"]
    for what, forged in forged_tokens(token):
        status, body = client.call("GET", "/admin/notes", token=forged)
        # Flask-JWT-Extended answers 422 to some of these; what matters is that nobody passes.
        report.check(f"{side}: token {what}", status in (401, 422) and "notes" not in body, (status, body))


# --- what only the gateway has to withstand ---------------------------------------------------


def bypasses(report, client, app, gateway_jwks):
    """Ways past the gateway that have worked elsewhere."""
    bob = client.login("bob")[1]["access_token"]
    spellings = ["X-Auth-User", "x-auth-user", "X_Auth_User", "X-AUTH_USER", "X.Auth.User"]
    roles = [("X-Auth-Roles", "admin"), ("X_Auth_Roles", "admin"), ("Remote-Groups", "admin")]

    for name in spellings:
        spoofed = [(name, "boss"), *roles]
        status, body = client.call("GET", "/notes", headers=spoofed)
        report.check(f"after: {name} without a token", status == 401 and "notes" not in body, (status, body))
        status, body = client.call("GET", "/admin/notes", token=bob, headers=spoofed)
        report.check(f"after: {name} beside a token", status == 403 and "notes" not in body, (status, body))
        status, body = client.call("GET", "/public/about", headers=spoofed)
        report.check(f"after: {name} on a public page", status == 200 and body["user"] is None, (status, body))
        status, body = client.call("POST", "/notes", {"text": name}, token=bob, headers=spoofed)
        report.check(f"after: {name} does not change the writer", status == 201 and body["owner"] == "bob", (status, body))

    # Named as hop-by-hop, the header that the gateway sets would be dropped behind it.
    named_away = [("Connection", "keep-alive, X-Auth-User")]
    status, body = client.call("POST", "/notes", {"text": "x"}, token=bob, headers=named_away)
    report.check("after: Connection names the header away", status == 201 and body["owner"] == "bob", (status, body))

    overrides = [("X-Original-URL", "/admin/notes"), ("X-Rewrite-URL", "/admin/notes"), ("X-HTTP-Method-Override", "POST")]
    status, body = client.call("GET", "/public/about", headers=overrides)
    report.check("after: override headers", status == 200 and "notes" not in body, (status, body))

    twice = [("Authorization", f"Bearer {bob}")]
    status, _ = client.call("GET", "/notes", token=bob, headers=twice)
    report.check("after: two credentials", status == 400, status)

    for path in [
        "/admin/notes", "/admin/notes/", "//admin/notes", "/admin//notes", "/./admin/notes", "/x/../admin/notes",
        "/public/../admin/notes", "/public/./../admin/notes", "/%61dmin/notes", "/admin%2fnotes", "/admin%2Fnotes",
        "/public/..%2fadmin/notes", "/public/%2e%2e/admin/notes", "/public/%252e%252e/admin/notes",
        "/public/..;/admin/notes", "/admin;x=1/notes", "/admin\\notes", "/public\\..\\admin\\notes", "/ADMIN/notes",
        "/admin/notes?x=/public/about", "/admin/notes%00", "/admin/notes%20", "/admin/notes.", "/admin/notes;.css",
        "http://127.0.0.1/admin/notes",
    ]:
        status, body = client.call("GET", path, token=bob)
        report.check(f"after: {path} as a user", status in (400, 401, 403, 404) and "notes" not in body, (status, body))
        status, body = client.call("GET", path)
        report.check(f"after: {path} as nobody", status in (400, 401, 403, 404) and "notes" not in body, (status, body))

    # The app believes the headers: that is why nothing but the gateway may reach it.
    status, body = app.call("GET", "/admin/notes")
    report.check("the app alone would have answered", status == 200 and body["notes"], (status, body))
    report.check("the public keys are published", gateway_jwks[0] == 200 and gateway_jwks[1]["keys"], gateway_jwks)


def restart_keeps_promises(report, start, client):
    """Accounts and logouts outlive the process; the tutorial's app forgets both."""
    with start():
        kept = client.login("bob")[1]["access_token"]
        ended = client.login("bob")[1]["access_token"]
        report.check("after: logout before the restart", client.call("POST", "/auth/logout", token=ended)[0] == 200)
    with start():
        report.check("after: a token lives through a restart", client.call("GET", "/notes", token=kept)[0] == 200)
        report.check("after: a logout lives through a restart", client.call("GET", "/notes", token=ended)[0] == 401)


def main():
    report = Report()
    with tempfile.TemporaryDirectory(prefix="gatepost-flask-") as folder:
        folder = pathlib.Path(folder)
        before_port, app_port, gateway_port, admin_port = free_ports(4)

        def flask(app, port, **env):
            command = [sys.executable, "-m", "flask", "--app", str(HERE / app / "app.py"), "run", "--port", str(port)]
            return running(app, command, port, folder / f"{app}.log", env)

        # The shipped file with this run's ports and folder, over the variables that a deployment uses.
        settings = {
            "GATEPOST_CONFIG": str(HERE / "config.toml"),
            "GATEPOST__SERVER__LISTEN": f'["127.0.0.1:{gateway_port}"]',
            "GATEPOST__ADMIN__LISTEN": f"127.0.0.1:{admin_port}",
            "GATEPOST__STORE__PATH": str(folder / "data"),
            "GATEPOST__UPSTREAM__NOTES__SERVERS": f'["http://127.0.0.1:{app_port}"]',
        }

        def gatepost(*arguments, **options):
            command = [str(GATEPOST), *arguments]
            return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=60, **options)

        checked = gatepost("check")
        report.check("gatepost check", checked.returncode == 0, checked.stdout + checked.stderr)
        added = gatepost("user", "add", "boss", "--role", "admin", "--password-stdin", input=ADMIN_PASSWORD + "\n")
        report.check("gatepost user add", added.returncode == 0, added.stdout + added.stderr)

        def serve():
            return running("gatepost", [str(GATEPOST), "serve"], gateway_port, folder / "gatepost.log", settings)

        before, after = Client(before_port, ""), Client(gateway_port, "/auth")
        with flask("before", before_port, ADMIN_PASSWORD=ADMIN_PASSWORD):
            client_flow(report, "before", before)
            forgeries(report, "before", before)
        with flask("after", app_port):
            with serve():
                client_flow(report, "after", after)
                forgeries(report, "after", after)
                bypasses(report, after, Client(app_port, ""), after.call("GET", "/.well-known/jwks.json"))
            restart_keeps_promises(report, serve, after)
        if report.failed:
            print((folder / "gatepost.log").read_text(errors="replace")[-4000:])
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
