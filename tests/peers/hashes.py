"""Password hashes by the libraries themselves, imported while serving: the right password logs in, no
other does, and after that the account has an argon2id hash.

werkzeug (today's, and two old ones in environments of their own), Django, bcrypt, argon2-cffi, passlib
with its htpasswd file, and openssl's apr1. The costs are the libraries' defaults.
"""

import json
import logging
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path

# Deprecations of what is old on purpose; and passlib asks bcrypt for a version in a way that ended.
warnings.simplefilter("ignore")
logging.getLogger("passlib").setLevel(logging.ERROR)

import argon2
import bcrypt
import django
import passlib.apache
import passlib.hash
from django.conf import settings
from django.contrib.auth import hashers
from support import BINARY, Checks, Gateway
from werkzeug.security import generate_password_hash

# None of them over 72 bytes, where bcrypt would be alone in its opinion.
PASSWORDS = ["correct horse battery", "pässwörd ☃"]
OLD_WERKZEUG = {"1.0.1": [], "2.2.3": ["MarkupSafe==3.0.4"]}
OLD_SCRIPT = """
import sys, json
from werkzeug.security import check_password_hash, generate_password_hash
made = []
for method in json.loads(sys.argv[1]):
    for password in json.loads(sys.argv[2]):
        one = generate_password_hash(password, method)
        assert check_password_hash(one, password)
        made.append([method, password, one])
print(json.dumps(made))
"""


def by_django():
    names = ["PBKDF2", "PBKDF2SHA1", "Argon2", "BCryptSHA256", "BCrypt", "Scrypt", "MD5"]
    settings.configure(PASSWORD_HASHERS=[f"django.contrib.auth.hashers.{name}PasswordHasher" for name in names])
    django.setup()
    for name in ["pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt", "scrypt", "md5"]:
        for password in PASSWORDS:
            yield f"django {name}", password, hashers.make_password(password, hasher=name)


def by_werkzeug():
    for method in ["scrypt", "pbkdf2", "pbkdf2:sha1:200000", "pbkdf2:sha512:200000"]:
        for password in PASSWORDS:
            yield f"werkzeug {method}", password, generate_password_hash(password, method)


def by_old_werkzeug(directory):
    methods = ["md5", "sha1", "sha256", "sha512", "pbkdf2:sha256", "pbkdf2:sha1:1000"]
    for version, needs in OLD_WERKZEUG.items():
        home = Path(directory) / version
        venv.create(home, with_pip=True)
        python = home / "bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        f"Werkzeug=={version}", *needs], check=True)
        made = subprocess.run([python, "-W", "ignore", "-c", OLD_SCRIPT, json.dumps(methods), json.dumps(PASSWORDS)],
                              check=True, capture_output=True)
        for method, password, one in json.loads(made.stdout):
            yield f"werkzeug {version} {method}", password, one


def by_others():
    for password in PASSWORDS:
        yield "bcrypt 2b", password, bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
        yield "bcrypt 2a", password, bcrypt.hashpw(password.encode(), bcrypt.gensalt(prefix=b"2a")).decode()
        for kind in (argon2.Type.ID, argon2.Type.I, argon2.Type.D):
            yield f"argon2-cffi {kind.name}", password, argon2.PasswordHasher(type=kind).hash(password)
        for name in ["pbkdf2_sha1", "pbkdf2_sha256", "pbkdf2_sha512"]:
            yield f"passlib {name}", password, getattr(passlib.hash, name).hash(password)
        apr1 = subprocess.run(["openssl", "passwd", "-apr1", "-stdin"], input=password.encode() + b"\n",
                              check=True, capture_output=True)
        yield "openssl apr1", password, apr1.stdout.decode().strip()


def htpasswd(path):
    """A file with the three kinds; yields what is in it."""
    for scheme in ["apr_md5_crypt", "ldap_sha1", "bcrypt"]:
        context = passlib.apache.htpasswd_context.copy(default=scheme)
        file = passlib.apache.HtpasswdFile(path, new=not Path(path).exists(), context=context)
        for number, password in enumerate(PASSWORDS):
            file.set_password(f"ht-{scheme}-{number}", password)
        file.save()
    for scheme in ["apr_md5_crypt", "ldap_sha1", "bcrypt"]:
        for number, password in enumerate(PASSWORDS):
            yield f"htpasswd {scheme}", password, f"ht-{scheme}-{number}"


def gatepost(gateway, *arguments):
    return subprocess.run([BINARY, "--config", str(gateway.config), *arguments], capture_output=True, text=True,
                          cwd=gateway.directory, timeout=300)


def exported(gateway):
    """What each name's hash is now."""
    answer = gatepost(gateway, "user", "export", "--format", "jsonl")
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    return {row["username"]: row["password_hash"] for row in rows}


def try_logins(checks, gateway, accounts):
    for what, password, name in accounts:
        # A wrong one costs a check of every kind that is there: one for each kind is enough.
        tried = [password, password] if password != PASSWORDS[0] else [password + "!", password, password]
        answers = [gateway.call("/auth/login", {"username": name, "password": one})[0] for one in tried]
        checks.check(answers == [401, 200, 200][-len(tried):], f"{what}, {password!r}: {answers}")


def main():
    checks = Checks("password hashes of other software")
    with tempfile.TemporaryDirectory(prefix="gatepost-hashes.") as directory:
        made = [*by_werkzeug(), *by_django(), *by_others(), *by_old_werkzeug(directory)]
        jsonl = Path(directory) / "users.jsonl"
        accounts, rows = [], []
        for number, (what, password, one) in enumerate(made):
            accounts.append((what, password, f"user{number}"))
            rows.append({"username": f"user{number}", "password_hash": one})
        jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = str(Path(directory) / "users.htpasswd")
        of_file = list(htpasswd(file))
        # Refused failures are the subject of other tests.
        more = "[auth.throttle]\nfailures = 1000\nper_address = 100000\n"
        with Gateway("http://127.0.0.1:9", more=more) as gateway:
            for path, form in ((str(jsonl), "jsonl"), (file, "htpasswd")):
                done = gatepost(gateway, "user", "import", path, "--format", form)
                if not checks.check(done.returncode == 0, f"import of {form}: {done.stdout} {done.stderr}"):
                    checks.end()
            before = exported(gateway)
            for (what, _, name), row in zip(accounts, rows):
                slow, kept = before.get(name) == row["password_hash"], before.get(name, "")
                checks.check(slow or kept.startswith("$wrapped-"), f"{what} is stored as {kept[:12]}…")
            try_logins(checks, gateway, accounts + of_file)
            after = exported(gateway)
            for what, _, name in accounts + of_file:
                checks.check(after.get(name, "").startswith("$argon2id$v=19$m=1024,"), f"{what} was not replaced")
    checks.end()


if __name__ == "__main__":
    sys.exit(main())
