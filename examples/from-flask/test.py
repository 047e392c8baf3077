"""The move, from the app with its own users to the app behind Gatepost, and the calls of four tutorials.

    python test.py [--show]

Run it in an environment that has requirements.txt; OLD_PYTHON names the interpreter of one that has
tutorials/requirements-flask-jwt.txt; GATEPOST_BIN the binary (default: target/release/gatepost).
Everything runs on free ports in a temporary folder. `--show` prints each tutorial's calls as a table.
"""
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "tutorials"), str(HERE / "export")]
import calls  # noqa: E402
from calls import PASSWORD, WRONG  # noqa: E402
from werkzeug.security import generate_password_hash  # noqa: E402

GATEPOST = str(pathlib.Path(os.environ.get("GATEPOST_BIN") or HERE.parents[1] / "target/release/gatepost").resolve())
OLD_PYTHON = os.environ.get("OLD_PYTHON")
SHOW = "--show" in sys.argv
SECRET = secrets.token_hex(32)


# --- starting and asking ----------------------------------------------------------------------


def free_ports(count):
    """Below the range that the system hands out: an outgoing connection must not take one."""
    found = set()
    while len(found) < count:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


@contextlib.contextmanager
def running(name, command, place, log, env=None):
    """A process, from the moment it listens (on a port or a Unix socket) until the block ends."""
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(env or {})})
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start:\n{pathlib.Path(log).read_text(errors='replace')}")
            try:
                if isinstance(place, int):
                    socket.create_connection(("127.0.0.1", place), 0.2).close()
                else:
                    with socket.socket(socket.AF_UNIX) as ours:
                        ours.connect(str(place))
                break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port, method, path, *, body=None, form=None, headers=None):
    """A call's status, headers and JSON (or text)."""
    headers, data = dict(headers or {}), None
    if body is not None:
        headers["Content-Type"], data = "application/json", json.dumps(body)
    if form is not None:
        headers["Content-Type"], data = "application/x-www-form-urlencoded", urllib.parse.urlencode(form)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        raw = response.read().decode()
    finally:
        connection.close()
    try:
        return response.status, response.headers, json.loads(raw)
    except ValueError:
        return response.status, response.headers, raw


class Report:
    """Counts checks and prints those that do not hold."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, shown=""):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {what}: {shown}", flush=True)


class Gatepost:
    """A gateway over one of the shipped files, with this run's ports and folder."""

    def __init__(self, config, folder, port, admin, app, **more):
        self.port, self.folder = port, folder
        folder.mkdir(exist_ok=True)
        self.settings = {
            "GATEPOST_CONFIG": str(config),
            "GATEPOST__SERVER__LISTEN": f'["127.0.0.1:{port}"]',
            "GATEPOST__ADMIN__LISTEN": f"127.0.0.1:{admin}",
            "GATEPOST__STORE__PATH": str(folder / "data"),
            **more,
        }
        self.leads_to(app)

    def leads_to(self, app):
        name = "NOTES" if self.settings["GATEPOST_CONFIG"].endswith("config.toml") else "APP"
        self.settings[f"GATEPOST__UPSTREAM__{name}__SERVERS"] = f'["http://127.0.0.1:{app}"]'

    def run(self, *arguments, **options):
        return subprocess.run(
            [GATEPOST, *arguments], capture_output=True, text=True, env={**os.environ, **self.settings}, timeout=120, **options)

    def serve(self):
        # The operator's socket is the last one to open.
        return running("gatepost", [GATEPOST, "serve"], self.folder / "data/gatepost.sock", self.folder / "gatepost.log", self.settings)

    def imported(self, file, *more):
        ended = self.run("user", "import", str(file), "--format", "jsonl", "--json", *more)
        return ended.returncode, ended.stdout, ended.stderr


def flask(app, port, folder, python=sys.executable, **env):
    command = [python, "-m", "flask", "--app", str(HERE / app), "run", "--port", str(port)]
    log = folder / f"{pathlib.Path(app).with_suffix('').as_posix().replace('/', '-')}-{port}.log"
    return running(app, command, port, log, {"JWT_SECRET_KEY": SECRET, "PYTHONDONTWRITEBYTECODE": "1", **env})


# --- the move ---------------------------------------------------------------------------------


def app_tests(report, what, port):
    """The app's own tests, as they are."""
    ended = subprocess.run(
        [sys.executable, str(HERE / "app_tests.py")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "APP_URL": f"http://127.0.0.1:{port}"})
    ran = re.search(r"Ran (\d+) tests", ended.stderr)
    report.check(f"{what}: the app's own tests", ended.returncode == 0 and ran and int(ran[1]) > 7, ended.stderr)


def settle(database):
    """The people who were there before: hashes of every age, an admin, and somebody who was locked out."""
    people = [
        # id, username, email, hash, admin, active
        (1, "demo", "demo@example.com", generate_password_hash(PASSWORD), False, True),
        (2, "boss", None, generate_password_hash(PASSWORD), True, True),
        (3, "older", "older@example.com", generate_password_hash(PASSWORD, method="pbkdf2:sha256:150000"), False, True),
        (4, "oldest", None, "sha256$NaCl$" + old_sha256("NaCl", PASSWORD), False, True),
        (7, "gone", "gone@example.com", generate_password_hash(PASSWORD), False, False),
    ]
    connection = sqlite3.connect(database)
    with contextlib.closing(connection), connection:
        connection.executemany(
            "INSERT INTO users (id, username, email, password_hash, is_admin, is_active, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, '2023-05-06 07:08:09.000000')", people)
        connection.execute("INSERT INTO notes (user_id, text) VALUES (1, 'from long ago')")


def old_sha256(salt, password):
    """What werkzeug before 2.3 called `sha256`: an HMAC with the salt as its key."""
    import hmac

    return hmac.new(salt.encode(), password.encode(), "sha256").hexdigest()


def with_old_tokens(folder):
    """The shipped file, and what it shows as a comment: the app's own tokens are good for a while."""
    key = folder / "jwt.key"
    key.write_text(SECRET)
    key.chmod(0o600)
    shipped = (HERE / "config.toml").read_text()
    table = re.search(r"^# \[\[legacy_token\]\]\n(?:# .*\n)+", shipped, re.M)[0]
    table = re.sub(r"^# ", "", table, flags=re.M).replace('"jwt.key"', json.dumps(str(key)))
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 30 * 86400))
    config = folder / "config.toml"
    config.write_text(shipped + re.sub(r"until = .*", f'until = "{day}"', table))
    return config


def exported(report, folder, script, *arguments, env=None, cwd=None):
    """What an export query prints, as a file."""
    file = folder / f"{script}.jsonl"
    ended = subprocess.run(
        [sys.executable, str(HERE / "export" / script), *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, **(env or {})}, cwd=cwd)
    report.check(f"{script} runs", ended.returncode == 0, ended.stderr)
    file.write_text(ended.stdout)
    file.chmod(0o600)
    return file


def login(port, username, password=PASSWORD, path="/login"):
    return ask(port, "POST", path, body={"username": username, "password": password})


def move(report, folder):
    """The notes app: alone, then as it is behind the gateway, then without its login code."""
    before_port, after_port, gateway_port, admin_port = free_ports(4)
    database = folder / "notes.db"
    url = f"sqlite:///{database}"

    with flask("before/app.py", before_port, folder, DATABASE_URL=url):
        settle(database)
        app_tests(report, "before", before_port)
        gateway = Gatepost(with_old_tokens(folder), folder / "gateway", gateway_port, admin_port, before_port)
        gateway.settings["GATEPOST__TOKENS__SECRET_FILE"] = str(folder / "jwt.key")
        old_token = {"Authorization": "Bearer " + login(before_port, "demo")[2]["access_token"]}
        checked = gateway.run("check")
        report.check("gatepost check", checked.returncode == 0, checked.stdout + checked.stderr)

        users = exported(report, folder, "sqlalchemy_users.py", url)
        lines = [json.loads(line) for line in users.read_text().splitlines()]
        report.check("the export has everybody", {"demo", "boss", "older", "oldest", "gone"} < {line["username"] for line in lines}, lines)
        empty = folder / "empty"
        empty.mkdir()
        with contextlib.closing(sqlite3.connect(empty / "users.db")) as rows:
            rows.execute("CREATE TABLE users (id, username, email, password_hash, is_admin, is_active, created_at)")
            rows.execute("INSERT INTO users (id, username) VALUES (1, 'ann')")
            rows.commit()
        [ann] = [json.loads(line) for line in exported(report, empty, "sqlalchemy_users.py", f"sqlite:///{empty / 'users.db'}").read_text().splitlines()]
        report.check("a row of NULLs is exported", ann["disabled"] and ann["password_hash"] is None and "created_at" not in ann, ann)
        tried = gateway.imported(users, "--dry-run")
        report.check("a dry run", tried[0] == 0, tried)
        with gateway.serve() as process:
            early = registered(gateway_port, "stranger")
            report.check("nobody registers before the import", early == "-403", early)
            done = gateway.imported(users)
            report.check("the import, while serving", done[0] == 0, done)
            again = gateway.imported(users)
            report.check("the import again", again[0] == 0, again)
            counted(report, len(lines), tried, done, again)

            for username in ("demo", "boss", "older", "oldest"):
                status, _, body = login(gateway_port, username)
                report.check(f"{username} logs in with the old password", status == 200, (status, body))
                status, _, body = login(gateway_port, username, WRONG)
                report.check(f"{username} does not with another", status == 401, (status, body))
            status, _, body = login(gateway_port, "gone")
            report.check("who was locked out stays out", status == 403, (status, body))
            status, _, body = ask(gateway_port, "GET", "/notes", headers=old_token)
            report.check("a token from before the move", (status, body) == (200, {"notes": ["from long ago"]}), (status, body))
            open_registration(report, gateway, process)
            takeover(report, gateway_port, lines)
            app_tests(report, "behind the gateway, unchanged", gateway_port)
            status, _, body = login(gateway_port, "demo", path="/login")
            ids = [registered(gateway_port, "late1"), registered(gateway_port, "late2")]
            report.check("new ids go on", all(int(i) > 7 for i in ids) and int(ids[1]) == int(ids[0]) + 1, ids)
            # The app itself, without the gateway, takes the gateway's token: it has the same secret.
            token = {"Authorization": f"Bearer {body['access_token']}"}
            status, _, body = ask(before_port, "GET", "/notes", headers=token)
            report.check("the app checks the tokens too", (status, body) == (200, {"notes": ["from long ago"]}), (status, body))

    with flask("after/app.py", after_port, folder, DATABASE_URL=url):
        gateway.leads_to(after_port)
        gateway.settings["GATEPOST__IDENTITY__FORWARD_AUTHORIZATION"] = "false"
        with gateway.serve():
            app_tests(report, "after", gateway_port)
            spoofed = {"X-Auth-Id": "1", "X-Auth-Roles": "admin"}
            for path in ("/notes", "/admin/notes"):
                status, _, body = ask(gateway_port, "GET", path, headers=spoofed)
                report.check(f"{path} with headers of the client's own", status == 401 and "notes" not in body, (status, body))
    if report.failed:
        print((folder / "gateway/gatepost.log").read_text(errors="replace")[-3000:])


def counted(report, count, tried, done, again):
    """What the three runs say they did: nothing yet, everything, nothing more."""
    for what, run, created, unchanged in [("would", tried, count, 0), ("did", done, count, 0), ("again", again, 0, count)]:
        total = json.loads(run[1].splitlines()[-1])["summary"]
        told = (total["created"], total["unchanged"], total["refused"])
        report.check(f"the import counts what it {what}", told == (created, unchanged, 0), total)


def open_registration(report, gateway, process):
    """The last step of the move: the file says so, and the gateway reads it again."""
    config = pathlib.Path(gateway.settings["GATEPOST_CONFIG"])
    config.write_text(config.read_text().replace('registration = "closed"', 'registration = "open"  ', 1))
    process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while (status := ask(gateway.port, "POST", "/register", body={})[0]) == 403 and time.monotonic() < deadline:
        time.sleep(0.05)
    report.check("registration is open", status == 422, status)


def registered(port, username):
    status, _, body = ask(port, "POST", "/register", body={"username": username, "password": PASSWORD})
    return body["id"] if status == 201 else f"-{status}"


def takeover(report, port, lines):
    """Nobody registers a name or an address that the import brought."""
    for line in lines:
        for username in (line["username"], line["username"].upper()):
            status, _, body = ask(port, "POST", "/register", body={"username": username, "password": "mallory was here"})
            report.check(f"{username} is taken", (status, body["message"]) == (409, "User already exists!"), (status, body))
        if line["email"]:
            body = {"username": "mallory", "email": line["email"].upper(), "password": "mallory was here"}
            status, _, body = ask(port, "POST", "/register", body=body)
            report.check(f"{line['email']} is taken", (status, body["code"]) == (409, "email_taken"), (status, body))
        status, _, body = login(port, line["username"], "mallory was here")
        report.check(f"nobody else is {line['username']}", status == 401, (status, body))


# --- other tables -----------------------------------------------------------------------------


def other_exports(report, folder):
    """Django's table on SQLite, and a MongoDB collection (of mongomock: no server is needed)."""
    site = folder / "site"
    site.mkdir()
    (site / "site_settings.py").write_text(
        "SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth']\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': {str(site / 'db.sqlite3')!r}}}}}\n"
        "DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
        "PASSWORD_HASHERS = ['django.contrib.auth.hashers.PBKDF2PasswordHasher', 'django.contrib.auth.hashers.ScryptPasswordHasher']\n")
    make = (
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from django.contrib.auth.models import User\n"
        "from django.contrib.auth.hashers import make_password\n"
        f"User.objects.create_user('dora', 'dora@example.com', {PASSWORD!r}, first_name='Dora', last_name='Lee')\n"
        f"User.objects.create_superuser('root-of-django', None, {PASSWORD!r})\n"
        f"User.objects.create(username='scrypted', password=make_password({PASSWORD!r}, hasher='scrypt'))\n"
        "User.objects.create(username='elsewhere', password=make_password(None))\n")
    env = {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    made = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, env={**os.environ, **env}, cwd=site, timeout=120)
    report.check("a Django site", made.returncode == 0, made.stderr)
    django = exported(report, folder, "django_users.py", env=env, cwd=site)

    import mongodb_users
    import mongomock

    collection = mongomock.MongoClient().db.users
    # $2b$ as Mongoose apps have it; of PASSWORD.
    collection.insert_one({"username": "mona", "email": "mona@example.com", "password": BCRYPT, "roles": ["user"]})
    mongo = folder / "mongodb_users.jsonl"
    mongo.write_text("".join(json.dumps(line) + "\n" for line in mongodb_users.lines(collection)))
    mongo.chmod(0o600)
    mona = str(collection.find_one()["_id"])

    port, admin, app = free_ports(3)
    gateway = Gatepost(HERE / "config.toml", folder / "others", port, admin, app,
                       GATEPOST__TOKENS__SECRET_FILE=str(folder / "jwt.key"))
    with gateway.serve():
        done = gateway.imported(django, "--on-error", "skip")
        # Who has no password there has none here.
        report.check("Django's users", done[0] == 0 and "elsewhere" in accounts(gateway), done)
        for typed in ("", "!", PASSWORD):
            status, _, body = login(port, "elsewhere", typed)
            report.check(f"nobody logs in as who has no password, with {typed!r}", status == 401, (status, body))
        done = gateway.imported(mongo)
        report.check("MongoDB's users", done[0] == 0, done)
        for username in ("dora", "root-of-django", "scrypted", "mona"):
            status, _, body = login(port, username)
            report.check(f"{username} logs in with the old password", status == 200, (status, body))
        status, _, body = ask(port, "GET", "/auth/me", headers={"Authorization": f"Bearer {body['access_token']}"})
        report.check("a document's id is kept", body.get("id") == mona, body)


BCRYPT = "$2b$10$WkACgajda7Yh.7I5cH21IuJ7tEF3ksiYY0HDk5dwecsHrHxiZQlkK"


def accounts(gateway):
    listed = gateway.run("user", "list", "--json")
    return listed.stdout


# --- the tutorials' clients -------------------------------------------------------------------


class Client:
    """Makes a tutorial's calls, with the token of its last login."""

    def __init__(self, port):
        self.port, self.token = port, ""

    def make(self, call):
        changed = self.token[:-6] + ("AAAAAA" if not self.token.endswith("AAAAAA") else "BBBBBB")
        headers = {name: value.format(token=self.token, changed=changed) for name, value in call.headers.items()}
        status, sent, body = ask(self.port, call.method, call.path, body=call.json, form=call.form, headers=headers)
        if call.token and isinstance(body, dict):
            self.token = body.get(call.token) or ""
        read = {name: body.get(name) if isinstance(body, dict) else None for name in call.reads}
        if call.exact:
            read["the whole body"] = body
        return status, read, sent["WWW-Authenticate"], body


def tutorial(report, title, before, after, list_of_calls):
    """Every call against the tutorial's app and against the gateway."""
    rows = []
    for call in list_of_calls:
        was_status, was, asked_for, was_body = before.make(call)
        is_status, now, asks_for, now_body = after.make(call)
        same = was_status == is_status and was == now and all(was[name] is not None for name in call.reads)
        # A library that sends no challenge with its 401 gets one here, as HTTP wants it.
        same &= not call.exact or asked_for in (None, asks_for)
        shown = f"{was_status} {was_body} -> {is_status} {now_body}"
        was, now = ({name: read[name] for name in call.reads} for read in (was, now))
        report.check(f"{title}: {call.what}" + (": the difference is gone" if call.differs else ""), same != bool(call.differs), shown)
        if call.token:
            report.check(f"{title}: {call.what} gives a token", before.token and after.token, shown)
        rows.append((call, was_status, was, is_status, now))
    if SHOW:
        print(f"\n{title}")
        for call, was_status, was, is_status, now in rows:
            print(f"  {call.method} {call.path} ({call.what}): {was_status} {was or ''} -> {is_status} {now or ''}")
            if call.differs:
                print(f"      differs: {call.differs}; because {call.why}")


def tutorials(report, folder):
    folder.mkdir()
    ports = iter(free_ports(20))

    # The notes app is the first one.
    app, port = next(ports), next(ports)
    gateway = Gatepost(HERE / "config.toml", folder / "json", port, next(ports), app, GATEPOST__AUTH__REGISTRATION="open",
                       GATEPOST__TOKENS__SECRET_FILE=str(folder.parent / "jwt.key"))
    with flask("before/app.py", app, folder, DATABASE_URL=f"sqlite:///{folder / 'json.db'}"), gateway.serve():
        tutorial(report, "register, log in, look, log out", Client(app), Client(port), calls.json_calls())

    for name, title, list_of_calls, python in [
        ("form", "forms and an address", calls.form_calls(), sys.executable),
        ("x_access_token", "x-access-token", calls.x_access_token_calls(), sys.executable),
        ("jwt_scheme", "/auth and Authorization: JWT", calls.flask_jwt_calls(), OLD_PYTHON),
    ]:
        if python is None:
            report.check(f"{title}: OLD_PYTHON is set", False)
            continue
        app, behind, port = next(ports), next(ports), next(ports)
        gateway = Gatepost(HERE / f"tutorials/{name}.toml", folder / name, port, next(ports), behind)
        checked = gateway.run("check")
        report.check(f"{title}: gatepost check", checked.returncode == 0, checked.stdout + checked.stderr)
        with contextlib.ExitStack() as stack:
            stack.enter_context(flask(f"tutorials/{name}.py", app, folder, python, JOE_PASSWORD=PASSWORD))
            stack.enter_context(flask("tutorials/after.py", behind, folder))
            stack.enter_context(gateway.serve())
            if name == "jwt_scheme":
                joe = folder / "joe.jsonl"
                joe.write_text(json.dumps({"id": "1", "username": "joe", "password": PASSWORD}) + "\n")
                joe.chmod(0o600)
                done = gateway.imported(joe)
                report.check("a list of users with passwords", done[0] == 0, done)
            tutorial(report, title, Client(app), Client(port), list_of_calls)


def main():
    report = Report()
    with tempfile.TemporaryDirectory(prefix="gatepost-from-flask-") as folder:
        folder = pathlib.Path(folder)
        move(report, folder)
        other_exports(report, folder)
        tutorials(report, folder / "tutorials")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
