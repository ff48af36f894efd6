"""Who may do what: the token, the same origin, the host's name, the size of a body, and the headers of every
answer.

Reading needs nothing on this machine; where the pages are open to others it needs the token as well. Whatever
changes something (POST, PUT, PATCH, DELETE) needs the token and the same origin:

- a program sends the token as `Authorization: Bearer TOKEN` or `X-Plumbline-Token: TOKEN`;
- a browser was given a cookie by the address that `plumbline ui` printed (`/?token=TOKEN`) or by the page
  `/sign-in`, and sends back what its page holds: the field `token` of a form (`{{ form_token() }}` in a
  template), or, from a script, the same value in the header `X-Plumbline-Token` (`{{ form_value() }}`).

Cookie and form value are derived from the token, each for its own purpose, so that none gives another away.
"""

import hashlib
import hmac
import ipaddress
import socket
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.token_files import open_token

OWN_CHECKS = ("/hooks/",)
"""Below these paths a request is checked by its page alone: a webhook proves itself by a signature of its
body."""

LARGEST_BODY = 1_000_000
"""Bytes of a request."""
OTHER_BODIES = {"/api/preferences": 32_000_000, "/hooks/": 2_000_000, "/sign-in": 10_000}
"""Bytes, for the paths that take many rows at once, and for those that read what a stranger sends."""
MOST_FIELDS = 500

TOKEN_FILE = "token"
SIGN_IN = "/sign-in"
OPEN_TO_ALL = (SIGN_IN, "/static/", "/api/health")
"""Below these paths a stranger may read, where reading needs the token."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

POLICY = ("default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
          "frame-ancestors 'none'")
SCRIPT_POLICY = f"{POLICY}; script-src 'self'; connect-src 'self'"
"""For a page that needs a script of its own."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Under `no-referrer` a browser sends `Origin: null` even with our own forms. Other sites get nothing
    # either way.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "private, no-cache",
}


class Refused(UserError):
    """A request that is not allowed, with the HTTP status that says so."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """Seconds until it makes sense to ask again."""


@dataclass(frozen=True)
class Keys:
    """The token, and what is derived from it."""

    token: str
    cookie_name: str
    """Its own for each project: browsers keep one set of cookies for all ports of a host."""

    @property
    def cookie(self) -> str:
        """The value of the browser's cookie."""
        return self._derived("cookie")

    @property
    def form(self) -> str:
        """The value that pages for a signed-in person hold, and their forms send back."""
        return self._derived("form")

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def open_keys(home: Home) -> tuple[Keys, bool]:
    """Return the keys of a project, and whether they were made by this call, at the first start."""
    token, made = open_token(home.folder / TOKEN_FILE, "the token of the web pages")
    return Keys(token, f"plumbline-{hashlib.sha256(str(home.folder).encode()).hexdigest()[:8]}"), made


visitor: ContextVar[str] = ContextVar("visitor", default="")
"""The form value of the signed-in person who asked for the page that is being rendered; empty for others."""


def signed_in() -> bool:
    """True if the visitor may change something."""
    return bool(visitor.get())


def form_value() -> str:
    """Return what a script sends as `X-Plumbline-Token`; empty for a visitor who may only read."""
    return visitor.get()


def form_token() -> Markup:
    """Return the hidden field that every form with method=post needs."""
    return Markup('<input type="hidden" name="token" value="{}">').format(form_value())


def same(given: str, wanted: str) -> bool:
    """True if both are equal; the time does not depend on how much of `given` is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


def has_cookie(headers: Headers, keys: Keys) -> bool:
    """True if the request carries the right cookie."""
    return same(sent_cookie(headers, keys), keys.cookie)


def sent_cookie(headers: Headers, keys: Keys) -> str:
    """Return the project's cookie as it was sent, or "". Other applications' cookies may be malformed."""
    return cookie_parser(headers.get("cookie", "")).get(keys.cookie_name, "")


def set_cookie(keys: Keys, secure: bool) -> str:
    """Return the header that signs a browser in for a year, or until the token changes."""
    return (f"{keys.cookie_name}={keys.cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
            + ("; Secure" if secure else ""))


def check_host(headers: Headers, names: frozenset[str]) -> None:
    """Raise Refused for a host name that is not ours: by such a name a web page reaches into a local server.

    An address in numbers is always fine, for a browser never took that from a foreign name.
    """
    host = headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower().rstrip(".") in names or _is_address(name.strip("[]")):
        return
    raise Refused(400, f"The request names the host {host!r:.100}, and this server answers to its address "
                       f"and to {', '.join(sorted(names))}. Open it by one of these, or start it with --name "
                       "NAME.")


def own_names(*given: str) -> frozenset[str]:
    """Return the host names that a server answers to: this machine's, and those that it was started with."""
    return frozenset(name.lower() for name in ("localhost", socket.gethostname(), *given)
                     if name and not _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_origin(headers: Headers) -> bool:
    """Raise Refused for what another site's page sent. Return whether a browser told the origin at all.

    Either scheme is ours: in front of this server there may be one that speaks TLS.
    """
    site, origin, host = (headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    if (site is not None and site != "same-origin") or (
            origin is not None and origin not in (f"http://{host}", f"https://{host}")):
        raise Refused(403, "This request came from another site's page. Changes are made from Plumbline's "
                           "own pages, or by a program that sends the token.")
    return site is not None or origin is not None


def is_from_elsewhere(headers: Headers) -> bool:
    """True if a browser says that another site's page made it ask."""
    return headers.get("sec-fetch-site") in ("cross-site", "same-site")


def is_secure(request: Request) -> bool:
    """True if the browser speaks TLS, with us or with a server in front. A false header harms its sender
    alone.
    """
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def sent_token(headers: Headers) -> str | None:
    """Return the token that a program, or a script, sent in a header; None without one."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    return headers.get("x-plumbline-token")


def largest_body(path: str) -> int:
    """Return the largest number of bytes that a request to `path` may have."""
    return next((limit for start, limit in OTHER_BODIES.items() if path.startswith(start)), LARGEST_BODY)


def parse_form(body: bytes) -> dict[str, str]:
    """Return the fields of a form. Raises UserError for other content, and for a field that is there
    twice.
    """
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict",
                          max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise UserError("The request should hold a form, application/x-www-form-urlencoded in UTF-8 with at "
                        f"most {MOST_FIELDS} fields, and holds something else.") from error
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise UserError("A field of the form was sent twice. Go back, load the page again, and send it once "
                        "more.")
    return fields


def is_form(headers: Headers) -> bool:
    """True if the body is a form as our pages send it."""
    return headers.get("content-type",
                       "").partition(";")[0].strip().lower() == "application/x-www-form-urlencoded"


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a posted form, without the token. Raises UserError for other content."""
    if not is_form(request.headers):
        raise UserError("The request should hold a form (Content-Type: application/x-www-form-urlencoded).")
    fields = parse_form(await request.body())
    fields.pop("token", None)
    return fields


def without_token(query: str) -> str:
    """Return a query string without the token."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(key, value) for key, value in pairs if key != "token"])
