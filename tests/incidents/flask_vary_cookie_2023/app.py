"""Flask with sessions that slide; /news says nothing of anybody, and 2.2.4 sent the session's cookie with it."""

from flask import Flask, request, session

app = Flask(__name__)
app.secret_key = "of this test"


def unkept(text):
    return text, {"Cache-Control": "no-store"}


@app.post("/login")
def login():
    session.permanent = True
    session["name"] = request.headers["X-Name"]
    return unkept("welcome")


@app.get("/news")
def news():
    return "nothing new"


@app.get("/me")
def me():
    return unkept(session["name"])
