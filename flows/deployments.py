"""When the pipeline runs by itself: one list of deployments, which is served here or written down for work
pools.

    python -m flows.deployments                             # serve: `plumbline up` does the same
    python -m flows.deployments --work-pools > prefect.yaml # after a change of params.yaml's block `retrain`

Serving needs a Prefect server that schedules; PREFECT_API_URL says where it is.
"""

import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from plumbline.config import Params, load_params
from plumbline.errors import UserError
from plumbline.notify.prefect_events import PREFERENCES_ADDED
from plumbline.project.home import API_URL, Home, enter, find_home
from plumbline.retraining.clock import check_clock
from plumbline.runs.not_run import BY_NEW_PREFERENCES, BY_THE_CLOCK
from plumbline.service.flow_runs import DEPLOYMENT, checkout_tag, require_own_deployment
from plumbline.service.housekeeping import Housekeeping

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

ENTRYPOINT = "flows/retrain.py:retrain"
FROM_THE_FORM = "Prefect"
SET_FOLDER = "prefect.deployments.steps.set_working_directory"
WORK_POOLS = ("process", "docker", "kubernetes")
WRITTEN = "# Written by `python -m flows.deployments --work-pools`; docs/always-on.md says how to use it.\n"


@dataclass(frozen=True)
class Deployment:
    """A way in which the flow `retrain` is started without a command line."""

    name: str
    cron: str | None
    timezone: str
    event: str
    debounce_seconds: float
    """A run starts that long after the event; further events meanwhile belong to it."""


def deployments(params: Params) -> tuple[Deployment, ...]:
    """Return all deployments: one, so that runs by the clock and runs for new preferences never overlap.

    Raises UserError for a schedule that Prefect does not take.
    """
    chosen = params.retrain
    check_clock(chosen)
    return (Deployment(DEPLOYMENT, chosen.cron, chosen.timezone, PREFERENCES_ADDED, chosen.debounce_seconds),)


def request(trigger: str) -> dict[str, object]:
    """Return the flow's parameters: a `Request`, of which Prefect's form shows the other fields too."""
    return {"request": {"trigger": trigger}}


def build(one: Deployment, tag: str) -> "RunnerDeployment":
    """Return a deployment as Prefect's runner takes it; `tag` says whose it is."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron

    from flows.retrain import retrain

    wait = timedelta(seconds=one.debounce_seconds)
    schedules = []
    if one.cron:
        schedules = [Cron(one.cron, timezone=one.timezone, parameters=request(BY_THE_CLOCK))]
    # A run that comes during another one waits: cancelling it would lose the data that it came for.
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return RunnerDeployment.from_flow(
        retrain, name=one.name, parameters=request(FROM_THE_FORM), schedules=schedules,
        concurrency_limit=one_at_a_time, tags=[tag],
        # The run starts after the window closes, so it sees every batch whose event the window has swallowed.
        triggers=[DeploymentEventTrigger(name=f"retrain/{one.name}", expect={one.event}, within=wait,
                                         schedule_after=wait, parameters=request(BY_NEW_PREFERENCES))])


def work_pools(params: Params) -> dict[str, object]:
    """Return the content of prefect.yaml: every deployment for every kind of work pool."""
    return {"name": "plumbline", "pull": [{SET_FOLDER: {"directory": "{{ $PLUMBLINE_ROOT }}"}}],
            "deployments": [_for_pool(one, pool) for one in deployments(params) for pool in WORK_POOLS]}


def _for_pool(one: Deployment, pool: str) -> dict[str, object]:
    schedule = {"cron": one.cron, "timezone": one.timezone, "parameters": request(BY_THE_CLOCK)}
    trigger = {"type": "event", "name": f"retrain/{one.name}-{pool}", "enabled": True, "expect": [one.event],
               "within": one.debounce_seconds, "schedule_after": one.debounce_seconds,
               "parameters": request(BY_NEW_PREFERENCES)}
    return {"name": f"{one.name}-{pool}", "entrypoint": ENTRYPOINT, "parameters": request(FROM_THE_FORM),
            "schedules": [schedule] if one.cron else [], "triggers": [trigger],
            "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
            "work_pool": {"name": f"plumbline-{pool}", "job_variables": _job(pool)}}


def _job(pool: str) -> dict[str, object]:
    """Return the job variables of a kind of work pool: image, environment and volumes."""
    if pool == "process":
        return {}
    names = ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI")
    environment = {name: f"{{{{ ${name} }}}}" for name in names}
    job: dict[str, object] = {"image": "{{ $PLUMBLINE_IMAGE }}", "env": environment}
    if pool == "docker":  # the volumes of deploy/compose.yaml: a job's container goes, what it made stays
        kept = {"data": "data", "runs": "runs", "home": ".plumbline"}
        job["volumes"] = [f"plumbline_{volume}:/plumbline/{folder}" for volume, folder in kept.items()]
        job["auto_remove"] = True
    return job


def main() -> None:
    """Serve all deployments until interrupted, or print prefect.yaml. A user's mistake is one paragraph."""
    try:
        home = find_home()
        if sys.argv[1:] == ["--work-pools"]:
            text = work_pools(load_params(home.root))
            sys.stdout.write(WRITTEN)
            YAML().dump(text, sys.stdout)
        else:
            serve_all(home)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


def serve_all(home: Home) -> None:
    """Serve all deployments until interrupted, and look after what belongs to them.

    Raises UserError where no server is named, and where it serves another checkout.
    """
    if not os.environ.get(API_URL):
        raise UserError(f"{API_URL} is not set. `plumbline up` starts a server and serves; or start one with "
                        f"`prefect server start` and set {API_URL}=http://127.0.0.1:4200/api.")
    params = load_params(home.root)
    enter(home)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    with contextlib.suppress(OSError):  # what serves says that the server is away
        require_own_deployment(home)
    from prefect import serve

    tag = checkout_tag(home)
    Housekeeping(home, params, partial(_apply, tag)).start()
    serve(*(build(one, tag) for one in deployments(params)), pause_on_shutdown=False)


def _apply(tag: str, params: Params) -> None:
    """Give the server other schedules and triggers."""
    for one in deployments(params):
        build(one, tag).apply()


if __name__ == "__main__":
    main()
