"""Everything at once, for ten minutes: nothing fails, and memory stays flat.

    SOAK_SECONDS=600      how long; shorter runs show less and fail on less
"""

import asyncio
import json
import os
import time

from support import PASSWORD, Checks, Gateway, free_ports

SECONDS = float(os.environ.get("SOAK_SECONDS", 600))
# Resident memory may grow by this between the first third and the end.
GROWTH = 1.10
GROWTH_KIB = 6 * 1024


async def app(port):
    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                while length:
                    length -= len(await reader.read(min(length, 65536)))
                if head.startswith(b"GET /events"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for number in range(20):
                        data = f"data: {number}\n\n".encode()
                        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                        await writer.drain()
                        await asyncio.sleep(0.1)
                    writer.write(b"0\r\n\r\n")
                elif head.startswith(b"GET /large"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + b"x" * 1048576)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    return server


class Client:
    """One keep-alive connection."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def call(self, method, path, token=None, body=None, expect=200):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if b"transfer-encoding: chunked" in head:
                answer = b""
                while size := int((await self.reader.readline()).strip(), 16):
                    answer += await self.reader.readexactly(size)
                    await self.reader.readline()
                await self.reader.readline()
            else:
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                answer = await self.reader.readexactly(length)
        status = int(head[9:12])
        if status != expect:
            raise AssertionError(f"{method} {path} answered {status}: {answer[:200]!r}")
        if b"connection: close" in head:
            self.close()
        return answer

    def close(self):
        if self.writer:
            self.writer.close()
        self.writer = None


async def reads(port, token, until, counts):
    client = Client(port)
    while time.monotonic() < until:
        await client.call("GET", "/things", token)
        counts["reads"] += 1


async def bodies(port, token, until, counts):
    client = Client(port)
    while time.monotonic() < until:
        await client.call("POST", "/upload", token, b"x" * 300_000)
        await client.call("GET", "/large", token)
        counts["bodies"] += 1
        await asyncio.sleep(0.02)


async def events(port, token, until, counts):
    client = Client(port)
    while time.monotonic() < until:
        answer = await client.call("GET", "/events", token)
        assert answer.count(b"data:") == 20, answer
        counts["event streams"] += 1


async def lives(port, number, until, counts):
    """Register once; then log in, use it, refresh, log out, and find the token refused."""
    client, account = Client(port), json.dumps({"username": f"user{number}", "password": PASSWORD}).encode()
    await client.call("POST", "/auth/register", body=account, expect=201)
    while time.monotonic() < until:
        pair = json.loads(await client.call("POST", "/auth/login", body=account))
        body = json.dumps({"refresh_token": pair["refresh_token"]}).encode()
        pair = json.loads(await client.call("POST", "/auth/refresh", body=body))
        await client.call("GET", "/things", pair["access_token"])
        await client.call("POST", "/auth/logout", pair["access_token"], b"")
        await client.call("GET", "/things", pair["access_token"], expect=401)
        counts["lives"] += 1
        await asyncio.sleep(0.01)


async def short_connections(port, token, until, counts):
    while time.monotonic() < until:
        client = Client(port)
        await client.call("GET", "/things", token)
        await client.call("GET", "/things", expect=401)
        client.close()
        counts["short connections"] += 1


async def samples(gateway, until, taken):
    while time.monotonic() < until:
        await asyncio.sleep(max(SECONDS / 60, 0.2))
        taken.append(gateway.resident_kib())


async def main(checks):
    (port,) = free_ports(1)
    server = await app(port)
    more = '[tokens]\naccess_ttl = "2h"\n'
    gateway = Gateway(f"http://127.0.0.1:{port}", server="workers = 2", more=more)
    with gateway:
        token = (await asyncio.to_thread(gateway.login))["access_token"]
        until, taken = time.monotonic() + SECONDS, []
        counts = dict.fromkeys(("reads", "bodies", "event streams", "lives", "short connections"), 0)
        work = [reads(gateway.port, token, until, counts) for _ in range(8)]
        work += [bodies(gateway.port, token, until, counts) for _ in range(2)]
        work += [events(gateway.port, token, until, counts) for _ in range(16)]
        work += [lives(gateway.port, number, until, counts) for number in range(4)]
        work += [short_connections(gateway.port, token, until, counts) for _ in range(2)]
        outcomes = await asyncio.gather(*work, samples(gateway, until, taken), return_exceptions=True)
        for outcome in outcomes:
            checks.check(not isinstance(outcome, BaseException), f"a client ended: {outcome!r}")
        for kind, count in counts.items():
            checks.check(count > 0, f"no {kind}")
        third = taken[: max(len(taken) // 3, 1)]
        allowed = max(max(third) * GROWTH, max(third) + GROWTH_KIB)
        print(f"{SECONDS:.0f} s: {counts}; resident KiB: first third at most {max(third)}, at the end {taken[-1]}, most {max(taken)}")
        checks.check(taken[-1] <= allowed, f"memory grew from {max(third)} KiB to {taken[-1]} KiB")
        checks.check(gateway.process.poll() is None, "it still runs")
    server.close()


checks = Checks("soak")
asyncio.run(main(checks))
checks.end()
