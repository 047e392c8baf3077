"""The notes app's own tests: what its front end relies on, asked over HTTP.

    APP_URL=http://127.0.0.1:5000 python app_tests.py

They know nothing of a gateway, and are the same before, during and after the move. The users `demo`
(with an old note) and `boss` (an admin) are in the database that they run on.
"""
import json
import os
import secrets
import unittest
import urllib.error
import urllib.request

URL = os.environ["APP_URL"]
PASSWORD = "correct horse battery"


def call(method, path, body=None, token=None):
    request = urllib.request.Request(URL + path, method=method)
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    elif method == "POST":
        data = b""
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, data, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def login(username, password=PASSWORD):
    status, body = call("POST", "/login", {"username": username, "password": password})
    assert status == 200, (status, body)
    return body["access_token"]


class NotesApp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.user = "user" + secrets.token_hex(4)
        status, body = call("POST", "/register", {"username": cls.user, "password": PASSWORD})
        assert (status, body["message"]) == (201, "User registered successfully!"), (status, body)
        cls.token = login(cls.user)

    def test_a_name_is_registered_once(self):
        status, body = call("POST", "/register", {"username": self.user, "password": "another password"})
        self.assertEqual((status, body["message"]), (409, "User already exists!"))
        status, body = call("POST", "/register", {"username": "demo", "password": "another password"})
        self.assertEqual((status, body["message"]), (409, "User already exists!"))

    def test_a_wrong_password_and_an_unknown_user_are_told_alike(self):
        for username in (self.user, "nobody"):
            status, body = call("POST", "/login", {"username": username, "password": "not the password"})
            self.assertEqual((status, body["message"]), (401, "Invalid credentials!"))

    def test_views_want_a_token(self):
        for method, path in [("GET", "/protected"), ("GET", "/notes"), ("POST", "/notes"), ("GET", "/admin/notes")]:
            status, body = call(method, path)
            self.assertEqual((status, body), (401, {"msg": "Missing Authorization Header"}), path)

    def test_rubbish_is_no_token(self):
        status, body = call("GET", "/notes", token="rubbish")
        self.assertEqual((status, body), (422, {"msg": "Not enough segments"}))
        changed = self.token[:-6] + ("AAAAAA" if not self.token.endswith("AAAAAA") else "BBBBBB")
        status, body = call("GET", "/notes", token=changed)
        self.assertEqual((status, body), (422, {"msg": "Signature verification failed"}))

    def test_notes_are_their_writers(self):
        status, body = call("POST", "/notes", {"text": "buy milk"}, self.token)
        self.assertEqual((status, body), (201, {"text": "buy milk"}))
        status, body = call("GET", "/notes", token=self.token)
        self.assertEqual((status, body), (200, {"notes": ["buy milk"]}))

    def test_an_old_user_has_her_old_notes(self):
        token = login("demo")
        status, body = call("GET", "/notes", token=token)
        self.assertEqual((status, body), (200, {"notes": ["from long ago"]}))
        self.assertEqual(call("GET", "/protected", token=token), (200, {"logged_in_as": "1"}))

    def test_the_admin_page_is_the_admins(self):
        self.assertEqual(call("GET", "/admin/notes", token=self.token)[0], 403)
        status, body = call("GET", "/admin/notes", token=login("boss"))
        self.assertEqual(status, 200)
        self.assertIn("from long ago", body["notes"])

    def test_logging_out_ends_the_token_and_no_other(self):
        token, other = login(self.user), login(self.user)
        status, body = call("POST", "/logout", token=token)
        self.assertEqual((status, body["message"]), (200, "Successfully logged out!"))
        self.assertEqual(call("GET", "/protected", token=token), (401, {"msg": "Token has been revoked"}))
        self.assertEqual(call("GET", "/protected", token=other)[0], 200)


if __name__ == "__main__":
    unittest.main()
