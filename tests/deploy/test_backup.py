"""The commands of docs/backup.md, as they stand there: what they copy comes back, while others go on writing."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.data.intake import take_in
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.project.home import Home, enter
from plumbline.tracking.recording import TRIGGER, Recording
from plumbline.tracking.store import prepare
from plumbline.web.security import open_keys
from testing.fake_project import CHECKOUT
from testing.postgres import start_cluster

BLOCKS = re.findall(r"(?:^    .*\n(?:^\n(?=    ))?)+", (CHECKOUT / "docs/backup.md").read_text(encoding="utf-8"),
                    re.MULTILINE)
BACK_UP, RESTORE, DUMP, LOAD = (re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in BLOCKS)
ROW = json.dumps({"prompt": "Why?", "chosen": "yes", "rejected": "no"}).encode()


def run(commands: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", f"{commands}\ntrue"], cwd=folder, env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_checkout_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / "runs").mkdir()
    for file in ("params.yaml", "dvc.yaml"):
        (root / file).write_text((CHECKOUT / file).read_text())
    home = Home(root, root / ".plumbline")
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    enter(home)
    prepare(home)
    recording = Recording(home, "20260101-000000-abcdef", {TRIGGER: "test"})
    recording.file(root / "params.yaml", "record")
    recording.end("FINISHED")
    digest = take_in(home, ROW, "api.jsonl").arrival.digest
    token = open_keys(home)[0].token
    # Somebody is writing: what is not committed is not in the copy, and what is, is.
    writer = sqlite3.connect(home.folder / "mlflow.db", isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE noted (what)")
    writer.execute("INSERT INTO noted VALUES ('before')")
    writer.execute("BEGIN")
    writer.execute("INSERT INTO noted VALUES ('half done')")
    run(BACK_UP, root)
    writer.close()
    backup = root / "backup"
    kept = tmp_path / "elsewhere"
    backup.rename(kept)
    root.rename(tmp_path / "lost")
    root.mkdir()
    kept.rename(root / "backup")
    run("\n".join(RESTORE.splitlines()[:-1]), root)
    assert [arrival.digest for arrival in arrivals(home.preferences)] == [digest]
    assert (home.folder / "token").read_text().strip() == token
    assert stat.S_IMODE((home.folder / "token").stat().st_mode) == 0o600
    restored = sqlite3.connect(home.folder / "mlflow.db")
    assert restored.execute("SELECT what FROM noted").fetchall() == [("before",)]
    assert restored.execute("SELECT name FROM runs").fetchall() == [("20260101-000000-abcdef",)]
    assert len(list(home.artifacts.rglob("params.yaml"))) == 1


def test_a_database_comes_back(tmp_path: Path) -> None:
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("no PostgreSQL")

    def run_here(commands: str) -> None:
        """The line for PostgreSQL, on a server of this machine instead of the one in the container."""
        line = next(line for line in commands.splitlines() if " exec -T postgres " in line)
        place = f"PGHOST=127.0.0.1 PGPORT={cluster.port}"
        run(line.replace("docker compose -f deploy/compose.yaml exec -T postgres", place), tmp_path)

    try:
        psql(cluster.port, "postgres", "CREATE ROLE plumbline SUPERUSER LOGIN")
        psql(cluster.port, "postgres", "CREATE DATABASE feedback")
        psql(cluster.port, "feedback", "CREATE TABLE verdicts AS SELECT 'größer' AS said")
        (tmp_path / "backup").mkdir()
        run_here(DUMP)
        psql(cluster.port, "postgres", "DROP DATABASE feedback")
        run_here(LOAD)
        assert psql(cluster.port, "feedback", "SELECT said FROM verdicts").strip() == "größer"
    finally:
        cluster.stop()


def psql(port: int, database: str, command: str) -> str:
    done = subprocess.run(["psql", "-qAt", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database, "-c",
                           command], check=True, capture_output=True, text=True)
    return done.stdout
