"""A tutorial's app with Flask-JWT: `/auth`, and `Authorization: JWT …`.

Flask-JWT's last release wants a PyJWT from before Python 3.10 moved these names.
"""
import collections
import collections.abc
import os

for name in ("Iterable", "Mapping", "MutableMapping"):
    setattr(collections, name, getattr(collections.abc, name))

from flask import Flask, jsonify  # noqa: E402
from flask_jwt import JWT, current_identity, jwt_required  # noqa: E402
from werkzeug.security import check_password_hash, generate_password_hash  # noqa: E402

PASSWORD = os.environ["JOE_PASSWORD"]


class User:
    def __init__(self, user_id, username, password):
        self.id, self.username, self.password = user_id, username, generate_password_hash(password)


users = [User(1, "joe", PASSWORD)]


def authenticate(username, password):
    user = next((user for user in users if user.username == username), None)
    if user and check_password_hash(user.password, password):
        return user


def identity(payload):
    return next((user for user in users if user.id == payload["identity"]), None)


app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
JWT(app, authenticate, identity)


@app.get("/protected")
@jwt_required()
def protected():
    return jsonify(id=current_identity.id)
