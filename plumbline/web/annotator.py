"""Who gives feedback in this browser: a name and a session, in cookies; and the service that serves them.

The name is what the person says it is: it tells annotators apart, and protects nothing.
"""

import secrets
import threading
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary

from fastapi import FastAPI, Request
from fastapi.responses import Response

from plumbline.errors import UserError
from plumbline.feedback.service import FeedbackService
from plumbline.web.site import Site

NAME, SESSION = "plumbline-annotator", "plumbline-session"
LONGEST_NAME = 80
YEAR_SECONDS = 31_536_000
_services: WeakKeyDictionary[FastAPI, FeedbackService] = WeakKeyDictionary()
_one_at_a_time = threading.Lock()


def feedback_service(app: FastAPI) -> FeedbackService:
    """Return the application's feedback service, which is made when it is first needed."""
    with _one_at_a_time:
        if app not in _services:
            site = app.state.site
            assert isinstance(site, Site)
            _services[app] = FeedbackService(site.home)
        return _services[app]


def name_of(request: Request) -> str:
    """Return the name of who judges in this browser; empty if none was given."""
    return tidy(unquote(request.cookies.get(NAME, "")))


def session_of(request: Request) -> str:
    """Return the browser's session, within which verdicts can be undone; empty before it has begun."""
    given = request.cookies.get(SESSION, "")
    return given if given.isascii() and given.isalnum() and len(given) <= 64 else ""


def keep_name(request: Request, answer: Response, given: str) -> None:
    """Set the cookie with a name. Raises UserError for an empty name."""
    name = tidy(given)
    if not name:
        raise UserError("A name has at least one letter. It is kept with every verdict, so that agreement "
                        "between people can be measured.")
    _set(request, answer, NAME, quote(name, safe=""), YEAR_SECONDS)


def keep_session(request: Request, answer: Response, session: str) -> None:
    """Set the cookie with the session, which lasts until the browser is closed."""
    if session_of(request) != session:
        _set(request, answer, SESSION, session, None)


def new_session() -> str:
    """Return a new name of a session, which cannot be guessed."""
    return secrets.token_hex(16)


def _set(request: Request, answer: Response, name: str, value: str, seconds: int | None) -> None:
    answer.set_cookie(name, value, seconds, httponly=True, samesite="strict",
                      secure=request.url.scheme == "https")


def tidy(name: str) -> str:
    """Return the name without control characters and needless white space, cut to LONGEST_NAME letters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(printable.split())[:LONGEST_NAME]
