"""Prefect's server as `plumbline up` runs it: the same server behind a guard, at rest while nothing happens.

As it comes it looks for work of its own many times a second, and listens ten times a second for the
cancelling of such work, which it never does: more than a percent of a core, and no setting changes that.
"""

import functools
from datetime import timedelta

from docket import Worker
from prefect.server.api import background_workers

from plumbline.service.prefect_guard import create_app

__all__ = ["create_app"]

LOOK = timedelta(seconds=3)


class QuietWorker(Worker):
    """Worker of Prefect's own background tasks, without the listener that polls ten times a second."""

    async def _cancellation_listener(self) -> None:
        session = self._processing_session
        if session is not None:
            session.cancellation_ready.set()
            await session.stopping.wait()


vars(background_workers)["Worker"] = functools.partial(QuietWorker, minimum_check_interval=LOOK,
                                                       scheduling_resolution=LOOK)
