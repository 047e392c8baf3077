"""What is measured: each work has its contestants, and one turn of it gives figures of one contestant.

A turn returns `count` (what was done), `seconds`, `cpu` (seconds of the proxy's processor), and
latencies in milliseconds where the load tells them.
"""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import peers
from .machine import Missing, find, free_ports

LUA = """
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("TURN %d %d %d %d %d %d\\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout, e.status))
end
"""
CYCLE = """
local tokens, at = {}, 0
for line in io.lines("%s") do tokens[#tokens + 1] = line end
request = function()
    at = at %% #tokens + 1
    return wrk.format("GET", "/things", { ["Authorization"] = "Bearer " .. tokens[at] })
end
"""


class Work:
    """One row group of the table."""

    unit = "request"
    what = None
    forgiven = 0  # broken connections

    def __init__(self, setting):
        self.setting, self.bench = setting, setting.bench

    def contestants(self, app_port):
        return [peers.Nginx(self.bench, app_port), self.gatepost(app_port)]

    def gatepost(self, app_port, **options):
        return peers.Gatepost(self.bench, app_port, self.setting.binary, **options)

    def others(self, app_port):
        return [kind(self.bench, app_port) for kind in (peers.Haproxy, peers.Caddy, peers.Envoy)]

    def prepare(self, contestant):
        """Once, after the start."""

    def wrk(self, contestant, seconds, *options, connections=64, script="", path="/things", tls=False):
        lua = contestant.directory / "load.lua"
        lua.write_text(script + LUA)
        before = contestant.process.cpu_seconds()
        port, scheme = (contestant.tls_port, "https") if tls else (contestant.port, "http")
        headers = [] if script else ["-H", f"Authorization: Bearer {self.setting.token}"]
        output = self.bench.load(find("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", lua, *headers, *options,
                                 f"{scheme}://localhost:{port}{path}" if tls else f"{scheme}://127.0.0.1:{port}{path}")
        cpu = contestant.process.cpu_seconds() - before
        found = re.search(r"^TURN (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", output, re.M)
        count, micros, p50, p99, broken, refused = map(int, found.groups())
        if refused or broken > self.forgiven or not count:
            raise SystemExit(f"{contestant.title}: {count} answers, {broken} connections failed, {refused} were no success")
        return {"count": count, "seconds": micros / 1e6, "cpu": cpu, "p50": p50 / 1e3, "p99": p99 / 1e3}



class Http1(Work):
    what = "HTTP/1.1, 64 connections"

    def contestants(self, app_port):
        return [*super().contestants(app_port),
                self.gatepost(app_port, name="logged", title="gatepost, decision log", decisions=True),
                *self.others(app_port)]

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds)


class Http1Thousand(Work):
    what = "HTTP/1.1, 1,000 connections"

    def contestants(self, app_port):
        return [*super().contestants(app_port), *self.others(app_port)]

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds, connections=1000)


class Tokens(Work):
    """Second pass over the tokens: the first is the warming-up."""

    what = "HTTP/1.1, 100,000 live tokens in turn, second pass"
    COUNT = 100_000

    def contestants(self, app_port):
        return [peers.Nginx(self.bench, app_port), self.gatepost(app_port, cache="512MiB")]

    def prepare(self, contestant):
        path = self.bench.directory / "tokens"
        if isinstance(contestant, peers.Gatepost):
            path.write_text("".join(token + "\n" for token in contestant.tokens(self.COUNT)))
            done = 0
            while done < self.COUNT:
                done += self.wrk(contestant, 10, script=CYCLE % path)["count"]

    def turn(self, contestant, seconds):
        # Every turn begins anew, so it has to be long enough to go round.
        return self.wrk(contestant, max(seconds, 5), script=CYCLE % (self.bench.directory / "tokens"))


class Routes(Work):
    what = "10 routes, then 10,000"

    def contestants(self, app_port):
        return [self.gatepost(app_port, name=f"routes{n}", title=f"gatepost, {n:,} routes", routes=n) for n in (10, 10_000)]

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds)


def build_fill():
    """The program of benches/fill.rs, built as the release is."""
    command = [find("cargo"), "bench", "--quiet", "--locked", "--no-run", "--profile", "release", "--bench", "fill",
               "--message-format=json"]
    built = subprocess.run(command, capture_output=True, text=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "fill":
            return message["executable"]
    raise SystemExit(f"benches/fill.rs does not build:\n{built.stderr[-1500:]}")


class Revocations(Work):
    what = "no revocations, then 1,000,000"

    def contestants(self, app_port):
        self.fill = self.setting.fill or build_fill()
        return [self.gatepost(app_port, name=f"revoked{n}", title=f"gatepost, {n:,} revocations") for n in (0, 1_000_000)]

    def prepare(self, contestant):
        if contestant.name.endswith("1000000"):
            contestant.bench.stop(contestant.process)
            self.bench.load(self.fill, contestant.directory / "data", "1000000")
            contestant.process = self.bench.start(
                contestant.title, [contestant.binary, "--config", contestant.directory / "config.toml", "serve"],
                contestant.name, contestant.port)

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds)


class Download(Work):
    what, unit = "1 MiB answers, HTTP/1.1", "MiB"

    def contestants(self, app_port):
        return [*super().contestants(app_port), *self.others(app_port)]

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds, path="/files/large", connections=16)


class Upload(Work):
    what, unit = "1 MiB requests, HTTP/1.1", "MiB"
    SCRIPT = 'wrk.method = "POST"; wrk.body = string.rep("x", 1048576); wrk.headers["Authorization"] = "Bearer %s"\n'

    def contestants(self, app_port):
        return [*super().contestants(app_port), *self.others(app_port)]

    def turn(self, contestant, seconds):
        return self.wrk(contestant, seconds, script=self.SCRIPT % self.setting.token, connections=16)


class Http2(Work):
    what = "HTTP/2 over TLS, 10 connections × 10 streams"

    def contestants(self, app_port):
        find("h2load")
        return [peers.Nginx(self.bench, app_port),
                peers.GatepostTls(self.bench, app_port, self.setting.binary), *self.others(app_port)]

    def turn(self, contestant, seconds):
        before = contestant.process.cpu_seconds()
        begin = time.monotonic()
        output = self.bench.load(find("h2load"), "-t1", "-c10", "-m10", "-D", seconds, "--warm-up-time", "0",
                                 "-H", f"authorization: Bearer {self.setting.token}",
                                 f"https://localhost:{contestant.tls_port}/things")
        cpu = contestant.process.cpu_seconds() - before
        found = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", output)
        done, good, bad = map(int, found.groups())
        statuses = re.search(r"status codes: (\d+) 2xx", output)
        if "Application protocol: h2" not in output or bad or not good or int(statuses[1]) < good:
            raise SystemExit(f"{contestant.title}: {output[-900:]}")
        return {"count": good, "seconds": time.monotonic() - begin, "cpu": cpu}


class Handshakes(Work):
    what, unit = "full TLS 1.3 handshakes", "handshake"
    forgiven = sys.maxsize  # the other end closes each connection

    def contestants(self, app_port):
        return [peers.Nginx(self.bench, app_port),
                peers.GatepostTls(self.bench, app_port, self.setting.binary), *self.others(app_port)]

    def turn(self, contestant, seconds):
        # wrk keeps no sessions: a connection for each request is a full handshake for each.
        return self.wrk(contestant, seconds, "-H", "Connection: close", tls=True)


class WebSocket(Work):
    what, unit = "WebSocket echo, 64 connections, 128 bytes", "message"

    def contestants(self, _):
        (port,) = free_ports(1)
        script = Path(__file__).with_name("websocket.py")
        self.bench.start("the echo server", [sys.executable, script, "serve", port], f"echo{port}", port, load=True)
        return [peers.Nginx(self.bench, port), self.gatepost(port), *self.others(port)]

    def turn(self, contestant, seconds):
        before = contestant.process.cpu_seconds()
        output = self.bench.load(sys.executable, Path(__file__).with_name("websocket.py"), "load", contestant.port,
                                 self.setting.token, 64, seconds)
        cpu = contestant.process.cpu_seconds() - before
        count, elapsed = output.split()
        return {"count": int(count), "seconds": float(elapsed), "cpu": cpu}


class Memory(Work):
    """No turns: what an idle process and an idle connection hold."""

    what, unit = "memory", "KiB"
    CONNECTIONS = 9_000

    def contestants(self, app_port):
        return [peers.Nginx(self.bench, app_port), self.gatepost(app_port)]

    def figures(self, contestant):
        fresh = None
        if isinstance(contestant, peers.Gatepost):
            # As it starts, before anybody has logged in: hashing a password takes its own memory.
            self.bench.stop(contestant.process)
            contestant.process = self.bench.start(
                contestant.title, [contestant.binary, "--config", contestant.directory / "config.toml", "serve"],
                contestant.name, contestant.port)
        time.sleep(0.5)
        fresh = contestant.process.resident_bytes()
        request = f"GET /things HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.setting.token}\r\n\r\n".encode()
        idle = []
        try:
            for _ in range(self.CONNECTIONS):
                connection = socket.create_connection(("127.0.0.1", contestant.port))
                idle.append(connection)
                connection.sendall(request)
                if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"{contestant.title} does not answer connection {len(idle)}")
            time.sleep(0.5)
            held = contestant.process.resident_bytes()
        finally:
            for connection in idle:
                connection.close()
        return {"start MiB": fresh / (1 << 20), "KiB/idle connection": (held - fresh) / 1024 / self.CONNECTIONS}


WORKS = {
    "http1": Http1, "http1-1000": Http1Thousand, "tokens": Tokens, "routes": Routes, "revocations": Revocations,
    "download": Download, "upload": Upload, "http2": Http2, "handshakes": Handshakes, "websocket": WebSocket,
    "memory": Memory,
}
