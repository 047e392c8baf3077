"""The app is asked and told: its own login vouches for who moves in, it decides who may register, and the
library of Standard Webhooks takes every call that is signed. The app is a server of Python's own."""

import base64
import hashlib
import json
import secrets
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from support import PASSWORD, Checks, Gateway

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
SALT = b"an app's own salt"
PEOPLE = {"alice": PASSWORD, "bob": "Bobs pässword & more"}


def digest(password):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, 1000)


class App(BaseHTTPRequestHandler):
    users = {name: digest(password) for name, password in PEOPLE.items()}
    rows, heard, wrong, logins = {}, [], [], []
    up = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = {"/login": self.login, "/may": self.may, "/events": self.event}[self.path](body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if status == 302:
            self.send_header("Location", "/welcome")
        self.end_headers()

    def login(self, body):
        """As a form that sends people on when they are in, and shows itself again when they are not."""
        form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
        App.logins.append(form["user"])
        known = App.users.get(form["user"])
        return 302 if known and secrets.compare_digest(known, digest(form["pass"])) else 200

    def verified(self, body):
        try:
            return Webhook(SECRET).verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            App.wrong.append(str(error))
            return None

    def may(self, body):
        who = self.verified(body)
        if who is None:
            return 401
        return 409 if who["username"] in App.users else 204

    def event(self, body):
        if not App.up:
            return 500
        event = self.verified(body)
        if event is None:
            return 401
        App.heard.append((event["type"], event["data"]["username"]))
        if event["type"] == "user.deleted":
            App.rows.pop(event["data"]["id"], None)
        else:
            App.rows[event["data"]["id"]] = event["data"]
        return 204

    def log_message(self, *_):
        pass


def until(what, is_so):
    end = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f"gave up waiting until {what}")
        time.sleep(0.02)


def main():
    checks = Checks("outward")
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    more = f"""
[auth.migrate]
url = "{url}/login"
body = "user={{username}}&pass={{password}}"
ok_status = [302]
until = "2999-12-31"
[events]
url = "{url}/events"
secret_file = "events.secret"
"""
    gateway = Gateway(url, more=more)
    # A key of [auth], which the configuration has already.
    text = gateway.config.read_text().replace("[auth]\n", f'[auth]\nadmission_url = "{url}/may"\n', 1)
    gateway.write(text)
    secret = gateway.directory / "events.secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    with gateway:
        for name, password in PEOPLE.items():
            status, _, body = gateway.call("/auth/login", {"username": name, "password": "a wrong password"})
            checks.check(status == 401, f"a wrong password of {name}: {status} {body!r}")
            status, _, body = gateway.call("/auth/register", {"username": name, "password": "a thief's password"})
            checks.check(status == 409, f"registering as {name}: {status} {body!r}")
            status, _, body = gateway.call("/auth/login", {"username": name, "password": password})
            checks.check(status == 200, f"{name} moves in: {status} {body!r}")
            asked = len(App.logins)
            status, _, _ = gateway.call("/auth/login", {"username": name, "password": password})
            checks.check((status, len(App.logins)) == (200, asked), "the second login is ours alone")
        App.up = False
        status, _, body = gateway.call("/auth/register", {"username": "carol", "password": PASSWORD})
        checks.check(status == 201, f"carol registers: {status} {body!r}")
        token = gateway.login("carol", register=False)["access_token"]
        status, _, _ = gateway.call("/auth/me", {"name": "Carol C."}, token=token, method="PATCH")
        checks.check(status == 200, "carol changes her name")
        until("an event was refused", lambda: 'gatepost_events_total{result="failed"} 0\n' not in gateway.metrics())
        gateway.process.kill()
        gateway.process.wait()
        App.up = True
        gateway.start()
        until("all is told", lambda: len(App.heard) >= 4 and "gatepost_events_pending 0\n" in gateway.metrics())
        expected = [("user.created", "alice"), ("user.created", "bob"), ("user.created", "carol"), ("user.updated", "carol")]
        checks.check(sorted(App.heard) == sorted(expected), f"the app heard {App.heard}")
        carol = next(row for row in App.rows.values() if row["username"] == "carol")
        checks.check(carol["name"] == "Carol C.", "what was told last is what is")
        me = json.loads(gateway.call("/auth/me", token=gateway.login("carol", register=False)["access_token"])[2])
        checks.check(carol["id"] == me["id"], "the row has the id that requests will have")
        checks.check(not App.wrong, f"every signature is good: {App.wrong}")
    server.shutdown()
    checks.end()


main()
