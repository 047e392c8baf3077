"""The notes app as a Flask tutorial leaves it: its users in a table of its own, hashed by werkzeug,
its tokens made and checked by Flask-JWT-Extended, its logouts in a second table.

    flask --app before/app run            (DATABASE_URL, JWT_SECRET_KEY)
"""
import os
from datetime import datetime, timedelta, timezone
from functools import wraps

from flask import Flask, jsonify, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    get_jwt,
    get_jwt_identity,
    jwt_required,
)
from flask_sqlalchemy import SQLAlchemy
from werkzeug.security import check_password_hash, generate_password_hash

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", "sqlite:///notes.db")
app.config["JWT_SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(minutes=15)
db = SQLAlchemy(app)
jwt = JWTManager(app)


class User(db.Model):
    __tablename__ = "users"
    id = db.Column(db.Integer, primary_key=True)
    username = db.Column(db.String(64), unique=True, nullable=False)
    email = db.Column(db.String(120), unique=True)
    password_hash = db.Column(db.String(200), nullable=False)
    is_admin = db.Column(db.Boolean, nullable=False, default=False)
    is_active = db.Column(db.Boolean, nullable=False, default=True)
    created_at = db.Column(db.DateTime, nullable=False, default=lambda: datetime.now(timezone.utc))


class Note(db.Model):
    __tablename__ = "notes"
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.Integer, db.ForeignKey("users.id"), nullable=False)
    text = db.Column(db.String(500), nullable=False)


class RevokedToken(db.Model):
    __tablename__ = "revoked_tokens"
    jti = db.Column(db.String(36), primary_key=True)


with app.app_context():
    db.create_all()


@jwt.token_in_blocklist_loader
def is_logged_out(_header, payload):
    return db.session.get(RevokedToken, payload["jti"]) is not None


def admin_required(view):
    @wraps(view)
    @jwt_required()
    def guarded(*args, **kwargs):
        if "admin" not in get_jwt().get("roles", []):
            return jsonify(message="Admins only!"), 403
        return view(*args, **kwargs)

    return guarded


@app.post("/register")
def register():
    data = request.get_json()
    if db.session.execute(db.select(User).filter_by(username=data["username"])).first():
        return jsonify(message="User already exists!"), 409
    user = User(
        username=data["username"],
        email=data.get("email"),
        password_hash=generate_password_hash(data["password"]),
    )
    db.session.add(user)
    db.session.commit()
    return jsonify(message="User registered successfully!"), 201


@app.post("/login")
def login():
    data = request.get_json()
    user = db.session.execute(db.select(User).filter_by(username=data["username"])).scalar()
    if user is None or not user.is_active or not check_password_hash(user.password_hash, data["password"]):
        return jsonify(message="Invalid credentials!"), 401
    claims = {"roles": ["admin", "user"] if user.is_admin else ["user"]}
    return jsonify(access_token=create_access_token(identity=str(user.id), additional_claims=claims))


@app.post("/logout")
@jwt_required()
def logout():
    db.session.add(RevokedToken(jti=get_jwt()["jti"]))
    db.session.commit()
    return jsonify(message="Successfully logged out!")


@app.get("/protected")
@jwt_required()
def protected():
    return jsonify(logged_in_as=get_jwt_identity())


@app.get("/notes")
@jwt_required()
def list_notes():
    mine = db.select(Note).filter_by(user_id=int(get_jwt_identity())).order_by(Note.id)
    return jsonify(notes=[note.text for note in db.session.execute(mine).scalars()])


@app.post("/notes")
@jwt_required()
def add_note():
    note = Note(user_id=int(get_jwt_identity()), text=request.get_json()["text"])
    db.session.add(note)
    db.session.commit()
    return jsonify(text=note.text), 201


@app.get("/admin/notes")
@admin_required
def all_notes():
    return jsonify(notes=[note.text for note in db.session.execute(db.select(Note)).scalars()])
