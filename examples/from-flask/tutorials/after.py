"""What is left of the tutorials' apps behind Gatepost: their views, told who asks by headers."""
from urllib.parse import unquote

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/user")
def me():
    return jsonify(name=unquote(request.headers["X-Auth-Name"]), email=request.headers["X-Auth-Email"])


@app.get("/protected")
def protected():
    return jsonify(id=int(request.headers["X-Auth-Id"]))


@app.get("/api/test/user")
def user_board():
    return jsonify(message="User Content.")


@app.get("/api/test/all")
def public_board():
    return jsonify(message="Public Content.")
