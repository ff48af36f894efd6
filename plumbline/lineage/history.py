"""Everything that has been recorded, as the pages and the lineage graph read it: runs, stages, versions of the policy.

The source is MLflow alone (runs, their tags, inputs and artifacts, the registry), so a run that was started on another
machine appears like any other. What has ended never changes, so it is read once and kept in the home; a refresh asks
only for what is new. Workspaces on this machine add what is still going on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plumbline.lineage.home import Home
from plumbline.lineage.records import Status
from plumbline.preferences.manifest import Batch

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
    """In the order of the pipeline."""
    snapshot: str | None
    """The digest of the data that it learned from."""
    batches: tuple[Batch, ...]
    """What the snapshot holds."""
    folder: Path | None
    """Its workspace, where that is on this machine."""


@dataclass(frozen=True)
class Version:
    """One registered policy."""

    name: str
    number: int
    md5: str
    run: str
    """The pipeline run that registered it."""
    created: str
    aliases: tuple[str, ...]
    compared_with: int | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Move:
    """An alias that was moved."""

    when: str
    alias: str
    before: int | None
    after: int | None
    reason: str
    by: str


class History:
    """What is recorded in one project's MLflow store. Reading it is cheap; `refresh` brings it up to date."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.runs: Mapping[str, Run] = {}
        """By id, newest first."""
        self.versions: Mapping[int, Version] = {}
        """By number, newest first."""
        self.moves: tuple[Move, ...] = ()
        """Newest first."""

    def refresh(self) -> None:
        """Read what is new. Raises UserError when MLflow's store cannot be read."""
        raise NotImplementedError
