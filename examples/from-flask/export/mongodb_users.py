"""The users collection of an app with MongoDB (Mongoose, PyMongo), as lines for
`gatepost user import --format jsonl`.

    python export/mongodb_users.py mongodb://127.0.0.1/myapp > users.jsonl

Change the names to your fields. Umask 077: the file holds password hashes.
"""
import json
import sys


def lines(users):
    """Of a collection; `_id` is also when the document was made."""
    for user in users.find().sort("_id"):
        yield {
            "id": str(user["_id"]),
            "username": user["username"],
            "email": user.get("email") or None,
            "email_verified": bool(user.get("emailVerified", False)),
            "roles": user.get("roles") or ["user"],
            "password_hash": user.get("password"),
            "disabled": not user.get("active", True),
            "created_at": user["_id"].generation_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


if __name__ == "__main__":
    from pymongo import MongoClient

    for user in lines(MongoClient(sys.argv[1]).get_default_database().users):
        print(json.dumps(user))
