"""An EventSource without a browser (npm `eventsource`), with a token, until its session logs out.

Needs node and npm; the package, pinned in the folder eventsource/, goes into a temporary one.
"""

import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from support import Checks, Gateway, free_ports

PACKAGE = Path(__file__).with_name("eventsource")
PATIENCE = 60

CLIENT = """
import { EventSource } from 'eventsource';
const [url, token] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify({ at: Date.now(), ...what }));
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
});
// Its timer for the next attempt does not keep the process alive.
setTimeout(() => process.exit(1), 120000);
source.onopen = () => say({ kind: 'open' });
source.onmessage = (event) => say({ kind: 'event', data: event.data });
source.onerror = (error) => {
  say({ kind: 'error', code: error.code ?? null, message: error.message ?? null, state: source.readyState });
  if (source.readyState === EventSource.CLOSED) process.exit(0);
};
"""


class Events(http.server.BaseHTTPRequestHandler):
    """One event at once, then one for each that is asked for."""

    protocol_version = "HTTP/1.1"
    more = threading.Semaphore(0)
    ended = threading.Event()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        number = 0
        try:
            while True:
                # Retry at once: the second attempt shows what a client with an ended token gets.
                event = f"retry: 10\ndata: {number}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                number += 1
                while not self.more.acquire(timeout=0.05):
                    self.connection.setblocking(False)
                    try:
                        if self.connection.recv(1) == b"":
                            raise ConnectionResetError
                    except BlockingIOError:
                        pass
                    finally:
                        self.connection.setblocking(True)
        except OSError:
            self.ended.set()
        self.close_connection = True

    def log_message(self, *_):
        pass


def main():
    if not shutil.which("npm"):
        raise SystemExit("npm is not installed")
    checks = Checks("EventSource")
    [port] = free_ports(1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Events)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory, Gateway(f"http://127.0.0.1:{port}") as gateway:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PACKAGE / name, directory)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=directory, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        (Path(directory) / "client.mjs").write_text(CLIENT)
        tokens = gateway.login()
        client = subprocess.Popen(["node", "client.mjs", f"{gateway.url}/events", tokens["access_token"]], cwd=directory,
                                  stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "*"})
        killer = threading.Timer(PATIENCE * 2, client.kill)
        killer.start()

        def next_line():
            line = client.stdout.readline()
            return json.loads(line) if line else {"kind": "gone"}

        try:
            checks.check(next_line()["kind"] == "open", "it opens")
            for number in range(3):
                checks.check(next_line().get("data") == str(number), f"event {number} comes before the next one is made")
                Events.more.release()
            checks.check(next_line().get("data") == "3", "the last event comes")
            status, _, _ = gateway.call("/auth/logout", body={}, token=tokens["access_token"])
            logged_out = time.time()
            checks.check(status == 200, f"logout: {status}")
            ended = next_line()
            took = ended.get("at", 0) / 1000 - logged_out
            checks.check(ended["kind"] == "error" and ended.get("state") == 0, f"its stream ends, and it tries again: {ended}")
            checks.check(took < 1, f"within a second of the logout: {took:.2f} s")
            checks.check(Events.ended.wait(PATIENCE), "the application sees its connection close")
            refused = next_line()
            checks.check(refused.get("code") == 401 and refused.get("state") == 2, f"and is told 401 for good: {refused}")
            client.wait(PATIENCE)
        finally:
            killer.cancel()
            client.kill()
            client.wait()
        print(f"the stream ended {took * 1000:.0f} ms after the logout was answered")
    server.shutdown()
    checks.end()


if __name__ == "__main__":
    main()
