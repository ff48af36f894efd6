"""A project that an earlier version made: its home, its runs and its data, with the code of this version around them.

The archive holds what the version of 2026-11-26, in which `plumbline/lineage` was one flat folder, left of a made-up
project with one added batch: a run that finished and registered version 1, one that the gate stopped, one that
registered version 2, and one that was killed in its PPO.
"""

import sqlite3
import tarfile
from pathlib import Path

from testing.always_on_project import make_always_on
from testing.fake_project import CHECKOUT

ARCHIVE = CHECKOUT / "tests/old_home/2026-11-26.tar.xz"
MADE_IN = "/tmp/oldbuild/project"
"""The place in which it was made, of which its files tell."""
FINISHED, REFUSED = "20261126-080356-e4a7f7", "20261126-080557-a67c8c"
SECOND, KILLED = "20261126-080655-c37341", "20261126-080841-e7f3c3"


def unpack(root: Path) -> Path:
    """Make the project in `root`, as somebody finds it who has updated its code."""
    make_always_on(root)
    with tarfile.open(ARCHIVE) as archive:
        members = [member.replace(name=member.name.removeprefix("home/")) for member in archive.getmembers()
                   if member.name.startswith("home/")]
        archive.extractall(root, members, filter="data")
    for file in (*root.glob("runs/*/run.json"), *root.glob("runs/*/.dvc/config"),
                 *root.glob(".plumbline/artifacts/*/artifacts/record/run.json")):
        file.write_text(file.read_text().replace(MADE_IN, str(root)))
    _move_store(root / ".plumbline/mlflow.db", root)
    return root


def _move_store(file: Path, root: Path) -> None:
    """Put the new place of a project into every text of its MLflow store: MLflow keeps artifacts by absolute paths."""
    with sqlite3.connect(file) as store:
        tables = [name for name, in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})") if "CHAR" in row[2].upper()
                       or "TEXT" in row[2].upper()]
            for column in columns:
                store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",
                              (MADE_IN, str(root), f"%{MADE_IN}%"))
    store.close()
