"""A thousand clients that send or read as slowly as they can, beside honest ones.

The slow ones are ended by their limits and hold no memory; 99 of 100 honest requests are answered
within twice the time that they take when it is quiet.

    FLOOR_MS=20     what counts as no difference; more on a machine that does other things meanwhile
"""

import asyncio
import multiprocessing
import os
import resource
import socket
import statistics
import time

from support import Checks, Gateway, free_ports

LIMIT = 3  # seconds, for each of the limits below
KINDS = ("head", "body", "read", "idle", "trickle")
SLOW = 1000
LIMITS = f"""
[server.limits]
header_timeout = "{LIMIT}s"
idle_timeout = "{LIMIT}s"
body_idle = "{LIMIT}s"
write_stall = "{LIMIT}s"
"""
# Below this, a difference is the scheduler's.
FLOOR = float(os.environ.get("FLOOR_MS", 20)) / 1000


async def app(port, ready):
    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 16 << 20 if b"/large" in head.split(b"\r\n")[0] else 5
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                for _ in range(length // 65536):
                    writer.write(b"x" * 65536)
                    await writer.drain()
                    # What the kernel takes at once is no wait: the others have their turn all the same.
                    await asyncio.sleep(0)
                writer.write(b"x" * (length % 65536))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    # With the protocol by its name: only then asyncio turns Nagle's algorithm off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    # Two hundred full buffers of the app's own would bring the whole machine to its limit for TCP.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131072)
    server = await asyncio.start_server(serve, sock=listener, backlog=2048)
    ready.set()
    await server.serve_forever()


async def connect(port):
    """A connection whose own kernel buffers little: what is not read has to wait in the gateway."""
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    tcp.setblocking(False)
    await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=tcp, limit=1024)


async def slow(kind, port, token, ended):
    reader, writer = await connect(port)
    credential = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n"
    begin = time.monotonic()
    try:
        if kind == "head":
            for byte in f"GET / HTTP/1.1\r\n{credential}\r\n".encode():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        elif kind == "idle":
            await reader.read()
        elif kind == "trickle":
            writer.write(f"GET /things HTTP/1.1\r\n{credential}X-A: ".encode())
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.5)
        elif kind == "body":
            writer.write(f"POST /things HTTP/1.1\r\n{credential}Content-Length: 100000\r\n\r\nx".encode())
            await reader.read()
        elif kind == "read":
            writer.write(f"GET /large HTTP/1.1\r\n{credential}\r\n".encode())
            # Nothing is read any more: the kernel's buffers fill, and then it stalls.
            writer.transport.pause_reading()
            while not writer.transport.is_closing():
                await asyncio.sleep(0.5)
                # The end shows only to who reads or writes.
                writer.write(b"G")
                await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    ended.append((kind, time.monotonic() - begin))
    writer.close()


def attack(port, token, results):
    async def run():
        ended = []
        tasks = [asyncio.create_task(slow(KINDS[n % len(KINDS)], port, token, ended)) for n in range(SLOW)]
        await asyncio.wait(tasks, timeout=LIMIT * 5 + 10)
        for task in tasks:
            task.cancel()
        return ended

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    results.put(asyncio.run(run()))


def serve_app(port, ready):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(app(port, ready))


async def honest(port, token, seconds):
    """Latencies of eight clients that wait a little between their requests."""
    latencies, until = [], time.monotonic() + seconds
    request = f"GET /things HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            begin = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(5)
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"an honest request got {head!r}")
            latencies.append(time.monotonic() - begin)
            await asyncio.sleep(0.005)
        writer.close()

    await asyncio.gather(*(client() for _ in range(8)))
    return latencies


def percentile(values, share):
    return statistics.quantiles(values, n=1000)[int(share * 1000) - 1]


def main():
    checks = Checks("slow clients")
    # Two apps, so that it is the gateway that the honest requests share with the slow ones.
    ports = free_ports(2)
    upstreams = []
    for port in ports:
        ready = multiprocessing.Event()
        upstreams.append(multiprocessing.Process(target=serve_app, args=(port, ready), daemon=True))
        upstreams[-1].start()
        if not ready.wait(30):
            raise SystemExit("the app does not start")
    routes = f"""
[[upstream]]
name = "downloads"
servers = ["http://127.0.0.1:{ports[1]}"]
[[route]]
path = "/**"
upstream = "app"
[[route]]
path = "/large"
upstream = "downloads"
"""
    with Gateway(f"http://127.0.0.1:{ports[0]}", server="workers = 1", more=LIMITS, routes=routes) as gateway:
        token = gateway.login()["access_token"]
        quiet = asyncio.run(honest(gateway.port, token, 3))
        before = gateway.resident_kib()
        results = multiprocessing.Queue()
        attacker = multiprocessing.Process(target=attack, args=(gateway.port, token, results), daemon=True)
        attacker.start()
        time.sleep(0.5)
        busy = asyncio.run(honest(gateway.port, token, LIMIT - 1))
        during = gateway.resident_kib()
        ended = results.get(timeout=120)
        attacker.join(10)

        bound = max(2 * percentile(quiet, 0.99), FLOOR)
        late = sum(latency > bound for latency in busy) / len(busy)
        print(f"quiet p50 {statistics.median(quiet) * 1e3:.1f} ms, p99 {percentile(quiet, 0.99) * 1e3:.1f} ms; attacked "
              f"p50 {statistics.median(busy) * 1e3:.1f} ms, p99 {percentile(busy, 0.99) * 1e3:.1f} ms; {len(busy)} requests")
        print(f"memory {before} KiB, with {SLOW} slow connections {during} KiB")
        checks.check(late <= 0.01, f"{late:.1%} of the honest requests took longer than {bound * 1e3:.1f} ms")
        checks.check(during - before < SLOW * 96, f"{SLOW} slow connections hold {during - before} KiB")
        for kind in KINDS:
            times = [seconds for ended_kind, seconds in ended if ended_kind == kind]
            checks.check(len(times) == SLOW // len(KINDS), f"{kind}: only {len(times)} of {SLOW // len(KINDS)} were ended")
            checks.check(not times or max(times) < LIMIT * 3 + 5, f"{kind}: the last was ended after {max(times or [0]):.1f} s")
        checks.check(gateway.call("/things", token=token)[0] == 200, "afterwards it is served as before")
    for upstream in upstreams:
        upstream.terminate()
        upstream.join(10)
    checks.end()


if __name__ == "__main__":
    main()
