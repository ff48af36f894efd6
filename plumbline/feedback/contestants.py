"""The models that answer prompts for feedback: champion, challenger, and the SFT model that they started
from.

With them go the reward model that scores their answers and the prompts that the champion was trained on. All
of them are named by DVC's digests, so that any process with access to the cache can load them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from plumbline.errors import UserError
from plumbline.history.history import History, RegisteredVersion, Run
from plumbline.tracking.registry import CHALLENGER, CHAMPION

SFT, REWARD, PREPARED = "models/sft/model", "models/reward/model", "data/prepared"


@dataclass(frozen=True)
class AnsweringModel:
    """One model that answers."""

    name: str
    """Such as `champion, version 3`."""
    digest: str
    policy: bool
    """True if PPO made it; False for the SFT model."""


@dataclass(frozen=True)
class Contestants:
    """The answering models, each once, with what is needed to sample and score their answers."""

    models: tuple[AnsweringModel, ...]
    reward: str
    prepared: str
    temperature: float
    max_response: int
    """Longest answer, in tokens."""
    precision: str

    def to_json(self) -> dict[str, object]:
        """Return plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "Contestants":
        """Return the contestants that `to_json` was called on."""
        models = tuple(AnsweringModel(**model) for model in values["models"])  # type: ignore[attr-defined]
        return cls(**{**values, "models": models})  # type: ignore[arg-type]


def contestants_of(history: History) -> Contestants:
    """Return the present contestants. Raises UserError if no model has been registered yet."""
    by_alias = {alias: version for version in history.versions.values() for alias in version.aliases}
    leading = by_alias.get(CHAMPION) or by_alias.get(CHALLENGER)
    run = history.runs.get(leading.run) if leading else None
    if leading is None or run is None:
        raise UserError("There is no model to answer yet: none has been registered. `plumbline run` makes "
                        "one.")
    inputs = _ppo_inputs(run, leading)
    models: dict[str, AnsweringModel] = {}
    for alias in (CHAMPION, CHALLENGER):
        if alias in by_alias:
            version = by_alias[alias]
            model = AnsweringModel(f"{alias}, version {version.number}", version.md5, True)
            models.setdefault(version.md5, model)  # once, as champion, if it is both
    models.setdefault(inputs[SFT], AnsweringModel("SFT", inputs[SFT], False))
    return Contestants(
        tuple(models.values()), inputs[REWARD], inputs[PREPARED],
        temperature=float(run.params["preference_eval.temperature"]),
        max_response=int(run.params["preference_eval.max_response"]),
        precision=run.params["preference_eval.precision"])


def _ppo_inputs(run: Run, version: RegisteredVersion) -> Mapping[str, str]:
    """Return the digests of what stage `ppo` of the run read, by path."""
    step = run.steps.get("ppo")
    missing = [path for path in (SFT, REWARD, PREPARED) if step is None or path not in step.inputs]
    if step is None or missing:
        raise UserError(f"MLflow does not say what version {version.number} was made from "
                        f"({', '.join(missing)} of run {run.id}), so its companions cannot be found. A new "
                        "run records it.")
    return step.inputs
