"""The guard at the door: every request passes it, and every answer leaves with its headers, errors and files too."""

import logging

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plumbline.errors import UserError
from plumbline.web import security
from plumbline.web.attempts import Attempts
from plumbline.web.problems import answer_to
from plumbline.web.security import Keys, Refused, Visitor

log = logging.getLogger("plumbline.web")
NEEDS_TOKEN = ("This needs the token. In a browser, open the address that `plumbline ui` printed at its first start "
               "(`plumbline ui --show-token` prints it again), then come back; a program sends "
               "`Authorization: Bearer TOKEN`.")
WRONG_TOKEN = "The token is wrong. `plumbline ui --show-token` prints the right one."


class Guard:
    """ASGI middleware around all pages."""

    def __init__(self, app: ASGIApp, keys: Keys, names: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._names = names
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, answer, and let no error out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in security.HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await answer_to(Request(scope), error)(scope, receive, send_guarded)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        security.check_host(request.headers, self._names)
        signed_in = security.has_cookie(request.headers, self._keys)
        reset = security.visitor.set(Visitor(self._keys.form if signed_in else None))
        try:
            if request.method in security.SAFE_METHODS:
                await (self._with_token(request) or self._app)(scope, receive, send)
            else:
                body = await _whole_body(request, receive)
                answer = self._check(request, body, signed_in)
                await (answer or self._app)(scope, _again(body, receive), send)
        finally:
            security.visitor.reset(reset)

    def _with_token(self, request: Request) -> Response | None:
        """Sign in whoever opened the address with the token."""
        token = request.query_params.get("token")
        if token is None:
            return None
        self._try(request, token)
        query = security.without_token(request.url.query)
        return self._welcome(request, request.url.path + (f"?{query}" if query else ""))

    def _check(self, request: Request, body: bytes, signed_in: bool) -> Response | None:
        """Refuse what may not change anything; sign in whoever gave the token on the page for it."""
        path, headers = request.url.path, request.headers
        if path.startswith(security.OWN_CHECKS):
            return None
        vouched = security.check_origin(headers)
        if path == security.SIGN_IN:
            self._try(request, security.parse_form(body).get("token", "").strip())
            return self._welcome(request, "/")
        header = security.sent_token(headers)
        field = security.parse_form(body).get("token") if security.is_form(headers) else None
        # A signed-in person goes on whatever others at the same address try: her values cannot be guessed.
        if signed_in and vouched and security.same(header or field or "", self._keys.form):
            return None
        if header is not None:
            self._try(request, header)
            return None
        if field or security.sent_cookie(headers, self._keys):
            self._refuse_if_too_many(request)
            if not signed_in:
                self._attempts.failed(_address(request))
        raise Refused(403, NEEDS_TOKEN)

    def _try(self, request: Request, token: str) -> None:
        self._refuse_if_too_many(request)
        if not security.same(token, self._keys.token):
            self._attempts.failed(_address(request))
            raise Refused(403, WRONG_TOKEN)

    def _refuse_if_too_many(self, request: Request) -> None:
        wait = self._attempts.wait(_address(request))
        if wait:
            raise Refused(429, f"Too many wrong tokens came from this address. Try again in {wait} s.", wait)

    def _welcome(self, request: Request, target: str) -> Response:
        # A path that begins with two slashes would lead to another host.
        answer = RedirectResponse("/" + target.lstrip("/\\"), status_code=303)
        answer.headers.append("set-cookie", security.set_cookie(self._keys, request.url.scheme == "https"))
        return answer


async def _whole_body(request: Request, receive: Receive) -> bytes:
    """The request's body. Raises Refused when it is larger than its path allows, said beforehand or not."""
    limit = security.largest_body(request.url.path)
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > 2 * limit:
        raise _too_large(limit)
    body, size, more = bytearray(), 0, True
    # What is a little too large is read to its end and dropped: a client that is still sending hears no answer.
    while more and size <= 2 * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request ended before it was complete.")
        size += len(message.get("body", b""))
        if size <= limit:
            body += message.get("body", b"")
        more = message.get("more_body", False)
    if size > limit:
        raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The request is larger than the {limit:,} bytes that this address takes. Send it in parts.")


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand the body on as if it had just arrived."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
