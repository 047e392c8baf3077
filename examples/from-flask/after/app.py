"""The notes app of `../before` once Gatepost has its users: no passwords, no tokens, no role checks.

Its notes table is untouched: `user_id` still holds the ids that the users had, because the import
kept them. Who asks is in headers that no client can set, as long as nobody reaches the app except
through the gateway.

    flask --app after/app run             (DATABASE_URL)
"""
import os

from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", "sqlite:///notes.db")
db = SQLAlchemy(app)


class Note(db.Model):
    __tablename__ = "notes"
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.Integer, nullable=False)
    text = db.Column(db.String(500), nullable=False)


with app.app_context():
    db.create_all()


@app.get("/protected")
def protected():
    return jsonify(logged_in_as=request.headers["X-Auth-Id"])


@app.get("/notes")
def list_notes():
    mine = db.select(Note).filter_by(user_id=int(request.headers["X-Auth-Id"])).order_by(Note.id)
    return jsonify(notes=[note.text for note in db.session.execute(mine).scalars()])


@app.post("/notes")
def add_note():
    note = Note(user_id=int(request.headers["X-Auth-Id"]), text=request.get_json()["text"])
    db.session.add(note)
    db.session.commit()
    return jsonify(text=note.text), 201


@app.get("/admin/notes")
def all_notes():
    return jsonify(notes=[note.text for note in db.session.execute(db.select(Note)).scalars()])
