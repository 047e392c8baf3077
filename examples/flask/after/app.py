"""The notes app of `../before` behind Gatepost: no passwords, no tokens, no role checks.

Whoever reaches a view has passed the gateway's rules (`../config.toml`), and the gateway says
who it is in headers that no client can set. That holds as long as the app can be reached through
the gateway only: bind it to the loopback interface or a Unix socket.
"""
from flask import Flask, jsonify, request

app = Flask(__name__)
notes = []


@app.get("/public/about")
def about():
    # Nobody is named on a public route, whatever the client sends.
    return jsonify(message="Notes for everybody", user=request.headers.get("X-Auth-User"))


@app.get("/notes")
def list_notes():
    me = request.headers["X-Auth-User"]
    return jsonify(notes=[note for note in notes if note["owner"] == me])


@app.post("/notes")
def add_note():
    note = {"owner": request.headers["X-Auth-User"], "text": request.get_json()["text"]}
    notes.append(note)
    return jsonify(note), 201


@app.get("/admin/notes")
def all_notes():
    return jsonify(notes=notes)
