"""The commands of docs/backup.md, as they stand there: what they copy comes back, while others go on writing."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
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
COMPOSE_VOLUMES = ["storage", "data", "runs", "home"]
ROW = json.dumps({"prompt": "Why?", "chosen": "yes", "rejected": "no"}).encode()


def run(commands: str, folder: Path, programs: Path = Path(sys.executable).parent) -> None:
    environment = {**os.environ, "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", f"{commands}\ntrue"], cwd=folder, env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


def backed_up(commands: str, folder: Path, programs: Path = Path(sys.executable).parent) -> Path:
    """The folder that a call of the commands has made."""
    before = set((folder / "backup").glob("*"))
    while f"{datetime.now():%Y%m%d-%H%M%S}" in {one.name for one in before}:
        time.sleep(0.05)
    run(commands, folder, programs)
    made, = set((folder / "backup").glob("*")) - before
    assert stat.S_IMODE(made.stat().st_mode) == 0o700, "for its owner alone"
    return made


def test_a_checkout_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)  # and no `runs`: nobody has run anything
    (root / "compute.yaml").write_text("sft: 2\n")  # which git ignores
    (root / "rules.py").write_text("def no_lists(answers): ...\n")
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
    first = backed_up(BACK_UP, root)
    writer.execute("COMMIT")
    backup = backed_up(BACK_UP, root)
    writer.close()
    assert [noted(one / "mlflow.db") for one in (first, backup)] == [["before"], ["before", "half done"]]
    backup = root / "backup"
    kept = tmp_path / "elsewhere"
    backup.rename(kept)
    root.rename(tmp_path / "lost")
    root.mkdir()
    kept.rename(root / "backup")
    run("\n".join(RESTORE.splitlines()[:-1]), root)  # all but the look at what came back
    assert [arrival.digest for arrival in arrivals(home.preferences)] == [digest]
    assert (home.folder / "token").read_text().strip() == token
    assert stat.S_IMODE((home.folder / "token").stat().st_mode) == 0o600
    assert (root / "compute.yaml").is_file()
    assert (root / "rules.py").is_file()
    assert noted(home.folder / "mlflow.db") == ["before", "half done"], "the newest"
    restored = sqlite3.connect(home.folder / "mlflow.db")
    assert restored.execute("SELECT name FROM runs").fetchall() == [("20260101-000000-abcdef",)]
    assert len(list(home.artifacts.rglob("params.yaml"))) == 1


def noted(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as opened:
        return [what for what, in opened.execute("SELECT what FROM noted")]


DOCKER = """#!/bin/bash
case "$*" in
    "compose -f deploy/compose.yaml exec -T postgres "*) PGHOST=127.0.0.1 PGPORT=%d exec "${@:7}";;
    *) echo "$*" >> docker.log;;
esac
"""
"""The server of this machine instead of the one in the container; everything else is only written down."""


def test_a_database_comes_back(tmp_path: Path) -> None:
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("no PostgreSQL")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER % cluster.port)
    (programs / "docker").chmod(0o755)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/.env").write_text("POSTGRES_PASSWORD=x\n")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    try:
        psql(cluster.port, "postgres", "CREATE ROLE plumbline SUPERUSER LOGIN")
        psql(cluster.port, "postgres", "CREATE DATABASE feedback")
        psql(cluster.port, "feedback", "CREATE TABLE verdicts AS SELECT 'größer' AS said")
        backed_up(DUMP, tmp_path, programs)
        psql(cluster.port, "feedback", "INSERT INTO verdicts VALUES ('kleiner')")
        newest = backed_up(DUMP, tmp_path, programs)
        psql(cluster.port, "postgres", "DROP DATABASE feedback")
        run(LOAD, tmp_path, programs)
        assert psql(cluster.port, "feedback", "SELECT said FROM verdicts").split() == ["größer", "kleiner"]
        assert {".env", "params.yaml"} <= {one.name for one in newest.iterdir()}
        volumes = re.findall(rf"-v plumbline_(\w+):\S+ -v {newest}:", (tmp_path / "docker.log").read_text())
        assert volumes == [*COMPOSE_VOLUMES, *COMPOSE_VOLUMES], "out of all volumes, and into them"
    finally:
        cluster.stop()


def psql(port: int, database: str, command: str) -> str:
    done = subprocess.run(["psql", "-qAt", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database, "-c",
                           command], check=True, capture_output=True, text=True)
    return done.stdout
