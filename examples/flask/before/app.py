"""A small notes app that does its own login, the way most Flask tutorials teach it.

Passwords, tokens, roles and the blocklist are the app's own business here; `../after` is the
same app behind Gatepost, without any of that.
"""
import os
import secrets
from datetime import timedelta
from functools import wraps

from flask import Flask, jsonify, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)
from werkzeug.security import check_password_hash, generate_password_hash

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = os.environ.get("JWT_SECRET_KEY") or secrets.token_hex(32)
app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(minutes=15)
jwt = JWTManager(app)

users = {}
blocklist = set()
notes = []

if os.environ.get("ADMIN_PASSWORD"):
    users["boss"] = {
        "password": generate_password_hash(os.environ["ADMIN_PASSWORD"]),
        "roles": ["admin"],
    }


@jwt.token_in_blocklist_loader
def is_logged_out(_header, payload):
    return payload["jti"] in blocklist


def role_required(role):
    def decorate(view):
        @wraps(view)
        @jwt_required()
        def guarded(*args, **kwargs):
            if role not in get_jwt().get("roles", []):
                return jsonify(message="Admins only!"), 403
            return view(*args, **kwargs)

        return guarded

    return decorate


@app.post("/register")
def register():
    data = request.get_json()
    username, password = data.get("username"), data.get("password")
    if not username or not password:
        return jsonify(message="Username and password are required!"), 422
    if username in users:
        return jsonify(message="User already exists!"), 409
    users[username] = {"password": generate_password_hash(password), "roles": ["user"]}
    return jsonify(message="User registered successfully!"), 201


@app.post("/login")
def login():
    data = request.get_json()
    user = users.get(data.get("username"))
    if user is None or not check_password_hash(user["password"], data.get("password", "")):
        return jsonify(message="Invalid credentials!"), 401
    token = create_access_token(
        identity=data["username"], additional_claims={"roles": user["roles"]}
    )
    return jsonify(access_token=token)


@app.post("/logout")
@jwt_required()
def logout():
    blocklist.add(get_jwt()["jti"])
    return jsonify(message="Successfully logged out!")


@app.get("/protected")
@jwt_required()
def protected():
    return jsonify(message=f"Hello, {get_jwt_identity()}!")


@app.get("/public/about")
def about():
    return jsonify(message="Notes for everybody", user=None)


@app.get("/notes")
@jwt_required()
def list_notes():
    me = get_jwt_identity()
    return jsonify(notes=[note for note in notes if note["owner"] == me])


@app.post("/notes")
@jwt_required()
def add_note():
    note = {"owner": get_jwt_identity(), "text": request.get_json()["text"]}
    notes.append(note)
    return jsonify(note), 201


@app.get("/admin/notes")
@role_required("admin")
def all_notes():
    return jsonify(notes=notes)
