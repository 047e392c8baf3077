"""The gateway and what people use instead, each configured for the same work with one worker.

All of them check the same HS256 token where they check any. nginx checks nothing: it is the plain
proxy that would be there anyway.
"""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import uuid

from .machine import find, free_ports

SECRET = "a-secret-for-benchmarks-of-more-than-32-bytes"
ACCOUNT = {"username": "alice", "password": "correct horse battery"}
BODY = '{"message":"hello from the app"}'


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def curl(*arguments, check=True):
    run = subprocess.run(["curl", "-sSk", "-m", "20", *arguments], capture_output=True, text=True)
    if check and run.returncode != 0:
        raise SystemExit(f"curl {' '.join(arguments)}: {run.stderr}")
    return run.stdout


def certificate(directory):
    """A self-signed P-256 certificate, the same one for everybody."""
    cert, key, both = (directory / name for name in ("cert.pem", "key.pem", "both.pem"))
    if not cert.exists():
        subprocess.run(
            [find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
        key.chmod(0o600)
        both.write_text(cert.read_text() + key.read_text())
        both.chmod(0o600)
    return cert, key, both


class Peer:
    """One proxy in front of the app: `port` speaks HTTP/1.1, `tls_port` HTTP/1.1 and HTTP/2 over TLS."""

    name = title = None
    judges = True

    def __init__(self, bench, app_port):
        self.bench, self.app_port = bench, app_port
        self.port, self.tls_port = free_ports(2)
        self.cert, self.key, self.both = certificate(bench.directory)
        self.directory = bench.directory / self.name
        self.directory.mkdir(exist_ok=True)
        self.process = None

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, *command, environment=None):
        self.process = self.bench.start(self.title, command, self.name, self.port, environment=environment)

    def stop(self):
        if self.process:
            self.bench.stop(self.process)
            self.process = None

    def version(self):
        return ""


class Nginx(Peer):
    name, title, judges = "nginx", "nginx, plain proxy", False

    def start(self):
        scratch = self.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""
        self.run(find("nginx"), "-p", self.directory, "-e", self.directory / "error.log", "-c", self.write("nginx.conf", f"""{user}
daemon off; worker_processes 1; pid {self.directory}/pid; error_log {self.directory}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
    client_max_body_size 0;
    client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/f;
    uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;
    ssl_certificate {self.cert}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.2 TLSv1.3;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{ server 127.0.0.1:{self.app_port}; keepalive 256; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096; listen 127.0.0.1:{self.tls_port} ssl http2 backlog=4096;
        http2_max_concurrent_streams 128;
        location / {{
            proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $http_host;
            proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
        }}
    }}
}}
"""))

    def version(self):
        return subprocess.run([find("nginx"), "-v"], capture_output=True, text=True).stderr.split(": ")[-1].strip()


class Haproxy(Peer):
    name, title = "haproxy", "HAProxy, jwt_verify"

    def start(self):
        self.run(find("haproxy"), "-db", "-f", self.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend web
    bind 127.0.0.1:{self.port}
    bind 127.0.0.1:{self.tls_port} ssl crt {self.both} alpn h2,http/1.1
    http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
    http-request deny deny_status 401 unless {{ var(txn.alg) -m str HS256 }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(txn.alg,"{SECRET}") 1 }}
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
    http-request set-header X-Auth-User %[var(txn.token),jwt_payload_query('$.username')]
    default_backend app
backend app
    http-reuse always
    server app 127.0.0.1:{self.app_port}
"""))

    def version(self):
        return subprocess.run([find("haproxy"), "-v"], capture_output=True, text=True).stdout.split(" - ")[0]


class Caddy(Peer):
    name, title, judges = "caddy", "Caddy, plain proxy", False

    def start(self):
        self.run(find("caddy"), "run", "--adapter", "caddyfile", "--config", self.write("Caddyfile", f"""
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
http://127.0.0.1:{self.port} {{
    reverse_proxy 127.0.0.1:{self.app_port}
}}
https://127.0.0.1:{self.tls_port}, https://localhost:{self.tls_port} {{
    tls {self.cert} {self.key}
    reverse_proxy 127.0.0.1:{self.app_port}
}}
"""), environment={"GOMAXPROCS": "1", "XDG_DATA_HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory)})

    def version(self):
        return "Caddy " + subprocess.run([find("caddy"), "version"], capture_output=True, text=True).stdout.split()[0]


class Envoy(Peer):
    name, title = "envoy", "Envoy, jwt_authn"

    def start(self):
        jwks = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": b64(SECRET.encode())}]})
        filters = lambda: {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "web", "codec_type": "AUTO",
                "upgrade_configs": [{"upgrade_type": "websocket"}],
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}]},
                "http_filters": [
                    {"name": "envoy.filters.http.jwt_authn", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                        "providers": {"gatepost": {
                            "issuer": "gatepost", "audiences": ["app"], "forward": True,
                            "local_jwks": {"inline_string": jwks},
                            "claim_to_headers": [{"header_name": "x-auth-user", "claim_name": "username"}],
                            "jwt_cache_config": {"jwt_cache_size": 1000}}},
                        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "gatepost"}}]}},
                    {"name": "envoy.filters.http.router", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
                ]}}
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        tls = {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [
                {"certificate_chain": {"filename": str(self.cert)}, "private_key": {"filename": str(self.key)}}]}}}
        config = {"static_resources": {
            "listeners": [
                {"name": "clear", "address": address(self.port), "filter_chains": [{"filters": [filters()]}]},
                {"name": "tls", "address": address(self.tls_port), "filter_chains": [{"filters": [filters()], "transport_socket": tls}]}],
            "clusters": [{"name": "app", "connect_timeout": "5s", "type": "STATIC", "load_assignment": {
                "cluster_name": "app", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(self.app_port)}}]}]},
                "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}]}}]}}
        self.run(find("envoy"), "-c", self.write("envoy.yaml", json.dumps(config)), "--concurrency", "1", "-l", "error",
                 "--disable-hot-restart")

    def version(self):
        text = subprocess.run([find("envoy"), "--version"], capture_output=True, text=True).stdout
        # …version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL
        return "Envoy " + text.rsplit("version:", 1)[-1].split("/")[1]


class Gatepost(Peer):
    """Signed token, roles, revocation, identity headers and metrics; `options` change one thing each."""

    name, title = "gatepost", "gatepost"

    def __init__(self, bench, app_port, binary, name="gatepost", title="gatepost", decisions=False, routes=3,
                 cache="64MiB"):
        self.name, self.title = name, title
        self.binary, self.decisions, self.routes, self.cache = binary, decisions, routes, cache
        super().__init__(bench, app_port)
        (self.admin_port,) = free_ports(1)
        self.token = self.kid = None

    def start(self):
        more = "".join(f'[[route]]\npath = "/section{n}/{{id}}/**"\nroles = ["user"]\n' for n in range(self.routes - 3))
        config = self.write("config.toml", f"""
[server]
listen = ["127.0.0.1:{self.port}"]
workers = 1
[server.limits]
connections = 20000
idle_timeout = "10m"
[admin]
listen = "127.0.0.1:{self.admin_port}"
[log]
format = "json"
decisions = {str(self.decisions).lower()}
[store]
path = "data"
min_free = "1MiB"
[auth]
registration = "open"
[tokens]
algorithm = "HS256"
secret = "{SECRET}"
access_ttl = "12h"
cache = "{self.cache}"
[[upstream]]
name = "app"
servers = ["http://127.0.0.1:{self.app_port}"]
[[route]]
path = "/**"
roles = ["user"]
[[route]]
path = "/admin/**"
roles = ["admin"]
[[route]]
path = "/public/**"
access = "public"
{more}""")
        self.run(self.binary, "--config", config, "serve")
        self.login()

    def login(self):
        def call(path, *more):
            return curl("-H", "Content-Type: application/json", *more, f"http://127.0.0.1:{self.port}/auth/{path}")

        def token():
            return json.loads(call("login", "-d", json.dumps(ACCOUNT)))["access_token"]

        call("register", "-d", json.dumps(ACCOUNT))
        # Somebody has logged out: the revocation list is not empty.
        call("logout", "-X", "POST", "-H", f"Authorization: Bearer {token()}")
        self.token = token()

    def tokens(self, count):
        """Live tokens of as many users, signed as the gateway would: they share a secret."""
        header, payload, _ = self.token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        for _ in range(count):
            claims |= {"jti": str(uuid.uuid4()), "sub": str(uuid.uuid4()), "sid": str(uuid.uuid4())}
            signed = f"{header}.{b64(json.dumps(claims, separators=(',', ':')).encode())}"
            mac = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
            yield f"{signed}.{b64(mac)}"

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.strip()


class GatepostTls(Gatepost):
    """The same over TLS: its one listener is the TLS one."""

    def start(self):
        super().start()
        # Whether anything listens on TLS is decided for the whole process, so this is a second start.
        self.stop()
        path = self.directory / "config.toml"
        text = path.read_text().replace(f'listen = ["127.0.0.1:{self.port}"]', f'listen = ["127.0.0.1:{self.tls_port}"]')
        tls = f'[server.tls]\ncertificates = [{{ cert = "{self.cert}", key = "{self.key}" }}]\n[server.limits]'
        path.write_text(text.replace("[server.limits]", tls))
        self.process = self.bench.start(self.title, [self.binary, "--config", path, "serve"], self.name, self.tls_port)


def app(bench):
    """The app behind all of them: nginx with a small answer, a large file, and a body that it throws away."""
    (port,) = free_ports(1)
    directory = bench.directory / "app"
    (directory / "files").mkdir(parents=True)
    (directory / "scratch").mkdir()
    (directory / "files" / "large").write_bytes(b"x" * (1 << 20))
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(f"""{user}
daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 300s; client_max_body_size 0;
    client_body_temp_path {directory}/scratch/b; proxy_temp_path {directory}/scratch/p; fastcgi_temp_path {directory}/scratch/f;
    uwsgi_temp_path {directory}/scratch/u; scgi_temp_path {directory}/scratch/s;
    sendfile on;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /files/ {{ root {directory}; }}
        location / {{ default_type application/json; return 200 '{BODY}'; }}
    }}
}}
""")
    bench.start("the app", [find("nginx"), "-p", directory, "-e", directory / "error.log", "-c", config], "app", port, load=True)
    return port
