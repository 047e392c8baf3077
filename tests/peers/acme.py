"""Certificates from a real ACME server: Pebble, which Debian packages, with its DNS server.

Both challenges from nothing to a verified chain, a restart that orders nothing, renewal before the end,
and what happens while the authority cannot be reached.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support import Checks, Gateway, free_ports, wait_for_port

DOMAINS = ["app.example.test", "www.example.test"]
checks = Checks("acme")
# What to show when something never comes.
logs = []


def wait_until(what, ask, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    for log in logs:
        print(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}", flush=True)
    raise SystemExit(f"gave up waiting until {what}")


@contextmanager
def process(*command, log, env=None):
    with open(log, "ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(20)


class Authority:
    """A Pebble that looks for HTTP and TLS where a gateway listens."""

    def __init__(self, folder, http_port, tls_port, lifetime):
        self.folder = Path(folder)
        self.port, self.management, self.dns, self.dns_management = free_ports(4)
        # One that says that it is an authority is not accepted as a server's.
        self.cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3",
             "-subj", "/CN=pebble", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", str(key), "-out", str(self.cert)], check=True, capture_output=True)
        self.directory = f"https://localhost:{self.port}/dir"
        self.config = self.folder / "pebble.json"
        self.config.write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.cert), "privateKey": str(key), "httpPort": http_port, "tlsPort": tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": False,
            "certificateValidityPeriod": lifetime}}))

    @contextmanager
    def running(self):
        with ExitStack() as stack:
            names = stack.enter_context(process(
                "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{self.dns}",
                "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{self.dns_management}",
                log=self.folder / "dns.log"))
            wait_for_port(self.dns_management, names)
            pebble = stack.enter_context(process(
                "pebble", "-config", str(self.config), "-dnsserver", f"127.0.0.1:{self.dns}", log=self.folder / "pebble.log",
                # Some good nonces are refused, as real authorities do; three in a row would cost an order, which waits.
                env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "2", "PEBBLE_AUTHZREUSE": "0"}))
            wait_for_port(self.management, pebble)
            wait_for_port(self.port, pebble)
            yield self

    def root(self):
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(f"https://localhost:{self.management}/roots/0", context=context) as answer:
            return answer.read().decode()

    def log(self):
        return (self.folder / "pebble.log").read_text()


def shake(port, name, root=None):
    """The serial of the certificate for a name, its chain verified where a root is given; None when refused."""
    context = ssl.create_default_context(cadata=root) if root else ssl._create_unverified_context()
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as tcp, context.wrap_socket(tcp, server_hostname=name) as tls:
            der = tls.getpeercert(binary_form=True)
    except (ssl.SSLError, ConnectionError):
        return None
    pem = ssl.DER_cert_to_PEM_cert(der)
    shown = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=pem, capture_output=True, text=True, check=True)
    return shown.stdout.strip()


def count(gateway, name):
    found = re.search(rf"^{re.escape(name)} ([0-9.]+)$", gateway.metrics(), re.MULTILINE)
    return float(found.group(1)) if found else None


def try_challenge(kind, lifetime=3600):
    """From nothing to a chain, then a restart."""
    with tempfile.TemporaryDirectory(prefix="gatepost-acme.") as folder:
        http, tls = free_ports(2)
        authority = Authority(folder, http, tls, lifetime)
        redirect = f'redirect_http = ["127.0.0.1:{http}"]' if kind == "http-01" else ""
        server = f"""{redirect}
[server.tls.acme]
domains = {json.dumps(DOMAINS)}
email = "admin@example.test"
directory = "{authority.directory}"
ca = "{authority.cert}"
agree_to_terms = true
"""
        gateway = Gateway("http://127.0.0.1:9", port=tls, server=server, scheme="https")
        logs[:] = [gateway.directory / "log", authority.folder / "pebble.log"]
        with gateway:
            checks.check(shake(tls, DOMAINS[0]) is None, f"{kind}: a handshake fails while there is no certificate")
            failed = 'gatepost_acme_orders_total{result="failed"}'
            wait_until("the missing authority is counted", lambda: count(gateway, failed))
            checks.check("no certificate was issued" in gateway.tail(), f"{kind}: the log says that there is none")
            gateway.stop()
            with authority.running():
                gateway.start()
                root = authority.root()
                first = wait_until("a certificate is served", lambda: shake(tls, DOMAINS[0], root))
                for name in DOMAINS:
                    checks.check(shake(tls, name, root) == first, f"{kind}: {name} has a chain to the authority's root")
                status, _, _ = gateway.call("/public/x")
                checks.check(status == 502, f"{kind}: requests come through ({status})")
                checks.check(count(gateway, 'gatepost_acme_orders_total{result="ok"}') == 1, f"{kind}: one order")
                expiry = count(gateway, f'gatepost_certificate_expiry_seconds{{name="{DOMAINS[0]}"}}')
                checks.check(expiry and abs(expiry - time.time() - lifetime) < 120, f"{kind}: the end is a metric ({expiry})")
                asked = count(gateway, 'gatepost_redirects_total{result="challenge"}')
                checks.check((asked > 0) == (kind == "http-01"), f"{kind}: the authority has looked there ({asked} times)")
                log = authority.log()
                checks.check(kind.upper().split("-")[0] in log.upper() and "badly" not in log, f"{kind}: Pebble has a log")
                text = (gateway.directory / "log").read_text()
                checks.check("PRIVATE KEY" not in text and "key_pkcs8" not in text, f"{kind}: no key in the log")
                if lifetime < 100:
                    second = wait_until("it is renewed", lambda: (lambda it: it and it != first and it)(shake(tls, DOMAINS[0], root)))
                    checks.check(second != first, f"{kind}: renewed before its end")
                    checks.check(shake(tls, DOMAINS[1], root) == second, f"{kind}: the renewed one is for all names")
                    return
                gateway.stop()
                gateway.start()
                checks.check(shake(tls, DOMAINS[1], root) == first, f"{kind}: the same one is served after a restart, at once")
                checks.check(count(gateway, 'gatepost_acme_orders_total{result="ok"}') == 0, f"{kind}: a restart orders nothing")
            gateway.stop()
            gateway.start()
            checks.check(shake(tls, DOMAINS[0], root) == first, f"{kind}: and without the authority")


try_challenge("http-01")
try_challenge("tls-alpn-01")
try_challenge("tls-alpn-01", lifetime=30)
checks.end()
