"""`receipt.json`: what a stage read and made, and which MLflow run has the details.

It is an output of the stage, so a stage restored from the cache still names the run that really made its
result.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from plumbline.errors import UserError
from plumbline.project.dvc_yaml import StageSpec, producer_of


class Output(BaseModel):
    """One thing that a stage left."""

    model_config = ConfigDict(frozen=True)

    md5: str
    model_id: str | None = None
    """MLflow's logged model, where the output is a model."""


class Receipt(BaseModel):
    """The inputs and outputs of one execution of a stage."""

    model_config = ConfigDict(frozen=True)

    stage: str
    version: str
    mlflow_run: str
    pipeline_run: str | None
    """The workspace that ran it; None for plain `dvc repro`."""
    git_commit: str | None
    git_dirty: bool | None
    inputs: dict[str, str]
    """DVC's digest of each input."""
    outputs: dict[str, Output]
    code: str
    """Digest of the code that the stage depends on."""
    params: dict[str, object]
    seed: int
    started: str
    seconds: float
    host: dict[str, str]
    """Python, packages, threads and device of the machine."""


def read_receipt(root: Path, stage: StageSpec) -> Receipt | None:
    """Return the receipt of a stage in a workspace, or None if the stage left none.

    Raises UserError for a damaged one.
    """
    if stage.receipt is None or not (root / stage.receipt).exists():
        return None
    file = root / stage.receipt
    try:
        return Receipt.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError:  # pydantic's, and that of bytes that are no text
        raise UserError(f"{file} is damaged, or of another version of Plumbline. A run's outputs come back "
                        "with `plumbline restore RUN`, those of the checkout with `dvc checkout`.") from None


def model_of(root: Path, stages: Mapping[str, StageSpec], path: str) -> str | None:
    """Return the id of the MLflow model behind the folder `path`, from the receipt of the stage that made it.
    """
    producer = producer_of(stages, path)
    receipt = read_receipt(root, producer) if producer else None
    return receipt.outputs[path].model_id if receipt and path in receipt.outputs else None
