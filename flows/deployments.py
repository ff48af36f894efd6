"""When the pipeline runs by itself: one list of deployments, and the command that serves them.

    python -m flows.deployments

Serving needs a Prefect server that schedules (`prefect server start`); PREFECT_API_URL says where it is.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.lineage.home import enter, find_home
from plumbline.lineage.workspace import Request

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

API_URL = "PREFECT_API_URL"


@dataclass(frozen=True)
class Scheduled:
    """A deployment of the flow `retrain`."""

    name: str
    cron: str
    timezone: str
    request: Request


DEPLOYMENTS = (Scheduled("nightly", "0 3 * * *", "UTC", Request(trigger="schedule")),)


def main() -> None:
    """Serve all deployments until interrupted."""
    if not os.environ.get(API_URL):
        raise UserError(f"{API_URL} is not set. Start a server with `prefect server start`, and set "
                        f"{API_URL}=http://127.0.0.1:4200/api.")
    enter(find_home())
    from prefect import serve

    serve(*build(), pause_on_shutdown=False)


def build() -> "list[RunnerDeployment]":
    """The deployments as Prefect's runner takes them."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron

    from flows.retrain import retrain

    # A run that arrives during another one waits: cancelling it would lose the data that it came for.
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return [RunnerDeployment.from_flow(retrain, name=one.name, schedules=[Cron(one.cron, timezone=one.timezone)],
                                       parameters={"request": one.request.model_dump()},
                                       concurrency_limit=one_at_a_time)
            for one in DEPLOYMENTS]


if __name__ == "__main__":
    main()
