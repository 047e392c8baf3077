"""A tutorial's app for a React or Angular front end: sign up and in by JSON under `/api/auth`, an answer
with the user in it, `x-access-token`."""
import os
from datetime import datetime, timedelta, timezone
from functools import wraps

import jwt
from flask import Flask, jsonify, request
from werkzeug.security import check_password_hash, generate_password_hash

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
users = {}


def verify_token(view):
    @wraps(view)
    def decorated(*args, **kwargs):
        token = request.headers.get("x-access-token")
        if not token:
            return jsonify(message="No token provided!"), 403
        try:
            claims = jwt.decode(token, app.config["SECRET_KEY"], algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return jsonify(message="Unauthorized!"), 401
        return view(claims, *args, **kwargs)

    return decorated


@app.post("/api/auth/signup")
def signup():
    data = request.get_json()
    if data["username"] in users:
        return jsonify(message="Failed! Username is already in use!"), 400
    if any(user["email"] == data["email"] for user in users.values()):
        return jsonify(message="Failed! Email is already in use!"), 400
    users[data["username"]] = {
        "id": len(users) + 1,
        "username": data["username"],
        "email": data["email"],
        "password": generate_password_hash(data["password"]),
        "roles": ["user"],
    }
    return jsonify(message="User was registered successfully!")


@app.post("/api/auth/signin")
def signin():
    data = request.get_json()
    user = users.get(data["username"])
    if user is None:
        return jsonify(message="User Not found."), 404
    if not check_password_hash(user["password"], data["password"]):
        return jsonify(accessToken=None, message="Invalid Password!"), 401
    claims = {"id": user["id"], "exp": datetime.now(timezone.utc) + timedelta(days=1)}
    shown = {key: user[key] for key in ("id", "username", "email", "roles")}
    return jsonify(accessToken=jwt.encode(claims, app.config["SECRET_KEY"]), **shown)


@app.get("/api/test/user")
@verify_token
def user_board(_claims):
    return jsonify(message="User Content.")


@app.get("/api/test/all")
def public_board():
    return jsonify(message="Public Content.")
