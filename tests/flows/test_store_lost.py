"""A whole run while MLflow's store is away, or after it was lost."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from testing.fake_project import plumbline

pytestmark = [pytest.mark.slow]
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PLUMBLINE_MLFLOW_PATIENCE": "1"}


def champion(database: Path) -> str:
    """The run that registered the champion; read past MLflow, which keeps the lost file open in this process."""
    with closing(sqlite3.connect(database)) as connection:
        [(run,)] = connection.execute(
            "SELECT tag.value FROM registered_model_aliases alias JOIN model_version_tags tag USING (name, version) "
            "WHERE alias.alias = 'champion' AND tag.key = 'pipeline_run'").fetchall()
    return str(run)


@pytest.mark.evidence
def test_a_lost_registry_is_filled_again(project: Path) -> None:
    """The cache still has every stage, so only the version in the registry is missing: it is made again."""
    home, aside = project / ".plumbline", project / "aside"
    aside.mkdir()
    for name in ("mlflow.db", "artifacts"):
        (home / name).rename(aside / name)
    try:
        again = plumbline(project, "run", "--json", timeout=400)
        assert again.returncode == 0, again.stderr
        stages = json.loads(again.stdout)["stages"]
        assert {name: stage["status"] for name, stage in stages.items()}["ppo"] == "reused"
        assert champion(home / "mlflow.db") == json.loads(again.stdout)["id"]
        once_more = plumbline(project, "run", "--json", timeout=400)
        assert {stage["status"] for stage in json.loads(once_more.stdout)["stages"].values()} == {"reused"}
    finally:
        for name in ("mlflow.db", "artifacts"):
            shutil.rmtree(home / name, ignore_errors=True)
            (home / name).unlink(missing_ok=True)
            (aside / name).rename(home / name)


def test_without_the_tracking_server_everything_but_the_registry_is_done(project: Path) -> None:
    waiting = project / ".plumbline/waiting"
    try:
        done = plumbline(project, "run", "--json", "--force", "sft", "--until", "ppo", timeout=400, **NOWHERE)
        assert done.returncode == 0, done.stderr
        stages = json.loads(done.stdout)["stages"]
        assert stages["sft"]["status"] == "ran"
        kept = [json.loads(line)["do"] for file in waiting.glob("*/writes.jsonl") for line in file.open()]
        assert {"create", "params", "metrics", "model", "file", "end"} <= set(kept)
        needs_an_answer = plumbline(project, "run", timeout=400, **NOWHERE)
        assert needs_an_answer.returncode == 2
        assert "has been away too long" in needs_an_answer.stderr
        assert "Traceback" not in needs_an_answer.stderr
    finally:
        shutil.rmtree(waiting)
