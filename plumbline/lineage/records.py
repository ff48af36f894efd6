"""What the pages read: runs, their stages, the versions of the policy and the moves of its aliases."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from plumbline.preferences.batches.manifest import Batch
from plumbline.project.run_record import Status
from plumbline.tracking.registry import REGISTERED_BY

StepStatus = Literal["ran", "reused", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Step:
    """One stage in one run. For a reused stage everything measured comes from the run that made it."""

    stage: str
    status: StepStatus
    reason: str
    """Why it ran, or since when it was reused."""
    seconds: float | None
    """What this run spent on it."""
    started: str | None
    """ISO 8601, UTC; None for a stage that was reused or waits."""
    version: str | None
    mlflow_run: str | None
    """The MLflow run that really made the result."""
    made_by: str | None
    """The pipeline run that really made the result; None for plain `dvc repro`."""
    params: Mapping[str, str]
    """Flat: {"sft.epochs": "2"}."""
    metrics: Mapping[str, float]
    """The last value of each."""
    facts: Mapping[str, str]
    """Results that are words."""
    inputs: Mapping[str, str]
    """DVC's digest of each input, by path."""
    outputs: Mapping[str, str]
    """DVC's digest of each output, by path."""
    code: str | None = None
    """Digest of the code that it depends on."""
    host: Mapping[str, str] = field(default_factory=dict)
    """Machine, packages and processes that made it, as its receipt has them."""


@dataclass(frozen=True)
class Run:
    """One pipeline run."""

    id: str
    created: str
    ended: str | None
    status: Status
    message: str | None
    """Why a run did not finish."""
    trigger: str
    params_file: str | None
    settings: tuple[str, ...]
    until: str | None
    git_commit: str | None
    git_dirty: bool | None
    host: str
    mlflow_run: str
    params: Mapping[str, str]
    """All parameters, flat."""
    steps: Mapping[str, Step]
    """In the order of the pipeline. A run that has ended has only those that it came to."""
    snapshot: str | None
    """The digest of the data that it learned from: DVC's of data/snapshot, as in the tag `snapshot` of a
    version."""
    batches: tuple[Batch, ...]
    """What the snapshot holds."""
    folder: Path | None
    """Its workspace, where that is on this machine."""
    compare: tuple[str, ...] = ()
    """The candidates that it set beside PPO; empty for an ordinary run."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One registered policy."""

    name: str
    number: int
    md5: str
    run: str
    """The pipeline run that evaluated it last, whose record has its figures; `dvc repro` where no run did."""
    created: str
    aliases: tuple[str, ...]
    compared_with: int | None
    tags: Mapping[str, str]

    @property
    def registered_by(self) -> str:
        """The pipeline run that registered it, or `dvc repro`; what is known of a version from before that
        was kept is `run`.
        """
        return self.tags.get(REGISTERED_BY, self.run)


@dataclass(frozen=True)
class Move:
    """An alias that was moved."""

    when: str
    alias: str
    before: int | None
    after: int | None
    reason: str
    by: str



@dataclass(frozen=True)
class Registered:
    """The versions of the policy and the moves of its aliases, both newest first."""

    versions: tuple[RegisteredVersion, ...] = ()
    moves: tuple[Move, ...] = ()

    def plain(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def registered(values: Mapping[str, list[dict[str, object]]]) -> Registered:
    """Return what `Registered.plain` made these values of."""
    return TypeAdapter(Registered).validate_python(values)
