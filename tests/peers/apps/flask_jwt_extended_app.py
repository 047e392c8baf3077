"""An app that protects its routes with Flask-JWT-Extended, 3.x or 4.x, and with the plain PyJWT beside it."""

import os
from functools import wraps

import flask_jwt_extended as fje
import jwt
from flask import Flask, jsonify, request

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = os.environ["APP_SECRET"]
manager = fje.JWTManager(app)
# 3.x calls it otherwise.
jwt_required = fje.jwt_required() if hasattr(fje, "get_jwt") else fje.jwt_required


@app.route("/protected")
@jwt_required
def protected():
    return jsonify(logged_in_as=fje.get_jwt_identity())


def token_required(route):
    """The decorator of a hundred tutorials."""

    @wraps(route)
    def decorated(*args, **kwargs):
        token = request.headers.get("x-access-token") or request.headers.get("Authorization", "").split(" ")[-1]
        if not token:
            return jsonify(message="Token is missing!"), 401
        try:
            data = jwt.decode(token, app.config["JWT_SECRET_KEY"], algorithms=["HS256"])
        except jwt.PyJWTError as error:
            return jsonify(message="Token is invalid!", error=str(error)), 401
        return route(data, *args, **kwargs)

    return decorated


@app.route("/plain")
@token_required
def plain(data):
    return jsonify(user=data.get("public_id", data.get("sub")))


# What this app has minted before: only the test asks, on the app's own port.
@app.route("/mint/<identity>")
def mint(identity):
    now = __import__("time").time()
    return jsonify(
        access=text(fje.create_access_token(identity=identity)),
        refresh=text(fje.create_refresh_token(identity=identity)),
        plain=text(jwt.encode({"public_id": identity, "exp": now + 600}, app.config["JWT_SECRET_KEY"], algorithm="HS256")),
    )


def text(token):
    return token.decode() if isinstance(token, bytes) else token


app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
