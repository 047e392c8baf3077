"""Real gRPC (grpcio) through the gateway, client and server: over clear text and over TLS.

Calls of all four kinds, metadata and trailers, deadlines, cancellation, and what a client is told when
the gateway refuses. Generic handlers, so no protoc.
"""

import os
import threading
import time
from concurrent import futures

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
import grpc  # noqa: E402

from support import Checks, Gateway, certificate, free_ports  # noqa: E402

SERVICE = "/peers.Echo/"
PATIENCE = 20
cancelled = threading.Event()


def unary(request, context):
    if request == b"late":
        time.sleep(3)  # before the head, which is what the route's timeout is about
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"), ("x-binary-bin", b"\0\xff")))
    seen = dict(context.invocation_metadata())
    if request == b"who":
        return "|".join([seen.get("x-auth-user", ""), seen.get("x-asked", ""), seen.get("authorization", "")]).encode()
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "n\u00f6 \u2713")
    if request == b"sleep":
        context.add_callback(cancelled.set)
        cancelled.wait(PATIENCE)
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield b"%d" % number * 1000


def client_stream(requests, context):
    return b"%d" % sum(len(one) for one in requests)


def bidi(requests, context):
    for one in requests:
        yield one


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rpartition("/")[2]
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        }.get(name)


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def calls(checks, where, channel, bearer):
    with_token = (("authorization", f"Bearer {bearer}"), ("x-asked", "yes"))
    one = channel.unary_unary(SERVICE + "Unary")
    check = lambda good, what: checks.check(good, f"{where}: {what}")  # noqa: E731

    answer, call = one.with_call(b"hello", metadata=with_token, timeout=PATIENCE)
    check(answer == b"hello", f"a unary call: {answer!r}")
    check(("x-initial", "1") in call.initial_metadata(), "initial metadata")
    trailing = {name: value for name, value in call.trailing_metadata()}
    check(trailing.get("x-trailing") == "2" and trailing.get("x-binary-bin") == b"\0\xff", f"trailing metadata {trailing}")
    who = one(b"who", metadata=with_token, timeout=PATIENCE)
    check(who == b"alice|yes|", f"the application sees who asks, and no token: {who!r}")
    large = os.urandom(3 << 20)
    check(one(large, metadata=with_token, timeout=PATIENCE) == large, "three megabytes and back")
    check(code_of(lambda: one(b"fail", metadata=with_token, timeout=PATIENCE))
          == (grpc.StatusCode.FAILED_PRECONDITION, "n\u00f6 \u2713"), "the application's own status and message")

    got = list(channel.unary_stream(SERVICE + "ServerStream")(b"500", metadata=with_token, timeout=PATIENCE))
    check([len(piece) for piece in got] == [len(b"%d" % n) * 1000 for n in range(500)], "a server's stream")
    total = channel.stream_unary(SERVICE + "ClientStream")((b"x" * 10_000 for _ in range(200)), metadata=with_token, timeout=PATIENCE)
    check(total == b"2000000", f"a client's stream: {total!r}")

    # Each message is sent when the answer to the one before has come: nothing may be held back.
    turn = threading.Semaphore(1)

    def messages():
        for number in range(50):
            if not turn.acquire(timeout=PATIENCE):
                return
            yield b"%d" % number

    got = []
    for piece in channel.stream_stream(SERVICE + "Bidi")(messages(), metadata=with_token, timeout=PATIENCE):
        got.append(piece)
        turn.release()
    check(got == [b"%d" % n for n in range(50)], f"a conversation: {len(got)} answers")

    at_once = [one.future(b"%d" % n, metadata=with_token, timeout=PATIENCE) for n in range(300)]
    check(all(call.result() == b"%d" % n for n, call in enumerate(at_once)), "three hundred calls at once")

    cancelled.clear()
    check(code_of(lambda: one(b"sleep", metadata=with_token, timeout=0.5))[0] == grpc.StatusCode.DEADLINE_EXCEEDED, "a client's deadline")
    check(cancelled.wait(PATIENCE / 2), "the application is told that nobody waits any more")

    for what, path, metadata, expected, code in [
        ("no token", "/peers.Echo/Unary", (), grpc.StatusCode.UNAUTHENTICATED, "missing_token"),
        ("a bad token", "/peers.Echo/Unary", (("authorization", "Bearer x.y.z"),), grpc.StatusCode.UNAUTHENTICATED, "invalid_token"),
        ("a role that is missing", "/peers.Admin/Unary", with_token, grpc.StatusCode.PERMISSION_DENIED, "forbidden"),
        ("a path without a route", "/peers.None/Unary", with_token, grpc.StatusCode.UNIMPLEMENTED, "no_route"),
        ("an application that is gone", "/peers.Gone/Unary", (), grpc.StatusCode.UNAVAILABLE, "upstream_unreachable"),
        ("an application that is late", "/peers.Late/Unary", (), grpc.StatusCode.DEADLINE_EXCEEDED, "upstream_timeout"),
    ]:
        status, message = code_of(lambda: channel.unary_unary(path)(b"late", metadata=metadata, timeout=PATIENCE))
        check(status == expected and (message or "").startswith(f"{code}: "), f"{what}: {status} {message}")


ROUTES = """
[[upstream]]
name = "gone"
servers = ["h2c://127.0.0.1:{gone}"]
[[route]]
path = "/peers.Echo/**"
upstream = "app"
[[route]]
path = "/peers.Admin/**"
upstream = "app"
roles = ["admin"]
[[route]]
path = "/peers.Late/**"
upstream = "app"
access = "public"
timeout = "1s"
[[route]]
path = "/peers.Gone/**"
upstream = "gone"
access = "public"
"""


def main():
    checks = Checks("gRPC")
    app_port, gone = free_ports(2)
    server = grpc.server(futures.ThreadPoolExecutor(64), [Handler()])
    server.add_insecure_port(f"127.0.0.1:{app_port}")
    server.start()
    options = dict(routes=ROUTES.format(gone=gone), more='[roles]\nuser = []\nadmin = []\n')

    with Gateway(f"h2c://127.0.0.1:{app_port}", server="h2c = true", **options) as gateway:
        token = gateway.login()["access_token"]
        with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            calls(checks, "h2c", channel, token)

    gateway = Gateway(f"h2c://127.0.0.1:{app_port}", scheme="https", **options)
    cert, key = certificate(gateway.directory, "localhost")
    text = gateway.config.read_text()
    gateway.write(text.replace("[admin]", f'[server.tls]\ncertificates = [{{ cert = "{cert}", key = "{key}" }}]\n[admin]', 1))
    with gateway:
        token = gateway.login()["access_token"]
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"localhost:{gateway.port}", credentials) as channel:
            calls(checks, "TLS", channel, token)
    server.stop(0)
    checks.end()


if __name__ == "__main__":
    main()
