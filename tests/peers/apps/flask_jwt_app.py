"""The README of Flask-JWT: users with numbers, `/auth`, `@jwt_required()`, `Authorization: JWT …`."""

import collections
import collections.abc
import os

# Flask-JWT is of 2015, and so is the PyJWT that it wants.
collections.Mapping = collections.abc.Mapping

from flask import Flask, jsonify  # noqa: E402
from flask_jwt import JWT, current_identity, jwt_required  # noqa: E402


class User:
    def __init__(self, id, username, password):
        self.id, self.username, self.password = id, username, password


users = [User(1, "alice", "correct horse battery"), User(2, "bob", "correct horse battery")]
by_name = {user.username: user for user in users}
by_id = {user.id: user for user in users}


def authenticate(username, password):
    user = by_name.get(username)
    return user if user and user.password == password else None


def identity(payload):
    known = payload["identity"]
    # The id as the app has it, or the name of an account that has another id.
    return by_id.get(known) or by_name.get(known)


app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["APP_SECRET"]
jwt = JWT(app, authenticate, identity)


@app.route("/protected")
@jwt_required()
def protected():
    return jsonify(user=current_identity.username)


app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
