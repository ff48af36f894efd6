"""The door of Prefect's server: it answers to its own names, and to no other site's pages.

Whoever may talk to Prefect's API can run code where the worker runs. So it asks for a key
(`PREFECT_SERVER_API_AUTH_STRING`); and because a browser carries requests of any page to a server on its own
machine, this stands before it: a foreign `Host` is how a page reaches in by a name of its own that leads here
(DNS rebinding), and a foreign `Origin` is another site's page. For WebSockets, to which no rule of browsers
applies, as well.
"""

from urllib.parse import urlsplit

from prefect.server.api.server import create_app as prefect_app
from prefect.settings import get_current_settings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from plumbline.web.security import Refused, check_host, own_names

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
VIOLATION = 1008
"""WebSocket's status for what is not allowed."""


def create_app() -> "PrefectGuard":
    """Return Prefect's application behind its guard. Raises ValueError if no key is set."""
    key = get_current_settings().server.api.auth_string
    if key is None or not key.get_secret_value():
        raise ValueError("PREFECT_SERVER_API_AUTH_STRING is not set: whoever reaches this server could run "
                         "code.")
    return PrefectGuard(prefect_app())


class PrefectGuard:
    """ASGI middleware around Prefect's application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._names = own_names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to Prefect, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            try:
                check_host(Headers(scope=scope), self._names)
                _check_origin(Headers(scope=scope), scope["server"])
            except Refused as error:
                await _refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)


def _check_origin(headers: Headers, server: tuple[str, int | None] | None) -> None:
    """Raise Refused for a page of another site.

    Programs send no Origin; Prefect's own pages may be open by either of two names.
    """
    origin = headers.get("origin")
    if origin is None:
        return
    try:
        place = urlsplit(origin)
        ours = place.netloc == headers.get("host") or (
            place.hostname in THIS_MACHINE and server is not None and place.port == server[1])
    except ValueError:
        ours = False
    if not ours:
        raise Refused(403, "This request came from another site's page. Prefect's server answers to its own "
                           "pages, and to programs that have its key.")


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": VIOLATION, "reason": str(error)[:100]})
    else:
        await JSONResponse({"detail": str(error)}, error.status)(scope, receive, send)
