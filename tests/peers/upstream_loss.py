"""An app that is killed and comes back under load: its requests get 502, none hangs, and then all is well."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter

from support import Checks, Gateway, free_ports, wait_for_port

APP = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"""
CONNECTIONS = 32
# Longer than this is a hang: nothing here has to wait for anything.
PATIENCE = 10


def start_app(port):
    process = subprocess.Popen([sys.executable, "-c", APP, str(port)], stderr=subprocess.DEVNULL)
    wait_for_port(port, process)
    return process


async def client(port, token, stop, statuses, slowest):
    reader = writer = None
    request = f"GET /things HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    while not stop.is_set():
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begin = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(length)
            statuses[int(head[9:12])] += 1
            if b"connection: close" in head.lower():
                writer.close()
                writer = None
        except TimeoutError:
            statuses["hang"] += 1
            return
        except (asyncio.IncompleteReadError, ConnectionError):
            statuses["broken"] += 1
            writer = None
        slowest[0] = max(slowest[0], time.monotonic() - begin)


async def main(checks):
    (port,) = free_ports(1)
    app = start_app(port)
    try:
        with Gateway(f"http://127.0.0.1:{port}") as gateway:
            token = gateway.login()["access_token"]
            for deaths in range(3):
                for phase, allowed in (("up", {200}), ("down", {200, 502}), ("back", {200, 502}), ("up again", {200})):
                    if phase == "back":
                        app = start_app(port)
                    statuses, slowest, stop = Counter(), [0.0], asyncio.Event()
                    clients = [asyncio.create_task(client(gateway.port, token, stop, statuses, slowest)) for _ in range(CONNECTIONS)]
                    await asyncio.sleep(0.3)
                    if phase == "down":
                        app.send_signal(signal.SIGKILL)
                        app.wait()
                    await asyncio.sleep(0.7)
                    stop.set()
                    await asyncio.gather(*clients)
                    checks.check(set(statuses) <= allowed, f"death {deaths}, {phase}: {dict(statuses)}")
                    checks.check(statuses.total() > 100, f"death {deaths}, {phase}: only {statuses.total()} answers")
                    if phase == "down":
                        checks.check(statuses[502] > 0, f"death {deaths}: nobody noticed: {dict(statuses)}")
    finally:
        app.kill()
        app.wait()


checks = Checks("upstream loss")
asyncio.run(main(checks))
checks.end()
