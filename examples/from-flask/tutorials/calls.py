"""The calls that the clients of four tutorials make, with what each reads of the answer.

A call says which members of the answer its client reads (`reads`), or that the whole answer is a
library's (`exact`), and where an answer behind Gatepost still differs, how and why (`differs`, `why`).
`test.py` makes all of them against both and holds them to it: without `differs` the status and these
members are equal, with it they are not.
"""
from dataclasses import dataclass, field

PASSWORD = "correct horse battery"
WRONG = "not the password"


@dataclass
class Call:
    what: str
    method: str
    path: str
    json: dict = None
    form: dict = None
    headers: dict = field(default_factory=dict)  # "{token}" is the one of the last login
    reads: tuple = ()
    exact: bool = False                          # the whole body is the library's, and its challenge
    token: str = None                            # the member that holds the token, when this is a login
    differs: str = None
    why: str = None


def json_calls():
    """Flask-JWT-Extended: register, log in, look, log out."""
    user = {"username": "carol", "password": PASSWORD}
    bearer = {"Authorization": "Bearer {token}"}
    return [
        Call("register", "POST", "/register", json=user, reads=("message",)),
        Call("register again", "POST", "/register", json=user, reads=("message",)),
        Call("wrong password", "POST", "/login", json={**user, "password": WRONG}, reads=("message",)),
        Call("log in", "POST", "/login", json=user, token="access_token"),
        Call("look", "GET", "/protected", headers=bearer, reads=("logged_in_as",)),
        Call("without a token", "GET", "/protected", reads=("msg",), exact=True),
        Call("another scheme", "GET", "/protected", headers={"Authorization": "Basic eDp5"}, reads=("msg",), exact=True),
        Call("the scheme alone", "GET", "/protected", headers={"Authorization": "Bearer"}, reads=("msg",), exact=True),
        Call("two words", "GET", "/protected", headers={"Authorization": "Bearer a b"}, reads=("msg",), exact=True),
        Call("rubbish", "GET", "/protected", headers={"Authorization": "Bearer rubbish"}, reads=("msg",), exact=True),
        Call("a changed token", "GET", "/protected", headers={"Authorization": "Bearer {changed}"}, reads=("msg",), exact=True),
        Call("log out", "POST", "/logout", headers=bearer, reads=("message",)),
        Call("after logging out", "GET", "/protected", headers=bearer, reads=("msg",), exact=True),
        Call("a short password", "POST", "/register", json={"username": "dave", "password": "x"}, reads=("message",),
             differs="422 with the reason, where the app took any password",
             why="[auth.password] min_length is 8; hashes that are imported keep working, however short the password"),
    ]


def form_calls():
    """Forms with an address, x-access-token."""
    person = {"name": "Carol Jones", "email": "carol@example.com", "password": PASSWORD}
    login = {"email": "carol@example.com", "password": PASSWORD}
    token = {"x-access-token": "{token}"}
    return [
        Call("sign up", "POST", "/signup", form=person),
        Call("sign up again", "POST", "/signup", form=person,
             differs="409 in place of 202",
             why="202 tells a client that all is well; the text was for people"),
        Call("log in", "POST", "/login", form=login, token="token",
             differs="200 in place of 201",
             why="a login makes nothing that has an address of its own; the client reads `token` either way"),
        Call("wrong password", "POST", "/login", form={**login, "password": WRONG},
             differs="401 in place of 403, and a JSON body",
             why="the app's 401 and 403 told strangers who has an account"),
        Call("unknown address", "POST", "/login", form={**login, "email": "nobody@example.com"}),
        Call("look", "GET", "/user", headers=token, reads=("name", "email")),
        Call("without a token", "GET", "/user"),
        Call("rubbish", "GET", "/user", headers={"x-access-token": "rubbish"}),
    ]


def flask_jwt_calls():
    """Flask-JWT: /auth, and `Authorization: JWT`."""
    words = ("status_code", "error", "description")
    joe = {"username": "joe", "password": PASSWORD}
    with_value = lambda value: {"headers": {"Authorization": value}}  # noqa: E731
    return [
        Call("log in", "POST", "/auth", json=joe, token="access_token"),
        Call("wrong password", "POST", "/auth", json={**joe, "password": WRONG}, reads=words, exact=True),
        Call("unknown user", "POST", "/auth", json={**joe, "username": "nobody"}, reads=words, exact=True),
        Call("no password", "POST", "/auth", json={"username": "joe"}, reads=words, exact=True),
        Call("look", "GET", "/protected", **with_value("JWT {token}"), reads=("id",)),
        Call("the scheme in lower case", "GET", "/protected", **with_value("jwt {token}"), reads=("id",)),
        Call("without a token", "GET", "/protected", reads=words, exact=True),
        Call("another scheme", "GET", "/protected", **with_value("Bearer {token}"), reads=words, exact=True),
        Call("the scheme alone", "GET", "/protected", **with_value("JWT"), reads=words, exact=True),
        Call("two words", "GET", "/protected", **with_value("JWT a b"), reads=words, exact=True),
        Call("rubbish", "GET", "/protected", **with_value("JWT rubbish"), reads=words, exact=True),
        Call("a changed token", "GET", "/protected", **with_value("JWT {changed}"), reads=words, exact=True),
        Call("a third member", "POST", "/auth", json={**joe, "remember": True}, reads=words,
             differs="200 in place of 401",
             why="Flask-JWT refuses bodies of other than two members; clients of it send two"),
    ]


def x_access_token_calls():
    """A front end of React or Angular: JSON under /api/auth, x-access-token."""
    person = {"username": "carol", "email": "carol@example.com", "password": PASSWORD}
    login = {"username": "carol", "password": PASSWORD}
    return [
        Call("sign up", "POST", "/api/auth/signup", json=person, reads=("message",),
             differs="201 in place of 200, and another sentence",
             why="an account was made (RFC 9110 section 15.3.2); fetch and axios take both for success"),
        Call("sign up again", "POST", "/api/auth/signup", json=person,
             differs="409 in place of 400",
             why="the front end shows `message` of any error; both have one"),
        Call("sign in", "POST", "/api/auth/signin", json=login, reads=("username", "email", "roles"), token="accessToken"),
        Call("its id", "POST", "/api/auth/signin", json=login, reads=("id",),
             differs='"1" in place of 1',
             why="ids are texts here; JavaScript that compares with === has to know"),
        Call("wrong password", "POST", "/api/auth/signin", json={**login, "password": WRONG}),
        Call("unknown user", "POST", "/api/auth/signin", json={**login, "username": "nobody"},
             differs="401 in place of 404",
             why="404 told strangers who has an account"),
        Call("the user's board", "GET", "/api/test/user", headers={"x-access-token": "{token}"}, reads=("message",)),
        Call("the public board", "GET", "/api/test/all", reads=("message",)),
        Call("without a token", "GET", "/api/test/user",
             differs="401 in place of 403",
             why="whoever said nothing is unknown, not forbidden (RFC 9110 section 15.5.2)"),
        Call("rubbish", "GET", "/api/test/user", headers={"x-access-token": "rubbish"}),
    ]
