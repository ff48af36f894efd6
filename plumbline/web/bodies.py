"""The body of a request: read whole, up to a size, when it is known that whoever sent it may send one."""

from starlette.requests import Request
from starlette.types import Message, Receive

from plumbline.web.security import Refused, largest_body


async def whole_body(request: Request, receive: Receive) -> bytes:
    """Return the request's body. Raises Refused if it is larger than its path allows, announced or not."""
    limit = largest_body(request.url.path)
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > 2 * limit:
        raise _too_large(limit)
    body, size, more = bytearray(), 0, True
    # What is a little too large is read to its end and dropped: a client that is still sending hears no
    # answer.
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


def given_again(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives this body first, as if it had just arrived."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The request is larger than the {limit:,} bytes that this address takes. Send it in "
                        "parts.")
