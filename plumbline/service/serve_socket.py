"""Serve an ASGI application on a socket that the supervisor holds: `python -m plumbline.service.serve_socket
FD APP`.

While a killed server is started again, its clients wait in the socket's queue and are not refused: a run goes
on. `APP` is `module:name`, or `module:name()` for a function that makes it.
"""

import contextlib
import importlib
import socket
import sys

import uvicorn

from plumbline.web.connections import PatientProtocol, limit_connections

GRACE_SECONDS = 2
MOST_CONNECTIONS = 2000
"""Of Prefect and of MLflow: each run holds some for its time."""


def main(descriptor: str, target: str) -> None:
    """Serve the application `target` on the file descriptor until SIGTERM."""
    limit_connections(MOST_CONNECTIONS)
    module, _, name = target.removesuffix("()").partition(":")
    app = getattr(importlib.import_module(module), name)
    config = uvicorn.Config(app, factory=target.endswith("()"), log_level="error", access_log=False,
                            lifespan="on", http=PatientProtocol, timeout_graceful_shutdown=GRACE_SECONDS)
    with socket.socket(fileno=int(descriptor)) as listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
