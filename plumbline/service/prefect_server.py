"""Prefect's server as `plumbline up` runs it: the same server, at rest while nothing happens.

As it comes it looks ten times a second for work of its own, half a percent of a core, and no setting changes that.
"""

from datetime import timedelta
from functools import partial

from docket import Worker
from prefect.server.api import background_workers
from prefect.server.api.server import create_app

__all__ = ["create_app"]

LOOK = timedelta(seconds=1)

vars(background_workers)["Worker"] = partial(Worker, minimum_check_interval=LOOK, scheduling_resolution=LOOK)
