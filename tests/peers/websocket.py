"""The Autobahn WebSocket suite against echo servers, directly and through the gateway.

Both runs have to end alike, case by case; nothing is excluded. The suite's own echo server takes all
cases, and the library `websockets` those about compression, which the other one does not speak. The suite
is for Python 2.7: what autobahn.txt lists is installed with pip into AUTOBAHN (default: gatepost-autobahn in
the user's cache, kept for the next run) by PYTHON27 (default: python2.7, or one of pyenv's).

    CASES=*                      which cases run against the suite's own server: a minute
    COMPRESSION=12.*,13.*        and which against the other one, with compression: a quarter of an hour

`OK` and `NON-STRICT` are both passes. Which of them an octet-wise case gets depends on whether a server
that drops the connection had its last echo out before, so on how many octets came in one read: it differs
between two direct runs as well. Such cases are counted on a line of their own.
"""

import asyncio
import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from support import Checks, Gateway, free_ports, wait_for_port

PINNED = Path(__file__).with_name("autobahn.txt")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
SUITE = Path(os.environ.get("AUTOBAHN") or CACHE / "gatepost-autobahn")
SHOWN = 20


def python27():
    known = [os.environ.get("PYTHON27", "python2.7"), *glob.glob(os.path.expanduser("~/.pyenv/versions/2.7.*/bin/python"))]
    for program in known:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([program, "-c", "import sys; assert sys.version_info[:2] == (2, 7)"], check=True, capture_output=True)
            return program
    raise SystemExit("Python 2.7 is not installed (PYTHON27)")


def install(python):
    """Once for each version of the list, which lies beside what was installed from it."""
    stamp = SUITE / PINNED.name
    if stamp.exists() and stamp.read_bytes() == PINNED.read_bytes():
        return
    print(f"installing the suite into {SUITE}", flush=True)
    if SUITE.exists() and not stamp.exists():
        raise SystemExit(f"{SUITE} holds something else: remove it, or name another folder with AUTOBAHN")
    SUITE.parent.mkdir(parents=True, exist_ok=True)
    # Its place is taken when it is whole.
    new = Path(tempfile.mkdtemp(prefix=SUITE.name + ".", dir=SUITE.parent))
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(new), "-r", str(PINNED)],
        check=True, stderr=subprocess.DEVNULL)
    # A namespace package outside of site-packages.
    (new / "zope/__init__.py").touch()
    shutil.copy(PINNED, new)
    shutil.rmtree(SUITE, ignore_errors=True)
    new.rename(SUITE)


def wstest(python, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SUITE)}
    command = [python, "-W", "ignore", str(SUITE / "bin/wstest"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


async def echo(port):
    """Says back what it is told, text as text and bytes as bytes."""
    from websockets.asyncio.server import serve

    async def say_back(socket):
        async for message in socket:
            await socket.send(message)

    async with serve(say_back, "127.0.0.1", port, max_size=None, ping_interval=None) as server:
        await server.serve_forever()


def fuzz(python, directory, cases, servers):
    """What the suite says of each agent: behaviour and manner of closing, by case."""
    specification = {"outdir": "reports", "servers": servers, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    (directory / "spec.json").write_text(json.dumps(specification))
    suite = wstest(python, "-m", "fuzzingclient", "-s", "spec.json", cwd=directory)
    try:
        status = suite.wait(3600)
    finally:
        suite.kill()
        suite.wait()
    if status:
        raise SystemExit(f"the suite ended with {status}")
    index = json.loads((directory / "reports/index.json").read_text())
    return {agent: {case: (it["behavior"], it["behaviorClose"]) for case, it in told.items()} for agent, told in index.items()}


def compare(checks, python, port, cases):
    """Runs these cases both ways."""
    # The suite's server refuses a Host with another port than its own.
    routes = 'host = "upstream"\n[[route]]\npath = "/**"\naccess = "public"\n'
    with tempfile.TemporaryDirectory() as directory, Gateway(f"http://127.0.0.1:{port}", routes=routes) as gateway:
        servers = [
            {"agent": "direct", "url": f"ws://127.0.0.1:{port}"},
            {"agent": "gatepost", "url": f"ws://127.0.0.1:{gateway.port}"},
        ]
        told = fuzz(python, Path(directory), cases, servers)
        open_tunnels = [line for line in gateway.metrics().splitlines() if line.startswith("gatepost_tunnels ")]
        checks.check(open_tunnels == ["gatepost_tunnels 0"], f"every tunnel has ended: {open_tunnels}")
    direct, through = told["direct"], told["gatepost"]
    passes = [("OK", "OK"), ("NON-STRICT", "OK")]
    unlike = [case for case in direct if through.get(case) != direct[case]]
    by_timing = [case for case in unlike if direct[case] in passes and through.get(case) in passes]
    different = [case for case in unlike if case not in by_timing]
    if by_timing:
        print(f"OK one way and NON-STRICT the other: {', '.join(sorted(by_timing))}")
    checks.passed += len(direct) - len(different)
    for case in different[:SHOWN]:
        checks.check(False, f"case {case}: {direct[case]} directly, {through.get(case)} through the gateway")
    checks.failed += len(different[SHOWN:])
    for agent, told_of in told.items():
        counts = Counter(behaviour for behaviour, _ in told_of.values())
        print(f"{agent}: {len(told_of)} cases, " + ", ".join(f"{count} {what}" for what, count in counts.most_common()), flush=True)


def main():
    python = python27()
    install(python)
    checks = Checks("Autobahn")
    [first, second] = free_ports(2)
    runs = [
        (first, wstest(python, "-m", "echoserver", "-w", f"ws://127.0.0.1:{first}"), os.environ.get("CASES", "*")),
        (second, subprocess.Popen([sys.executable, __file__, "echo", str(second)], stderr=subprocess.DEVNULL),
         os.environ.get("COMPRESSION", "12.*,13.*")),
    ]
    try:
        for port, server, cases in runs:
            wait_for_port(port, server)
            compare(checks, python, port, cases.split(","))
    finally:
        for _, server, _ in runs:
            server.kill()
            server.wait()
    checks.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["echo"]:
        asyncio.run(echo(int(sys.argv[2])))
    else:
        main()
