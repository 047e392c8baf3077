"""A WebSocket echo server, and clients that keep one message each on its way (RFC 6455)."""

import asyncio
import base64
import hashlib
import sys
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SIZE = 128


async def echo(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    key = next(line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    try:
        while True:
            # One masked frame of a known size, with a mask of zeros: it goes back without one.
            frame = await reader.readexactly(4 + 4 + SIZE)
            writer.write(frame[:1] + bytes([SIZE if SIZE < 126 else 126]) + frame[2:4] + frame[8:])
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def client(port, token, until, counts):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}\r\n"
                 f"Authorization: Bearer {token}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise SystemExit(f"no WebSocket: {head[:200]!r}")
    frame = bytes([0x82, 0x80 | 126]) + SIZE.to_bytes(2, "big") + bytes(4) + b"x" * SIZE
    answer = bytes([0x82, 126]) + SIZE.to_bytes(2, "big") + b"x" * SIZE
    while time.monotonic() < until:
        writer.write(frame)
        if await reader.readexactly(len(answer)) != answer:
            raise SystemExit("another message came back")
        counts[0] += 1
    writer.close()


async def load(port, token, connections, seconds):
    counts, begin = [0], time.monotonic()
    await asyncio.gather(*(client(port, token, begin + seconds, counts) for _ in range(connections)))
    print(counts[0], time.monotonic() - begin)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(load(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
