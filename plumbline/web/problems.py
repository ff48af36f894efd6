"""What a request gets that could not be served: a page for a person, JSON for a program, never a
traceback.
"""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from plumbline.errors import DiskFull, UserError
from plumbline.web.security import Refused
from plumbline.web.site import NotFound, site_of

FOR_PROGRAMS = ("/api/", "/hooks/")
BUG = ("Something went wrong in Plumbline itself. The server's log has the details; please report it with "
       "them.")
NOWHERE = "There is nothing at this address. It may have been mistyped, or what it showed is gone."


def answer_to(request: Request, error: Exception) -> Response:
    """Return the answer that says what went wrong: a page, or JSON for a program."""
    status, message = _status(error), _message(error)
    headers = {}
    if isinstance(error, Refused) and error.retry_after:
        headers["retry-after"] = str(error.retry_after)
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.BAD_REQUEST):
        # Otherwise the rest of the request would be read, or even taken for another one.
        headers["connection"] = "close"
    if isinstance(error, HTTPException) and error.headers:
        headers |= error.headers
    if request.url.path.startswith(FOR_PROGRAMS):
        return JSONResponse({"detail": message}, status, headers)
    page = site_of(request).page("error.html", status, title=HTTPStatus(status).phrase, message=message)
    page.headers.update(headers)
    return page


def add_error_pages(app: FastAPI) -> None:
    """Answer the pages' expected errors with `answer_to`. The guard logs all others."""

    async def answer(request: Request, error: Exception) -> Response:
        return answer_to(request, error)

    for kind in (UserError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def _status(error: Exception) -> int:
    if isinstance(error, Refused | NotFound):
        return error.status
    if isinstance(error, DiskFull):
        return HTTPStatus.INSUFFICIENT_STORAGE
    if isinstance(error, UserError):
        return 400
    if isinstance(error, HTTPException):
        return error.status_code
    return 422 if isinstance(error, RequestValidationError) else 500


def _message(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RequestValidationError):
        problems = ((".".join(map(str, one["loc"][1:])), one["msg"]) for one in error.errors())
        return "; ".join(f"{field}: {said}" for field, said in problems) + "."
    if isinstance(error, HTTPException):
        return NOWHERE if error.status_code == 404 and error.detail == "Not Found" else error.detail
    return BUG
