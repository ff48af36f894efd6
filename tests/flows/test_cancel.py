"""`plumbline cancel` on a run that a Prefect server started: Prefect cancels it, and knows."""

import json
from pathlib import Path

import pytest

from testing.fake_project import plumbline
from testing.going_on import processes_of
from testing.prefect_server import Api
from testing.waiting import eventually


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_of_a_deployment(server: Api) -> None:
    def in_ppo() -> list[Path]:
        found = server.root.glob("runs/*/logs/ppo.progress.jsonl")
        return [file for file in found if file.stat().st_size > 500
                and json.loads((file.parents[1] / "run.json").read_text())["status"] == "running"]

    body = {"parameters": {"request": {"settings": ["ppo.updates=4000"], "trigger": "test"}}}
    flow = server.post(f"deployments/{server.deployment()}/create_flow_run", body)
    assert isinstance(flow, dict)
    eventually(in_ppo, "ppo", 180)
    run = in_ppo()[0].parents[1].name
    done = plumbline(server.root, "cancel", run, "--json", PREFECT_API_URL=server.url, PREFECT_HOME=server.prefect_home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"id": run, "status": "cancelled"}
    eventually(lambda: any(one["id"] == flow["id"] for one in server.runs("CANCELLED")), "the state CANCELLED", 60)
    assert not [process for process in processes_of(server.root) if "tasks.ppo" in " ".join(process.cmdline())]
