"""The command `plumbline ui`: the web pages."""

from socket import socket
from typing import Annotated

import typer

from plumbline.project.home import enter, find_home

LOCAL, PORT = "127.0.0.1", 4280


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = PORT,
    name: Annotated[list[str] | None, typer.Option(metavar="NAME", envvar="PLUMBLINE_NAMES", help=
                    "A host name that others open it by, such as that of a proxy in front; repeatable.")] = None,
    open_reading: Annotated[bool, typer.Option(envvar="PLUMBLINE_OPEN_READING", help=
        "Let everybody read who can reach an address that other machines reach, without the token.")] = False,
    inherited: Annotated[int | None, typer.Option("--socket", hidden=True)] = None,
    show_token: Annotated[bool, typer.Option("--show-token", help="Print the address with the token; start nothing.")
                          ] = False,
) -> None:
    """Show the pages: lineage, runs, data, models, feedback."""
    home = find_home()
    enter(home)
    if show_token:
        from plumbline.web.security import open_keys

        typer.echo(f"http://{LOCAL if host == '0.0.0.0' else host}:{port}/?token={open_keys(home)[0].token}")
        return
    from plumbline.web.server import listen, serve

    # `plumbline up` holds the socket, so that nobody is refused while killed pages are started again.
    serve(home, host, listen(host, port) if inherited is None else socket(fileno=inherited), name or [], open_reading,
          typer.echo)
