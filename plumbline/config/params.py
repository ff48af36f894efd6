"""All parameters of a run, and what its candidates make of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from plumbline.config.blocks import (
    BaseParams,
    DirectParams,
    IngestParams,
    JudgeParams,
    PpoParams,
    PreferenceEvalParams,
    PromoteParams,
    RetrainParams,
    RewardEvalParams,
    RewardModelParams,
    SftParams,
    SnapshotParams,
)
from plumbline.config.methods import METHODS
from plumbline.config.values import CountOrNone, ParamsBlock

Candidate = dict[str, Any]
CandidateName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""A part of the names of its stages, its folders and what MLflow keeps of it."""
PIPELINES_OWN = "ppo"
"""What the policy of the stage `ppo` is called beside the candidates."""
Block = Literal["ppo", "direct", "sft"]


class Params(ParamsBlock):
    """All parameters of a run."""

    seed: CountOrNone
    """Seed of everything random."""
    snapshot: SnapshotParams
    ingest: IngestParams
    base: BaseParams
    sft: SftParams
    reward_model: RewardModelParams
    reward_eval: RewardEvalParams
    judge: JudgeParams
    ppo: PpoParams
    direct: DirectParams
    preference_eval: PreferenceEvalParams
    promote: PromoteParams
    retrain: RetrainParams
    candidates: dict[CandidateName, Candidate]
    """Policies to set beside PPO's in a comparison: a `method`, with its own values and those of its block
    that are to be others."""
    compare: dict[CandidateName, Block]
    """The candidates that are trained and judged, and the block of each; `plumbline compare` fills it in."""

    @model_validator(mode="after")
    def _candidates_can_be_made(self) -> "Params":
        for name in self.candidates:
            if name == PIPELINES_OWN:
                raise PydanticCustomError(
                    "candidate", f"candidates.{name} has the name of the pipeline's own policy, beside which "
                    f"a comparison sets it; give it another one, such as {name}-2")
            candidate_params(self, name)
        for name, block in self.compare.items():
            if name not in self.candidates:
                known = ", ".join(self.candidates) or "none"
                raise PydanticCustomError(
                    "candidate", f"compare.{name} is no candidate; `candidates` has {known}")
            right = METHODS[self.candidates[name]["method"]][0]
            if block != right:
                raise PydanticCustomError("candidate", f"compare.{name} must be {right}, found {block}")
        return self


def candidate_params(params: Params, name: str) -> ParamsBlock:
    """Return all values of a candidate, of the class that its method has in METHODS.

    Raises ValidationError, or PydanticCustomError without a known method, for a value that cannot be used.
    """
    given = params.candidates[name]
    method = given.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise PydanticCustomError(
            "candidate", f"candidates.{name}.method is {method!r}, but must be one of {', '.join(METHODS)}")
    block, cls = METHODS[method]
    shared: Mapping[str, Any] = getattr(params, block).model_dump()
    own = {key: value for key, value in given.items() if key != "method"}
    try:
        return cls.model_validate({**shared, **own})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = {"extra_forbidden": "there is no such parameter", "missing": "it is missing"}.get(
            first["type"], f"{first['input']!r} cannot be used: {first['msg']}")
        raise PydanticCustomError("candidate", f"candidates.{name}.{key} ({method}): {message}") from None
