"""`gatepost run`: gunicorn, uvicorn and Node behind their gateway, as people start them.

Each is started on a Unix socket and on a port, asked through the gateway, and ended from both sides; then
the same as process 1 of a process namespace, where that is allowed.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from support import BINARY, Checks, Gateway

WSGI = """
import json, os, time
def app(environ, start_response):
    if environ["PATH_INFO"].endswith("/slow"):
        open("slow", "w").close()
        time.sleep(2)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({
        "user": environ.get("HTTP_X_AUTH_USER"), "pid": os.getpid(), "parent": os.getppid(), "port": os.environ.get("PORT"),
        "secret": os.environ.get("GATEPOST__LOG__LEVEL")}).encode()]
"""
ASGI = """
import json, os
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    user = dict(scope["headers"]).get(b"x-auth-user")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    body = {"user": user and user.decode(), "pid": os.getpid(), "parent": os.getppid(), "port": os.environ.get("PORT")}
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
"""
NODE = """
const http = require("http");
const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({user: request.headers["x-auth-user"], pid: process.pid, parent: process.ppid, port: process.env.PORT}));
});
process.on("SIGTERM", () => server.close(() => process.exit(0)));
server.listen(process.env.PORT, process.env.ADDRESS);
"""
TOOLS = Path(sys.executable).parent
GUNICORN, UVICORN = str(TOOLS / "gunicorn"), str(TOOLS / "uvicorn")
NODE_BINARY = shutil.which("node")
PATIENCE = 30


class Run(Gateway):
    """A gateway that runs this command."""

    def __init__(self, *command, options=(), environment=None, before=()):
        # Nobody is there: whoever answers is the command.
        super().__init__("http://127.0.0.1:1", environment={"GATEPOST__LOG__LEVEL": "info", "PORT": "80", **(environment or {})})
        self.environment["TMPDIR"] = str(self.directory)
        self.command = [*before, BINARY, "--config", str(self.config), "run", *options, "--", *command]
        (self.directory / "wsgi.py").write_text(WSGI)
        (self.directory / "asgi.py").write_text(ASGI)
        (self.directory / "app.js").write_text(NODE)

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory,
                env={**os.environ, **self.environment})
        until = time.monotonic() + 60
        while "gatepost: ready" not in self.tail() and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return self

    def is_up(self):
        return self.process.poll() is None and "gatepost: ready" in self.tail()

    def private(self):
        return list(self.directory.glob("gatepost-app-*"))

    def about(self, token=None):
        status, _, body = self.call("/about" if token else "/public/about", token=token)
        if status != 200:
            raise SystemExit(f"{status}: {body!r}\n{self.tail()}")
        return json.loads(body)

    def ends(self):
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None


def children(pid):
    """Live processes below this one, at any depth."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, rest = entry.read_text().rsplit(") ", 1)
            parents.setdefault(int(rest.split()[1]), []).append(int(name.split(" ")[0]))
    found, left = [], [pid]
    while left:
        new = parents.get(left.pop(), [])
        found += new
        left += new
    return found


def lives(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    return False


def eventually(what):
    until = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def commands():
    """Name, command, whether it is on a socket, environment."""
    yield "gunicorn", [GUNICORN, "wsgi:app"], False, {}
    yield "gunicorn with options", [GUNICORN, "wsgi:app"], False, {"GUNICORN_CMD_ARGS": "--workers 2"}
    yield "gunicorn {bind}", [GUNICORN, "--workers", "2", "--bind", "{bind}", "wsgi:app"], True, {}
    yield "gunicorn {port}", [GUNICORN, "--bind=127.0.0.1:{port}", "wsgi:app"], False, {}
    yield "gunicorn in a shell", ["/bin/sh", "-c", f'"{GUNICORN}" --bind {{bind}} wsgi:app; exit $?'], True, {}
    yield "uvicorn", [UVICORN, "asgi:app"], False, {}
    yield "uvicorn {socket}", [UVICORN, "--uds", "{socket}", "asgi:app"], True, {}
    yield "node $PORT", [NODE_BINARY, "app.js"], False, {"ADDRESS": "127.0.0.1"}


def serves(checks):
    for name, command, on_socket, environment in commands():
        with Run(*command, environment=environment) as run:
            if not checks.check(run.is_up(), f"{name} does not come up: {run.tail()}"):
                continue
            token = run.login()["access_token"]
            about = run.about(token)
            checks.check(about["user"] == "alice", f"{name}: the app sees {about}")
            checks.check(run.call("/about")[0] == 401, f"{name}: let in without a token")
            checks.check((about["port"] is None) == on_socket, f"{name}: PORT is {about['port']}")
            checks.check(about.get("secret") is None, f"{name}: the app sees the gateway's settings")
            checks.check(len(run.private()) == on_socket, f"{name}: {run.private()}")
            if on_socket:
                checks.check(run.private()[0].stat().st_mode & 0o777 == 0o700, f"{name}: the directory is open")
            below = children(run.process.pid)
            checks.check(about["pid"] in below, f"{name}: {about['pid']} is not below us: {below}")
            run.process.send_signal(signal.SIGTERM)
            code = run.ends()
            checks.check(code == 0, f"{name}: exit code {code}: {run.tail()}")
            checks.check(not any(map(lives, below)), f"{name}: left behind: {below}")
            checks.check(not run.private(), f"{name}: {run.private()} is left")


def exposed_is_refused(checks):
    with Run(NODE_BINARY, "app.js") as run:
        code = run.ends()
        checks.check(code == 1 and "others reach it" in run.tail(), f"exposed: {code}: {run.tail()}")
    with Run(NODE_BINARY, "app.js", options=["--allow-exposed"]) as run:
        checks.check(run.is_up() and run.about()["port"], "exposed, and allowed")


def shares_its_fate(checks):
    command = [GUNICORN, "--workers", "2", "--bind", "{bind}", "wsgi:app"]
    # A worker is gunicorn's business: it starts another one.
    with Run(*command) as run:
        token = run.login()["access_token"]
        first = run.about()
        os.kill(first["pid"], signal.SIGKILL)
        checks.check(eventually(lambda: not lives(first["pid"])), "the worker is not taken away")
        checks.check(all(run.call("/about", token=token)[0] == 200 for _ in range(5)), "a worker died, and nobody answers")
        # Signals that only gunicorn understands.
        before = len(children(run.process.pid))
        run.process.send_signal(signal.SIGTTIN)
        checks.check(eventually(lambda: len(children(run.process.pid)) > before), "SIGTTIN does not bring another worker")
        # The master ends, and with it everything.
        below = children(run.process.pid)
        os.kill(first["parent"], signal.SIGKILL)
        code = run.ends()
        checks.check(code == 137, f"the app was killed: exit code {code}")
        checks.check(not any(map(lives, below)), "workers are left behind")
    # The app cannot be loaded: gunicorn's own exit code.
    with Run(GUNICORN, "--bind", "{bind}", "no_such_module:app") as run:
        code = run.ends()
        checks.check(code == 3 and "before it answered" in run.tail(), f"no such module: {code}: {run.tail()}")
    # The gateway is killed.
    with Run(*command) as run:
        below = children(run.process.pid)
        run.process.kill()
        run.process.wait()
        checks.check(eventually(lambda: not any(map(lives, below))), "the app outlives a gateway that was killed")


def requests_end_first(checks):
    for stop in (signal.SIGTERM, signal.SIGINT):
        with Run(GUNICORN, "--bind", "{bind}", "wsgi:app") as run:
            answers = []
            slow = threading.Thread(target=lambda: answers.append(run.call("/public/slow")[0]))
            slow.start()
            checks.check(eventually((run.directory / "slow").exists), "the request does not arrive")
            run.process.send_signal(stop)
            code = run.ends()
            slow.join()
            checks.check((code, answers) == (0, [200]), f"{stop.name}: exit code {code}, answers {answers}")


def takes_over(checks):
    command = [GUNICORN, "--bind", "{bind}", "wsgi:app"]
    with Run(*command) as run:
        token, first = run.login()["access_token"], run.about()["parent"]
        old = run.process
        failed, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                status = run.call("/about", token=token)[0]
                if status != 200:
                    failed.append(status)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            new = subprocess.Popen(
                [*run.command[:4], "--take-over", *run.command[4:]], cwd=run.directory, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **run.environment})
            run.process = new
            code = old.wait(PATIENCE)
        finally:
            stop.set()
            asking.join()
        checks.check(code == 0 and not lives(first), f"the old one: exit code {code}")
        checks.check(not failed, f"a request was lost: {failed[:5]}")
        checks.check(run.about()["parent"] != first, "the old app answers")


def as_process_1(checks):
    # Its own network goes with it where one is not root: the gateway is asked from inside.
    namespace = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    allowed = subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        print("not checked: this machine does not allow a process namespace", flush=True)
        return
    orphan = "(/bin/sh -c 'sleep 0.2' &) ; exec"
    with Run("/bin/sh", "-c", f'{orphan} "{GUNICORN}" --bind {{bind}} wsgi:app', before=namespace) as run:
        if not checks.check(run.is_up(), f"as process 1: {run.tail()}"):
            return
        checks.check(run.about()["pid"] > 1, "as process 1: the app answers")

        def zombies():
            return [pid for pid in children(run.process.pid) if not lives(pid)]

        checks.check(eventually(lambda: not zombies()), f"as process 1: zombies {zombies()}")
        (gateway,) = [pid for pid in children(run.process.pid) if os.readlink(f"/proc/{pid}/exe") == BINARY]
        os.kill(gateway, signal.SIGTERM)
        code = run.ends()
        checks.check(code == 0, f"as process 1: exit code {code}: {run.tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", run.port), 1):
            checks.check(False, "as process 1: somebody still listens")


checks = Checks("run")
for part in (serves, exposed_is_refused, shares_its_fate, requests_end_first, takes_over, as_process_1):
    part(checks)
checks.end()
