"""The pipeline under a real Prefect server: its schedule schedules, and cancelling a run leaves no process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.events import DeploymentEventTrigger
from ruamel.yaml import YAML

from flows.deployments import WORK_POOLS, WRITTEN, build, deployments, work_pools
from plumbline.config import load_params
from plumbline.notify.prefect_events import PREFERENCES_ADDED, send
from testing.fake_project import CHECKOUT, environment, holding
from testing.going_on import processes_of, running_in
from testing.in_process import command
from testing.prefect_server import Api
from testing.waiting import eventually

PARAMS = load_params(CHECKOUT)
[ALWAYS_ON] = deployments(PARAMS)


def test_prefect_yaml_is_what_the_list_says() -> None:
    text = (CHECKOUT / "prefect.yaml").read_text(encoding="utf-8")
    assert text.startswith(WRITTEN)
    assert YAML(typ="safe").load(text) == work_pools(PARAMS), (
        "run `python -m flows.deployments --work-pools > prefect.yaml`")


@pytest.mark.parametrize("pool", WORK_POOLS)
def test_served_and_deployed_are_the_same(pool: str) -> None:
    """What Prefect makes of a deployment of prefect.yaml, against what is served."""
    written = YAML(typ="safe").load((CHECKOUT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    one = next(one for one in written if one["name"] == f"{ALWAYS_ON.name}-{pool}")
    served = build(ALWAYS_ON, "checkout:1:/here")
    assert served.entrypoint.endswith(one["entrypoint"])
    assert served.parameters == one["parameters"]
    assert served.concurrency_limit == one["concurrency_limit"]["limit"]
    assert served.concurrency_options.collision_strategy.value == one["concurrency_limit"]["collision_strategy"]
    [schedule], [trigger] = served.schedules, served.triggers
    assert {"cron": schedule.schedule.cron, "timezone": schedule.schedule.timezone,
            "parameters": schedule.parameters} == one["schedules"][0]
    written_trigger = DeploymentEventTrigger.model_validate(one["triggers"][0])
    assert written_trigger.model_dump(exclude={"name"}) == trigger.model_dump(exclude={"name"})
    # A trigger whose window were longer than the wait would swallow events of data that its run does not see.
    assert trigger.within <= trigger.schedule_after


@pytest.mark.slow
@pytest.mark.evidence
def test_a_work_pool_takes_it(server: Api) -> None:
    """`prefect deploy` on the real server, with the pool that needs no container."""
    settings = environment(PREFECT_HOME=server.prefect_home, PREFECT_API_URL=server.url,
                           PLUMBLINE_ROOT=str(server.root))
    shutil.copy(CHECKOUT / "prefect.yaml", server.root / "prefect.yaml")
    for arguments in (["work-pool", "create", "plumbline-process", "--type", "process"],
                    ["--no-prompt", "deploy", "--name", "always-on-process"]):
        done = subprocess.run([sys.executable, "-m", "prefect", *arguments], cwd=server.root, env=settings, check=False,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    found = server.post("deployments/filter", {"limit": 5})
    assert isinstance(found, list)
    one, other = (next(one for one in found if one["name"] == name) for name in ("always-on", "always-on-process"))
    for field in ("parameters", "global_concurrency_limit", "concurrency_options", "parameter_openapi_schema"):
        left, right = one[field], other[field]
        if field == "global_concurrency_limit":
            left, right = left["limit"], right["limit"]
        assert left == right, field
    assert one["schedules"][0]["schedule"] == other["schedules"][0]["schedule"]
    server.post(f"deployments/{other['id']}/pause_deployment", {})


@pytest.mark.slow
def test_a_cron_deployment_gets_a_scheduled_run(server: Api) -> None:
    """Two sets of dependencies are known in which it silently does not: fastapi 0.165, sqlalchemy 2.1."""
    eventually(lambda: server.runs("SCHEDULED"), "a scheduled run", 90)
    run = server.runs("SCHEDULED")[0]
    hour = int(str(ALWAYS_ON.cron).split()[1])
    assert str(run["expected_start_time"])[11:16] == f"{hour:02d}:00"
    assert run["parameters"] == {"request": {"trigger": "schedule"}}


@pytest.mark.slow
def test_the_event_of_new_preferences_reaches_the_server(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server.url)
    assert send(PREFERENCES_ADDED, "plumbline.batch.0123", {"rows": 30}) is None

    def arrived() -> list[dict[str, object]]:
        found = server.post("events/filter", {"filter": {"event": {"name": [PREFERENCES_ADDED]}}})
        assert isinstance(found, dict)
        return list(found["events"])

    eventually(arrived, "the event", 30)
    assert arrived()[0]["payload"] == {"rows": 30}


@pytest.mark.slow
def test_the_request_is_a_form(server: Api) -> None:
    found = server.post("deployments/filter", {"deployments": {"name": {"any_": ["always-on"]}}})
    assert isinstance(found, list)
    fields = found[0]["parameter_openapi_schema"]["definitions"]["Request"]["properties"]
    assert {"params_file", "settings", "until", "force"} <= set(fields)
    assert found[0]["global_concurrency_limit"]["limit"] == 1


@contextmanager
def flow_run_in_ppo(server: Api) -> Iterator[tuple[str, Path]]:
    """A run that the deployment starts and that waits in its PPO: the id of Prefect's flow run, and its workspace."""
    body = {"parameters": {"request": {"settings": ["ppo.updates=40"], "trigger": "test"}}}
    with holding(server.root, "ppo"):
        run = server.post(f"deployments/{server.deployment()}/create_flow_run", body)
        assert isinstance(run, dict)
        eventually(lambda: running_in("ppo", server.root), "ppo")
        yield str(run["id"]), running_in("ppo", server.root)[0]
        eventually(lambda: any(one["id"] == run["id"] for one in server.runs("CANCELLED")), "the state CANCELLED", 60)


def stage_processes(server: Api) -> list[str]:
    """The commands of PPO that still run."""
    commands = (" ".join(one.cmdline()) for one in processes_of(server.root))
    return [command for command in commands if "tasks.ppo" in command]


@pytest.mark.slow
@pytest.mark.evidence
def test_cancelling_in_prefect_leaves_no_process(server: Api) -> None:
    with flow_run_in_ppo(server) as (flow_run, _):
        assert stage_processes(server)
        server.post(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
    assert stage_processes(server) == []


@pytest.mark.slow
def test_prefect_knows_of_plumbline_cancel(server: Api) -> None:
    with flow_run_in_ppo(server) as (_, workspace):
        done = command(server.root, "cancel", workspace.name, "--json", PREFECT_HOME=server.prefect_home)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"id": workspace.name, "status": "cancelled"}
    assert stage_processes(server) == []
