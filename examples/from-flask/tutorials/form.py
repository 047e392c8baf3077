"""A tutorial's app: sign up by form with name, address and password, log in by form with the address,
PyJWT tokens in `x-access-token`."""
import os
import uuid
from datetime import datetime, timedelta, timezone
from functools import wraps

import jwt
from flask import Flask, jsonify, make_response, request
from werkzeug.security import check_password_hash, generate_password_hash

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
users = {}


def token_required(view):
    @wraps(view)
    def decorated(*args, **kwargs):
        token = request.headers.get("x-access-token")
        if not token:
            return jsonify({"message": "Token is missing !!"}), 401
        try:
            data = jwt.decode(token, app.config["SECRET_KEY"], algorithms=["HS256"])
            user = next(user for user in users.values() if user["public_id"] == data["public_id"])
        except Exception:
            return jsonify({"message": "Token is invalid !!"}), 401
        return view(user, *args, **kwargs)

    return decorated


@app.post("/signup")
def signup():
    name, email, password = request.form["name"], request.form["email"], request.form["password"]
    if email in users:
        return make_response("User already exists. Please Log in.", 202)
    users[email] = {
        "public_id": str(uuid.uuid4()),
        "name": name,
        "email": email,
        "password": generate_password_hash(password),
    }
    return make_response("Successfully registered.", 201)


@app.post("/login")
def login():
    user = users.get(request.form.get("email"))
    if user is None:
        return make_response("Could not verify", 401, {"WWW-Authenticate": 'Basic realm ="User does not exist !!"'})
    if not check_password_hash(user["password"], request.form.get("password", "")):
        return make_response("Could not verify", 403, {"WWW-Authenticate": 'Basic realm ="Wrong Password !!"'})
    claims = {"public_id": user["public_id"], "exp": datetime.now(timezone.utc) + timedelta(minutes=30)}
    return make_response(jsonify({"token": jwt.encode(claims, app.config["SECRET_KEY"])}), 201)


@app.get("/user")
@token_required
def me(user):
    return jsonify({"name": user["name"], "email": user["email"]})
