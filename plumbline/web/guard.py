"""The guard at the door: every request passes it, and every answer leaves with its headers, errors and files
too.

It looks at the head of a request first. A body is read only from who may send one: the token, or the cookie
of a signed-in browser, is in the head. Only sign-ins and webhooks prove themselves by their bodies, which are
small and have little time (plumbline.web.connections).
"""

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plumbline.errors import as_user_error
from plumbline.web import security
from plumbline.web.bodies import given_again, whole_body
from plumbline.web.problems import answer_to
from plumbline.web.security import Keys, Refused

log = logging.getLogger("plumbline.web")
NEEDS_TOKEN = ("This needs the token. In a browser, open the address that `plumbline ui` printed at its "
               "first start (`plumbline ui --show-token` prints it again), then come back; a program sends "
               "`Authorization: Bearer TOKEN`.")
WRONG_TOKEN = "The token is wrong. `plumbline ui --show-token` prints the right one."
TWO_LENGTHS = "The request says in two ways where it ends (Content-Length and Transfer-Encoding)."
MOST_FAILURES = 10
WINDOW_SECONDS = 60.0
MOST_ADDRESSES = 1_000
"""Addresses that are remembered; the one that failed longest ago is forgotten first."""


class Guard:
    """ASGI middleware around all pages."""

    def __init__(self, app: ASGIApp, keys: Keys, names: frozenset[str], private: bool) -> None:
        self._app = app
        self._keys = keys
        self._names = names
        self._private = private
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, answer, and let no error out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        without_body = scope["method"] == "HEAD"

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in security.HEADERS.items():
                    headers.setdefault(name, value)
            await send({**message, "body": b""} if without_body and "body" in message else message)

        scope = {**scope, "method": "GET"} if without_body else scope
        try:
            await self._answer(scope, receive, send_guarded)
        except Exception as error:
            known = as_user_error(error)
            if known is None:
                log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await answer_to(Request(scope), known or error)(scope, receive, send_guarded)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        security.check_host(request.headers, self._names)
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            raise Refused(400, TWO_LENGTHS)  # servers that disagree on it take a body for a request
        signed_in = security.has_cookie(request.headers, self._keys)
        reset = security.visitor.set(self._keys.form if signed_in else "")
        try:
            if request.method in security.SAFE_METHODS:
                answer = self._with_token(request) or self._closed(request, signed_in)
                await (answer or self._app)(scope, receive, send)
            elif request.url.path.startswith(security.OWN_CHECKS):
                await self._app(scope, receive, send)
            else:
                await self._change(request, signed_in, send)
        finally:
            security.visitor.reset(reset)

    async def _change(self, request: Request, signed_in: bool, send: Send) -> None:
        """Pass on a request that changes something, if its sender may; sign in the sender of the form with
        the token.
        """
        vouched = security.check_origin(request.headers)
        signs_in = request.url.path == security.SIGN_IN
        by_form = not signs_in and self._needs_form(request, signed_in and vouched)
        body = await whole_body(request, request.receive)
        answer: Response | None = None
        if signs_in:
            self._try(request, security.parse_form(body).get("token", "").strip())
            answer = self._welcome(request, "/")
        elif by_form and not security.same(security.parse_form(body).get("token", ""), self._keys.form):
            raise Refused(403, NEEDS_TOKEN)
        await (answer or self._app)(request.scope, given_again(body, request.receive), send)

    def _needs_form(self, request: Request, at_home: bool) -> bool:
        """True if a field of the form must prove the sender; `at_home` is a signed-in browser on a page of
        ours.

        Raises Refused where the head of the request says that it is not allowed.
        """
        header = security.sent_token(request.headers)
        # A signed-in person goes on whatever others at the same address try: her values cannot be guessed.
        if header is None and at_home and security.is_form(request.headers):
            return True
        if header is not None:
            if not (at_home and security.same(header, self._keys.form)):
                self._try(request, header)
            return False
        if security.sent_cookie(request.headers,
                                self._keys) and not security.has_cookie(request.headers, self._keys):
            self._count(request)
        raise Refused(403, NEEDS_TOKEN)

    def _with_token(self, request: Request) -> Response | None:
        """Sign in a browser that opened the address with the token; None for another address."""
        token = request.query_params.get("token")
        if token is None:
            return None
        self._try(request, token)
        query = security.without_token(request.url.query)
        return self._welcome(request, request.url.path + (f"?{query}" if query else ""))

    def _closed(self, request: Request, signed_in: bool) -> Response | None:
        """Return the answer to a stranger where reading needs the token; None for a visitor who may read."""
        path = request.url.path
        if not self._private or signed_in or path.startswith(security.OPEN_TO_ALL):
            return None
        header = security.sent_token(request.headers)
        if header is not None:
            self._try(request, header)
            return None
        if path.startswith("/api/"):
            raise Refused(401, NEEDS_TOKEN)
        return RedirectResponse(security.SIGN_IN, status_code=303)

    def _try(self, request: Request, token: str) -> None:
        """Raise Refused for a wrong token. The right one always passes, because it cannot be guessed."""
        if security.same(token, self._keys.token):
            return
        # A picture on another site's page may ask with a token: that is nobody's guess.
        if not security.is_from_elsewhere(request.headers):
            self._count(request)
        raise Refused(403, WRONG_TOKEN)

    def _count(self, request: Request) -> None:
        address = request.client.host if request.client else ""
        wait = self._attempts.wait(address)
        if wait:
            raise Refused(429, f"Too many wrong tokens came from this address. Try again in {wait} s.", wait)
        self._attempts.failed(address)

    def _welcome(self, request: Request, target: str) -> Response:
        # A path that begins with two slashes would lead to another host.
        answer = RedirectResponse("/" + target.lstrip("/\\"), status_code=303)
        answer.headers.append("set-cookie", security.set_cookie(self._keys, security.is_secure(request)))
        return answer


class Attempts:
    """Counts failures by address, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def failed(self, address: str) -> None:
        """Count a wrong token of an address."""
        with self._lock:
            times = self._failures.setdefault(address, deque(maxlen=MOST_FAILURES))
            times.append(self._clock())
            self._failures.move_to_end(address)
            while len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def wait(self, address: str) -> int:
        """Return the seconds until an address may try again, or 0."""
        with self._lock:
            times = self._failures.get(address)
            if times is None or len(times) < MOST_FAILURES:
                return 0
            left = times[0] + WINDOW_SECONDS - self._clock()
            return max(0, math.ceil(left))

    def __len__(self) -> int:
        return len(self._failures)
