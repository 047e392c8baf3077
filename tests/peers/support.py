"""What the tests with real peers share: a gateway process, free ports, an account.

Each test is a script: `python3 tests/peers/NAME.py`, with GATEPOST_BIN naming the binary (default:
target/release/gatepost). It ends with one line of counts, and exits with 1 when a check failed.
`pip install -r tests/peers/requirements.txt` brings what they import. Everything is on loopback, in a
temporary folder, and ended by its process id, also when the script itself is told to end.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.path.realpath(os.environ.get("GATEPOST_BIN", ROOT / "target/release/gatepost"))
PASSWORD = "correct horse battery"
# As an exception, so that every `with` and `finally` ends what it has started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_ports(count):
    """Below the range that the system hands out: an outgoing connection must not take one."""
    found = set()
    while len(found) < count:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def wait_for_port(port, process=None, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process is not None and process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on port {port}")


def certificate(directory, *names):
    """A self-signed P-256 certificate for these names and for 127.0.0.1."""
    cert, key = Path(directory) / "cert.pem", Path(directory) / "key.pem"
    alternatives = ",".join([*(f"DNS:{name}" for name in names or ["localhost"]), "IP:127.0.0.1"])
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3",
         "-subj", "/CN=gatepost test", "-addext", f"subjectAltName={alternatives}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


class Checks:
    """Counts what was checked; a failure is printed where it happens."""

    def __init__(self, title):
        self.title, self.passed, self.failed = title, 0, 0

    def check(self, good, what):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED  {what}", flush=True)
        return bool(good)

    def end(self):
        print(f"{self.title}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed or not self.passed else 0)


class Gateway:
    """A gateway process over a configuration; `with` ends it."""

    def __init__(self, upstream, *, port=None, routes=None, server="", more="", scheme="http", password=True, environment=None):
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-peers."))
        ports = free_ports(2)
        self.port, self.admin_port, self.scheme = port or ports[0], ports[1], scheme
        self.environment = environment or {}
        small = '[auth.password]\nmemory = "1MiB"\niterations = 1\n' if password else ""
        routes = routes or '[[route]]\npath = "/**"\n[[route]]\npath = "/public/**"\naccess = "public"\n'
        self.config = self.directory / "config.toml"
        self.write(f"""
[server]
listen = ["127.0.0.1:{self.port}"]
{server}
[admin]
listen = "127.0.0.1:{self.admin_port}"
[store]
path = "data"
min_free = "1MiB"
[auth]
registration = "open"
registrations_per_address = "100000/h"
{small}
{more}
[[upstream]]
name = "app"
servers = [{", ".join(json.dumps(one) for one in ([upstream] if isinstance(upstream, str) else upstream))}]
{routes}
""")
        self.process = None

    def write(self, text):
        self.config.write_text(text)
        self.config.chmod(0o600)

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "--config", str(self.config), "serve"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.directory, env={**os.environ, **self.environment})
        try:
            wait_for_port(self.port, self.process)
        except SystemExit:
            print(self.tail(), file=sys.stderr)
            self.stop()
            raise
        return self

    def tail(self):
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise SystemExit("the gateway did not stop") from None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def call(self, path, body=None, token=None, method=None):
        """One request: status, headers, body."""
        request = urllib.request.Request(self.url + path, method=method or ("POST" if body is not None else "GET"))
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        context = ssl._create_unverified_context() if self.scheme == "https" else None
        try:
            with urllib.request.urlopen(request, data, timeout=30, context=context) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers, answer.read()

    def login(self, name="alice", register=True):
        """Tokens of an account, made when it is not there yet."""
        account = {"username": name, "password": PASSWORD}
        if register:
            self.call("/auth/register", account)
        status, _, body = self.call("/auth/login", account)
        if status != 200:
            raise SystemExit(f"login answered {status}: {body!r}")
        return json.loads(body)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def resident_kib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise SystemExit("no VmRSS")
