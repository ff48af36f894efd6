"""The checks of `plumbline doctor`: this machine, its packages, and the services that Plumbline needs."""

import os
import platform
import shutil
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal, TypeVar

from rich.console import Console
from rich.markup import escape

from plumbline.compute.settings import FILE, check_compute, read_compute
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.project.home import API_URL, Home
from plumbline.project.masking import masked
from plumbline.retraining.clock import next_scheduled
from plumbline.runs.preflight import LEAST_FREE_BYTES
from plumbline.runs.workspace import git_state
from plumbline.tracking.store import broken_store

Status = Literal["ok", "note", "broken"]
COLOURS: dict[Status, str] = {"ok": "green", "note": "yellow", "broken": "red"}
HUB_SECONDS, STORE_SECONDS = 3.0, 10.0
"""An answer that takes longer counts as none."""
LONGEST_PROBLEM = 300
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class MachineCheck:
    """The result of one check."""

    about: str
    status: Status
    found: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Limit:
    """A package, the range of versions that works, and what breaks outside of it."""

    package: str
    least: tuple[int, ...]
    below: tuple[int, ...]
    otherwise: str


LIMITS = (
    Limit("prefect", (3, 8), (4,), "the flows are written for Prefect 3.8"),
    Limit("fastapi", (0, 139), (0, 151), "Prefect's server does not start (`Body() ... min_items`)"),
    Limit("sqlalchemy", (2, 0), (2, 1), "cron deployments get no scheduled runs, silently"),
    Limit("mlflow", (3, 17), (4,), "lineage is written with MLflow 3's logged models"),
    Limit("dvc", (3, 67), (4,), "stages are restored through DVC 3's run cache"),
    Limit("torch", (2, 10), (3,), "the trainers are tested with torch 2.10 and later"),
    Limit("transformers", (5,), (6,), "the models are loaded with transformers 5"),
)


def examine(home: Home) -> list[MachineCheck]:
    """Run all checks. Raises nothing, and takes a few seconds unless a store does not answer."""
    return [MachineCheck("python", "ok" if platform.python_version_tuple() >= ("3", "11") else "broken",
                    f"{platform.python_version()} on {platform.machine()}"),
            *map(_package, LIMITS), *_devices(), _compute(home), _disk(home), _git(home), _mlflow(home),
            _feedback(home), _prefect(), _clock(home), _cache(home), _hub()]


def show_findings(console: Console, findings: list[MachineCheck]) -> None:
    """Print the findings, a line each."""
    for finding in findings:
        console.print(f"[{COLOURS[finding.status]}]{finding.status:<7}[/] {finding.about:<13} "
                      f"{escape(finding.found)}", highlight=False, soft_wrap=True)


def _package(limit: Limit) -> MachineCheck:
    wanted = f">={_dotted(limit.least)},<{_dotted(limit.below)}"
    try:
        version = metadata.version(limit.package)
    except metadata.PackageNotFoundError:
        return MachineCheck(limit.package, "broken", f"not installed; expected {wanted}")
    numbers = _numbers(version)
    if limit.least <= numbers < limit.below:
        return MachineCheck(limit.package, "ok", version)
    return MachineCheck(limit.package, "broken", f"{version}, expected {wanted}: {limit.otherwise}. "
                                            f"Run: pip install '{limit.package}{wanted}'")


def _numbers(version: str) -> tuple[int, ...]:
    plain = version.split("+")[0]
    return tuple(int(part) for part in plain.split(".")[:3] if part.isdigit())


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _devices() -> Iterator[MachineCheck]:
    if find_spec("torch") is None:
        return
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield MachineCheck("device", "ok", ", ".join(cuda) or "cpu")
    yield MachineCheck("threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} cores")


def _compute(home: Home) -> MachineCheck:
    try:
        check_compute(home.root, load_params(home.root).candidates)
        told = [f"{name} on {compute.described}" for name, compute in read_compute(home.root).items()]
    except UserError as error:
        return MachineCheck("compute", "broken", str(error))
    return MachineCheck("compute", "ok", "; ".join(told) or f"no {FILE}: each stage is one process here")


def _disk(home: Home) -> MachineCheck:
    free = shutil.disk_usage(home.root).free
    return MachineCheck("disk", "ok" if free > LEAST_FREE_BYTES else "broken", f"{free / 1e9:.1f} GB free "
                                                                                 f"at {home.root}")


def _git(home: Home) -> MachineCheck:
    commit, dirty = git_state(home.root)
    if commit:
        return MachineCheck("git", "ok", f"commit {commit[:12]}{', with changes' if dirty else ''}")
    why = "has no commit"
    if not shutil.which("git"):
        why = "cannot be asked for its commit, because git is not installed"
    return MachineCheck("git", "note", f"{home.root} {why}: runs keep their code in an archive instead of "
                                         "naming a commit, "
                                  "and DVC tracks added batches in a git repository only (`git init` makes "
                                  "one)")


def _mlflow(home: Home) -> MachineCheck:
    from plumbline.tracking.store import DELETED, EXPERIMENT, connect, deleted_experiment, sqlite_file

    file = sqlite_file(home)
    if file is None:
        place = f"{masked(home.tracking_uri)} (MLFLOW_TRACKING_URI)"
        note, problem = _asked(lambda: _remote_store(home), STORE_SECONDS)
        if problem:
            return MachineCheck("mlflow store", "broken", f"{place} cannot be used: {problem}. Start it, or "
                                                            "put the variable right")
        return MachineCheck("mlflow store", "note" if note else "ok", note or place)
    if not file.exists():
        return MachineCheck("mlflow store", "ok", f"{file} will be made by the first run")
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            runs = store.execute("select count(*) from runs").fetchone()[0]
        found = connect(home).get_experiment_by_name(EXPERIMENT)
    except UserError as error:
        return MachineCheck("mlflow store", "broken", str(error))
    except sqlite3.Error as error:
        said = broken_store(home.tracking_uri, error) or f"{file} cannot be read: {error}"
        return MachineCheck("mlflow store", "broken", str(said))
    if found and found.lifecycle_stage == DELETED:
        return MachineCheck("mlflow store", "note", deleted_experiment(home))
    return MachineCheck("mlflow store", "ok", f"{file}, {runs} runs")


def _remote_store(home: Home) -> str | None:
    """Ask a store that is no file for our experiment; return what is worth a note."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from sqlalchemy import create_engine, inspect

    from plumbline.tracking.store import DELETED, EXPERIMENT, connect, deleted_experiment

    if home.tracking_uri.startswith(tuple(DATABASE_ENGINES)):
        engine = create_engine(home.tracking_uri)
        # MLflow would make them now, which must not be broken off when the time is over.
        if not inspect(engine).has_table("experiments"):
            return f"{masked(home.tracking_uri)} answers, and the first run will make MLflow's tables there"
    found = connect(home).get_experiment_by_name(EXPERIMENT)
    return deleted_experiment(home) if found and found.lifecycle_stage == DELETED else None


def _feedback(home: Home) -> MachineCheck:
    from plumbline.feedback.database import FEEDBACK_URL, database_url, is_there
    from plumbline.feedback.store import FeedbackStore

    try:
        place = masked(database_url(home).render_as_string())
        if not is_there(home):
            return MachineCheck("feedback", "ok", f"{place} will be made by the first pair")
    except UserError as error:
        return MachineCheck("feedback", "broken", str(error))
    _, problem = _asked(lambda: FeedbackStore.open(home).close(), STORE_SECONDS)
    if problem:
        return MachineCheck("feedback", "broken", problem if place in problem else f"{place}: {problem}")
    named = f" ({FEEDBACK_URL})" if os.environ.get(FEEDBACK_URL) else ""
    return MachineCheck("feedback", "ok", f"{place}{named}")


def _prefect() -> MachineCheck:
    url = os.environ.get(API_URL)
    if not url:
        return MachineCheck("prefect server", "ok", "each command starts its own; state in "
                                                      f"{os.environ['PREFECT_HOME']}")
    problem = _unreachable(f"{url.rstrip('/')}/health")
    return MachineCheck("prefect server", "broken" if problem else "ok", f"{masked(url)} (PREFECT_API_URL)"
                   + (f" does not answer: {problem}. Start it, or unset PREFECT_API_URL" if problem else ""))


def _clock(home: Home) -> MachineCheck:
    try:
        retrain = load_params(home.root).retrain
        when = next_scheduled(home, retrain)
    except UserError as error:
        return MachineCheck("clock", "broken", str(error))
    return MachineCheck("clock", "ok", f"{retrain.cron} ({retrain.timezone}), next at {when}" if when else
                   "retrain.cron is null: nothing runs by the clock")


def _cache(home: Home) -> MachineCheck:
    if not home.cache.exists():
        return MachineCheck("cache", "ok", f"{home.cache} will be made by the first run")
    size = sum(file.stat().st_size for file in home.cache.rglob("*") if file.is_file())
    return MachineCheck("cache", "ok", f"{home.cache}, {size / 1e9:.2f} GB")


def _hub() -> MachineCheck:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    problem = _unreachable(endpoint)
    if problem:
        return MachineCheck("hub", "note", f"{masked(endpoint)} does not answer ({problem}): nothing can be "
                                             "loaded from the hub")
    return MachineCheck("hub", "ok", f"{masked(endpoint)} answers")


def _unreachable(url: str) -> str | None:
    """Return why a URL does not answer, or None."""
    def ask() -> None:
        with urllib.request.urlopen(urllib.request.Request(url, method="GET"), timeout=HUB_SECONDS):
            pass

    return _asked(ask, HUB_SECONDS)[1]


def _asked(ask: Callable[[], Answer], seconds: float) -> tuple[Answer | None, str | None]:
    """Return what `ask` returns within some seconds, and what went wrong.

    Asks in a thread: no timeout bounds the look-up of a host name.
    """
    answers: list[Answer] = []
    problems: list[str] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # of urllib, MLflow, SQLAlchemy or a database's driver
            said = " ".join(str(getattr(error, "reason", error)).split())
            problems.append(masked(said)[:LONGEST_PROBLEM].removesuffix(".") or type(error).__name__)

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers and not problems:
        problems.append(f"nothing within {seconds:.0f} s")
    return (answers[0] if answers else None), (problems[0] if problems else None)
