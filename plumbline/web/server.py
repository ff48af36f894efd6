"""Serve the pages: the socket, the address to open, and a quiet end."""

import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence

import uvicorn

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.web.app import create_app
from plumbline.web.connections import PatientProtocol, limit_connections
from plumbline.web.security import open_keys

GRACE_SECONDS = 1
"""How long an answer that is on its way may take when the server is asked to end."""
ANYWHERE = ("0.0.0.0", "::", "")
BACKLOG = 128
"""Connections that wait to be taken, and that are taken at a time."""
PLAIN = ("Whoever can listen in on the network reads what is sent, the token too: put a server that speaks "
         "TLS in front (docs/always-on.md, `On a real host`).")


def serve(home: Home, host: str, listener: socket.socket, names: Sequence[str], open_reading: bool,
          say: Callable[[str], None]) -> None:
    """Serve on a socket until SIGINT or SIGTERM; `host` is the address that it was bound to.

    Where other machines reach it, by this address or through a server in front that has one of the `names`,
    reading needs the token, unless `open_reading`.
    """
    limit_connections()
    keys, first = open_keys(home)
    plain = not is_this_machine_alone(host)
    others = plain or bool(names)
    app = create_app(home, [host, *names], private=others and not open_reading)
    address = shown_address(host, listener)
    say(f"Plumbline's pages: {with_token(address, keys.token) if first else address}")
    if not first:
        say("The token is the one from the first start; `plumbline ui --show-token` prints it again.")
    if others and open_reading:
        say("Everybody who reaches it may read everything but the token.")
    if plain:
        say(PLAIN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    # No access log: the address that signs in has the token in it.
    config = uvicorn.Config(app, http=PatientProtocol, backlog=BACKLOG, log_level="warning", access_log=False,
                            server_header=False, proxy_headers=False, timeout_graceful_shutdown=GRACE_SECONDS)
    with listener, contextlib.suppress(KeyboardInterrupt):  # how a server ends is no error
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address. Raises UserError if the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"Port {port} is in use, perhaps by another `plumbline ui`. Choose another with "
                            "`plumbline ui --port NUMBER`.") from error
        raise UserError(f"Cannot listen on {host} port {port}: {error.strerror or error}. Give an address of "
                        "this machine with --host, and a port above 1023 with --port.") from error
    return listener


def is_this_machine_alone(host: str) -> bool:
    """True if only this machine reaches what listens on the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown_address(host: str, listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    name = f"[{host}]" if ":" in host else host
    if host in ANYWHERE:
        name = "localhost"
    return f"http://{name}:{listener.getsockname()[1]}/"


def with_token(address: str, token: str) -> str:
    """Return the address that signs a browser in."""
    return f"{address}?token={token}"
