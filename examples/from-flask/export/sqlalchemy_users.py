"""The users table of an app with SQLAlchemy, as lines for `gatepost user import --format jsonl`.

    python export/sqlalchemy_users.py sqlite:///instance/notes.db > users.jsonl

Change the query to the names of your columns. `id` keeps what the app's other tables refer to;
`password_hash` goes over as it is. Umask 077: the file holds password hashes.
"""
import json
import sys
from datetime import datetime, timezone

from sqlalchemy import create_engine, text

USERS = text("""
    SELECT id, username, email, password_hash, is_admin, is_active, created_at
    FROM users ORDER BY id
""")


def line(row):
    user = {
        "id": str(row.id),
        "username": row.username,
        "email": row.email or None,
        # True only where the app has proved its addresses.
        "email_verified": False,
        "roles": ["admin"] if row.is_admin else ["user"],
        "password_hash": row.password_hash,
        "disabled": not row.is_active,
    }
    created = row.created_at
    if isinstance(created, str):  # SQLite keeps times as texts
        created = datetime.fromisoformat(created)
    if created is not None:
        if created.tzinfo is None:  # an app's naive times are UTC, one hopes
            created = created.replace(tzinfo=timezone.utc)
        user["created_at"] = created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return user


with create_engine(sys.argv[1]).connect() as database:
    for row in database.execute(USERS):
        print(json.dumps(line(row)))
