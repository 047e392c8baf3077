"""Pages of other origins, in jsdom: a browser's XMLHttpRequest, with its preflights and its refusals.

Needs node and npm; the package, pinned in the folder cors/, goes into a temporary one.
"""

import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from support import PASSWORD, Checks, Gateway

PACKAGE = Path(__file__).with_name("cors")
PAGE, STRANGER = "https://page.example", "https://page.example.evil.test"

# One call a line, in the order given; each answers with what a script on that page can read.
BROWSER = """
const { JSDOM, VirtualConsole } = require('jsdom');
const call = ({ origin, method, url, headers, body, credentials }) => new Promise((done) => {
  // What it refuses it also says on the console.
  const { window } = new JSDOM('', { url: origin + '/', virtualConsole: new VirtualConsole() });
  const request = new window.XMLHttpRequest();
  request.open(method, url);
  request.withCredentials = Boolean(credentials);
  for (const [name, value] of Object.entries(headers || {})) request.setRequestHeader(name, value);
  request.onload = () => done({ status: request.status, body: request.responseText,
    challenge: request.getResponseHeader('www-authenticate') });
  request.onerror = () => done({ status: 0 });
  request.send(body === undefined ? null : body);
});
(async () => {
  const calls = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const answers = [];
  for (const one of calls) answers.push(await call(one));
  console.log(JSON.stringify(answers));
  process.exit(0);
})();
"""


class App(http.server.BaseHTTPRequestHandler):
    """Lets the page in below /own and nowhere else; writes down what it is asked."""

    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self):
        App.seen.append(f"{self.command} {self.path}")
        body = json.dumps({"user": self.headers.get("X-Auth-User")}).encode()
        self.send_response(200)
        if "/own" in self.path:
            self.send_header("Access-Control-Allow-Origin", PAGE)
            self.send_header("Access-Control-Allow-Headers", "authorization")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def main():
    if not shutil.which("npm"):
        raise SystemExit("npm is not installed")
    checks = Checks("cors")
    app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=app.serve_forever, daemon=True).start()
    upstream = f"http://127.0.0.1:{app.server_address[1]}"
    routes = """
[[route]]
path = "/closed/**"
[[route]]
path = "/answered/**"
preflight = "answer"
[[route]]
path = "/passed/**"
preflight = "upstream"
"""
    with tempfile.TemporaryDirectory(prefix="gatepost-cors.") as directory:
        directory = Path(directory)
        shutil.copytree(PACKAGE, directory / "page")
        directory /= "page"
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=directory, check=True,
                       stdout=subprocess.DEVNULL)
        (directory / "browser.js").write_text(BROWSER)

        def browse(calls):
            ran = subprocess.run(["node", "browser.js"], cwd=directory, input=json.dumps(calls), text=True, timeout=120,
                                 capture_output=True)
            if ran.returncode != 0:
                raise SystemExit(f"the browser failed: {ran.stderr}")
            return json.loads(ran.stdout)

        with Gateway(upstream, routes=routes, more=f'[cors]\norigins = ["{PAGE}"]\n') as gateway:
            token = gateway.login()["access_token"]
            bearer = {"Authorization": f"Bearer {token}"}
            login = {"method": "POST", "url": gateway.url + "/auth/login", "headers": {"Content-Type": "application/json"},
                     "body": json.dumps({"username": "alice", "password": PASSWORD})}

            def get(path, headers=None, **more):
                return {"method": "GET", "url": gateway.url + path, "headers": headers or {}, **more}

            # What, the call, the status that the page and a stranger can read (0: the browser keeps it back).
            calls = [
                ("login with JSON", login, 200, 0),
                ("login that fails", login | {"body": '{"username": "alice", "password": "x"}'}, 401, 0),
                ("me", get("/auth/me", bearer), 200, 0),
                ("me, without a token", get("/auth/me"), 401, 0),
                ("a method that needs a preflight", {"method": "PATCH", "url": gateway.url + "/auth/me", "body": '{"name": "A"}',
                                                     "headers": bearer | {"Content-Type": "application/json"}}, 200, 0),
                ("a header that nobody allowed", get("/auth/me", bearer | {"X-Other": "1"}), 0, 0),
                ("credentials that nobody allowed", get("/auth/me", bearer, credentials=True), 0, 0),
                ("a refusal of ours on the way to the app", get("/closed/own"), 401, 0),
                ("a token where preflights are requests like others", get("/closed/own", bearer), 0, 0),
                ("a token where the gateway answers preflights", get("/answered/own", bearer), 200, 0),
                ("the same, when the app lets nobody in", get("/answered/other", bearer), 0, 0),
                ("a token where the app answers preflights", get("/passed/own", bearer), 200, 0),
                ("the same, when the app lets nobody in", get("/passed/other", bearer), 0, 0),
            ]
            for origin, which in [(PAGE, 2), (STRANGER, 3)]:
                App.seen.clear()
                answers = browse([call | {"origin": origin} for _, call, *_ in calls])
                for row, answer in zip(calls, answers, strict=True):
                    checks.check(answer["status"] == row[which], f"{origin}: {row[0]}: {answer}")
                asked = ["GET /answered/own", "GET /answered/other", "OPTIONS /passed/own", "GET /passed/own",
                         "OPTIONS /passed/other"] if which == 2 else ["OPTIONS /passed/own", "OPTIONS /passed/other"]
                checks.check(App.seen == asked, f"{origin}: the app was asked {App.seen}")
                if which == 2:
                    checks.check(answers[9]["body"] == '{"user": "alice"}', f"who calls: {answers[9]}")
                    checks.check(answers[3]["challenge"] == 'Bearer realm="gatepost"', f"the challenge: {answers[3]}")

        with Gateway(upstream, routes=routes, more=f'[cors]\norigins = ["{PAGE}"]\ncredentials = true\n') as gateway:
            calls = [get("/auth/me", credentials=True) | {"url": gateway.url + "/auth/me", "origin": origin}
                     for origin in (PAGE, STRANGER)]
            checks.check([answer["status"] for answer in browse(calls)] == [401, 0], "credentials for a page by name")
        with Gateway(upstream, routes=routes, more='[cors]\norigins = ["*"]\n') as gateway:
            calls = [{"method": "GET", "url": gateway.url + "/auth/me", "origin": STRANGER, "credentials": credentials}
                     for credentials in (False, True)]
            checks.check([answer["status"] for answer in browse(calls)] == [401, 0], "every origin, never with credentials")
        with Gateway(upstream, routes='[[route]]\npath = "/**"\n') as gateway:
            calls = [{"method": "GET", "url": gateway.url + "/auth/me", "origin": PAGE}]
            checks.check(browse(calls)[0]["status"] == 0, "nobody without [cors]")
    checks.end()


main()
