"""How long a client may take, and how many there may be: so that a few hundred idle sockets do not stop a
server.

Uvicorn waits for ever for a request that has begun, and takes connections until the process has no file
descriptor left. Here a request's head and body have their time, an answer that nobody reads has, and where
all places are taken the connection that has kept us waiting longest makes room: one of those that have proven
nothing, idle ones among them, and if there is none, one that sends a body. Whoever waits for an answer stays.
"""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from plumbline.web.security import OWN_CHECKS, SIGN_IN

HEAD_SECONDS = 20.0
"""From the connection, or the answer before, to the end of a request's head."""
BODY_SECONDS = 300.0
"""From the head to the end of the body: 32 MB at a hundred kilobytes a second."""
STRANGERS_BODY_SECONDS = 20.0
"""The same for a body that is read before its sender has proven anything: 2 MB at that speed."""
STRANGERS_PATHS = (SIGN_IN, *OWN_CHECKS)
"""Below these paths the proof is in the body."""
READ_SECONDS = 60.0
"""How long an answer may wait for a client that takes nothing of it."""
MOST_CONNECTIONS = 400
ENOUGH_FILES, OTHER_FILES = 8192, 100
"""Descriptors that a process asks for, and that it keeps for everything but connections."""


def limit_connections(most: int = MOST_CONNECTIONS) -> None:
    """Allow `most` connections at a time, or fewer if the system allows few file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    PatientProtocol.limit = max(1, min(most, wanted - OTHER_FILES))


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with an end to its patience."""

    limit = MOST_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None
    _waits_for: type[h11.SEND_BODY] | type[h11.IDLE] | None = None
    _stalled: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place; where none is free, close the connection that has kept us waiting longest."""
        super().connection_made(transport)
        if len(self.connections) > self.limit:
            slow = [one for one in self.connections if isinstance(one, PatientProtocol) and one is not self
                    and one._waits_for]
            # Were idle ones first, newcomers would end each other while half-sent bodies hold all places.
            strangers = [one for one in slow if one._waits_for is h11.IDLE or one._sends_unproven()]
            min(strangers or slow, key=lambda one: one._since, default=self)._give_up()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle bytes that arrived, and set the clock."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Set the clock for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for clock in (self._deadline, self._stalled):
            if clock:
                clock.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give a client that takes nothing of an answer READ_SECONDS."""
        super().pause_writing()
        self._stalled = self.loop.call_later(READ_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        """Stop that clock."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    def _watch(self) -> None:
        """Set the clock when another part of a request is awaited; single bytes do not set it back."""
        state = self.conn.their_state
        ours = self in self.connections  # and not a WebSocket's by now
        waits_for = state if ours and state in (h11.IDLE, h11.SEND_BODY) else None
        if waits_for is self._waits_for:
            return
        if self._deadline:
            self._deadline.cancel()
        self._waits_for, self._since, self._deadline = waits_for, self.loop.time(), None
        if waits_for:
            if waits_for is h11.IDLE:
                seconds = HEAD_SECONDS
            else:
                seconds = STRANGERS_BODY_SECONDS if self._is_for_strangers() else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _sends_unproven(self) -> bool:
        """True if the body proves its sender, or if the answer did not wait for it, as one that refuses."""
        return self._is_for_strangers() or self.cycle.response_complete

    def _is_for_strangers(self) -> bool:
        return self.scope["path"].startswith(STRANGERS_PATHS)

    def _give_up(self) -> None:
        self._waits_for = None
        self.connections.discard(self)  # at once, because many may come before its end is noticed
        self.transport.abort()
