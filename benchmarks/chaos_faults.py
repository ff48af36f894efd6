"""What `chaos.py` breaks, one function a fault. Each brings data, breaks something, and returns a word on it."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from plumbline.data.intake import take_in_rows
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.types import to_line
from plumbline.project.home import Home
from testing.always_on_project import comparisons
from testing.fake_project import environment, plumbline
from testing.running_service import QUICK, Up
from testing.waiting import eventually

STAGES = ("ingest", "sft", "reward_model", "reward_eval")
WALL_CLOCK = Path(__file__).with_name("wall_clock.c")
LOCKED_SECONDS, GONE_SECONDS, DAY_SECONDS = 30, 60, 86_400
PATIENCE = 420


@dataclass
class World:
    """The service and what it must not lose."""

    up: Up
    chance: random.Random
    accepted: set[str] = field(default_factory=set)
    number: int = 0

    def bring(self, count: int = 5) -> None:
        """A batch arrives and is accepted. What this process is told when it is not, is raised."""
        os.environ.update(self.up.client)
        self.number += 100
        taken = take_in_rows(Home(self.up.root, self.up.home), comparisons(self.number, count), f"batch-{self.number}")
        self.accepted.add(taken.arrival.digest)

    def arrived(self) -> list[str]:
        return [one.digest for one in arrivals(Folders(self.up.root, self.up.home))]

    def finished(self) -> list[dict[str, object]]:
        return [record for record in self.up.records() if record["status"] == "finished"]

    def last_run_failed(self) -> bool:
        done = [run for run in self.up.flow_runs() if run["state_name"] != "Skipped"]
        return bool(done) and done[-1]["state_type"] == "FAILED"

    def into_a_run(self, stage: str | None = None) -> str:
        """Bring data and wait until its run has done a stage, any if none is named."""
        stage = stage or self.chance.choice(STAGES)
        known = {record["id"] for record in self.up.records()}
        self.bring()
        eventually(lambda: any(record["status"] == "running" and stage in record["stages"]  # type: ignore[operator]
                               for record in self.up.records() if record["id"] not in known), f"a run after {stage}")
        return f"after {stage}"

    def processes(self, word: str) -> list[psutil.Process]:
        """Those of this project with a word in their command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                ours = process.environ().get("PLUMBLINE_SERVICE") == str(self.up.home)
                if ours and word in " ".join(process.cmdline()):
                    found.append(process)
        return found


def settle(world: World) -> None:
    """Wait until every part is up and a run has learned from everything; a failed run needs data to be tried again."""
    eventually(lambda: world.up.all_are("up"), "every part up again", PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not (world.up.quiet() and learned_from_all(world)):
        if time.monotonic() > deadline:
            raise AssertionError(f"no run has learned from everything: {world.accepted - last_snapshot(world)}; "
                                 f"{[(run['name'], run['state_name']) for run in world.up.flow_runs()[-4:]]}")
        if world.up.quiet() and world.last_run_failed():
            world.bring()  # what people do is to go on judging
            time.sleep(8)
        time.sleep(1)


def learned_from_all(world: World) -> bool:
    return last_snapshot(world) == world.accepted


def last_snapshot(world: World) -> set[str]:
    done = world.finished()
    if not done:
        return set()
    manifest = read_manifest(world.up.root / "runs" / str(done[-1]["id"]) / "data/snapshot")
    return {batch.digest for batch in manifest.batches}


def kill_part(name: str) -> Callable[[World], str]:
    def fault(world: World) -> str:
        where = world.into_a_run() if world.chance.random() < 0.7 else "at rest"
        if where == "at rest":
            world.bring()
        pid = world.up.kill(name)
        eventually(lambda: world.up.parts()[name]["pid"] not in (pid, None), f"the return of {name}")
        return where

    return fault


def kill_stage(world: World) -> str:
    world.into_a_run("reward_eval")
    eventually(lambda: world.processes("-m tasks.ppo"), "ppo")
    for process in world.processes("-m tasks.ppo"):
        process.kill()
    return "ppo, which is tried again"


def kill_flow(world: World) -> str:
    where = world.into_a_run()
    [process, *_] = world.processes("prefect.engine") or world.processes("flow_engine")
    process.kill()
    return where


def kill_supervisor(world: World) -> str:
    where = world.into_a_run() if world.chance.random() < 0.7 else "at rest"
    if where == "at rest":
        world.bring()
    assert world.up.process is not None
    world.up.process.kill()
    world.up.process.wait()
    world.up.start()
    return f"{where}, started again"


def two_ups(world: World) -> str:
    world.bring()
    second = plumbline(world.up.root, "up")
    assert second.returncode == 2, second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    return "the second says where the first is"


def disk_full(world: World) -> str:
    where = world.into_a_run()
    ballast = world.up.root.parent / "ballast"
    refused = 0
    try:
        with contextlib.suppress(OSError), ballast.open("wb") as out:
            while True:
                out.write(b"\0" * 1_000_000)
        for _ in range(5):
            try:
                world.bring(count=50)
            except Exception as error:
                assert any(word in str(error) for word in ("space", "full")), error
                refused += 1
            time.sleep(2)
    finally:
        ballast.unlink(missing_ok=True)
    return f"{where}; {refused} of 5 batches were refused"


def mlflow_locked(world: World) -> str:
    where = world.into_a_run()
    store = sqlite3.connect(world.up.home / "mlflow.db", isolation_level=None, timeout=60)
    store.execute("BEGIN EXCLUSIVE")
    time.sleep(LOCKED_SECONDS)
    store.execute("ROLLBACK")
    store.close()
    return f"{where}, for {LOCKED_SECONDS} s"


def mlflow_gone(world: World) -> str:
    where = world.into_a_run()
    file = world.up.home / "mlflow.db"
    away = file.with_suffix(".away")
    file.rename(away)
    time.sleep(GONE_SECONDS)
    away.rename(file)
    return f"{where}, for {GONE_SECONDS} s"


def prefect_locked(world: World) -> str:
    where = world.into_a_run()
    store = sqlite3.connect(world.up.home / "prefect/prefect.db", isolation_level=None, timeout=60)
    store.execute("BEGIN EXCLUSIVE")
    time.sleep(LOCKED_SECONDS / 2)
    store.execute("ROLLBACK")
    store.close()
    return f"{where}, for {LOCKED_SECONDS / 2:.0f} s"


def clock_jump(world: World) -> str:
    """The whole service sees another time, a day ahead in the middle of a run, and then the right one again."""
    clock, shim = world.up.root / "clock", world.up.root / "wall_clock.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, WALL_CLOCK, "-ldl"], check=True)
    clock.write_bytes(struct.pack("l", 0))
    world.up.stop()
    world.up.more = {"LD_PRELOAD": str(shim), "WALL_CLOCK_OFFSET": str(clock)}
    try:
        world.up.start()
        world.into_a_run()
        for seconds in (DAY_SECONDS, 0):
            with clock.open("r+b") as file:  # every process has it in its memory
                file.write(struct.pack("l", seconds))
            time.sleep(10)
            world.bring()
        settle(world)
    finally:
        world.up.stop()
        world.up.more = {}
        world.up.start()
    return "a day ahead and back"


def corrupt_checkpoint(world: World) -> str:
    scratch = world.up.home / "scratch"
    before = set(scratch.glob("*"))  # runs that failed have left theirs
    world.into_a_run("reward_eval")
    eventually(lambda: set(scratch.glob("*")) - before, "ppo")
    for folder in set(scratch.glob("*")) - before:
        (folder / "000010-00112233445566778899aabbccddeeff.pt").write_bytes(b"half a checkpoint")
    for process in world.processes("-m tasks.ppo"):
        process.kill()
    eventually(world.up.quiet, "the end of the run")
    message = str(world.up.records()[-1]["message"])
    assert "is damaged" in message and "Delete it" in message, message
    Path(message.split("resume checkpoint ")[1].split(" is damaged")[0]).unlink()  # as the message says
    return "its message says what to delete"


def half_batch(world: World) -> str:
    """What an import leaves that was killed: a folder without batch.json, and a draft."""
    for name in ("0123456789abcdef", ".new-1234"):
        folder = Folders(world.up.root, world.up.home).arrived / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.jsonl").write_text(to_line(comparisons(0, 1)[0])[:50])
    world.bring()
    return "a folder without batch.json, and a draft"


def kill_import(world: World) -> str:
    """Killed at any moment an import has left all of a batch or nothing, and the next try makes it exactly once."""
    world.number += 100_000
    file = world.up.root / f"import-{world.number}.jsonl"
    file.write_text("".join(map(to_line, comparisons(world.number, 5_000))))
    command, after = [sys.executable, "-m", "plumbline", "data", "add", str(file)], world.chance.uniform(0.5, 6.0)
    process = subprocess.Popen(command, cwd=world.up.root, env=environment(**QUICK), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = plumbline(world.up.root, "data", "add", str(file), "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    world.accepted.add(json.loads(done.stdout)["arrival"]["digest"])
    return f"after {after:.1f} s, then once more"


def possible(name: str, folder: Path) -> str | None:
    """Why a fault cannot be had here."""
    if name == "disk-full" and not os.path.ismount(folder):
        return "needs root, for a file system of its own"
    if name == "clock-jump" and not shutil.which("cc"):
        return "needs a C compiler"
    return None


FAULTS: dict[str, Callable[[World], str]] = {
    "kill-worker": kill_part("worker"), "kill-prefect": kill_part("prefect"), "kill-pages": kill_part("pages"),
    "kill-mlflow": kill_part("mlflow"), "kill-stage": kill_stage, "kill-flow": kill_flow,
    "kill-supervisor": kill_supervisor, "two-ups": two_ups, "disk-full": disk_full, "mlflow-locked": mlflow_locked,
    "mlflow-gone": mlflow_gone, "prefect-locked": prefect_locked, "clock-jump": clock_jump,
    "corrupt-checkpoint": corrupt_checkpoint, "half-batch": half_batch, "kill-import": kill_import,
}
