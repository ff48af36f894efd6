"""Which models answer: the champion, the challenger and the SFT model that it came from, with the reward model that
scores them all and the prompts that they learned from. All are named by DVC's digests, so that any process that sees
the cache can load them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from plumbline.errors import UserError
from plumbline.history.history import History, RegisteredVersion, Run
from plumbline.tracking.registry import CHALLENGER, CHAMPION

SFT, REWARD, PREPARED = "models/sft/model", "models/reward/model", "data/prepared"


@dataclass(frozen=True)
class Part:
    """One model that answers."""

    name: str
    """Such as `champion, version 3`."""
    digest: str
    policy: bool
    """Whether it was made by PPO, and is not the SFT model that it started from."""


@dataclass(frozen=True)
class Cast:
    """The models that answer, each once, with what is needed to ask them."""

    parts: tuple[Part, ...]
    reward: str
    prepared: str
    temperature: float
    max_response: int
    precision: str

    def to_json(self) -> dict[str, object]:
        """For another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "Cast":
        """What `to_json` gave."""
        parts = tuple(Part(**part) for part in values["parts"])  # type: ignore[attr-defined]
        return cls(**{**values, "parts": parts})  # type: ignore[arg-type]


def cast_of(history: History) -> Cast:
    """The cast of now. Raises UserError where no model is registered yet."""
    named = {alias: version for version in history.versions.values() for alias in version.aliases}
    leading = named.get(CHAMPION) or named.get(CHALLENGER)
    run = history.runs.get(leading.run) if leading else None
    if leading is None or run is None:
        raise UserError("There is no model to answer yet: none has been registered. `plumbline run` makes one.")
    made = _inputs(run, leading)
    parts = [Part(f"{alias}, version {named[alias].number}", named[alias].md5, True)
             for alias in (CHAMPION, CHALLENGER) if alias in named]
    parts.append(Part("SFT", made[SFT], False))
    once = {part.digest: part for part in reversed(parts)}  # the champion may be the challenger too
    chosen = tuple(part for part in parts if once[part.digest] is part)
    return Cast(chosen, made[REWARD], made[PREPARED], float(run.params["preference_eval.temperature"]),
                int(run.params["preference_eval.max_response"]), run.params["preference_eval.precision"])


def _inputs(run: Run, version: RegisteredVersion) -> Mapping[str, str]:
    """What the stage that made the policy read."""
    step = run.steps.get("ppo")
    missing = [path for path in (SFT, REWARD, PREPARED) if step is None or path not in step.inputs]
    if step is None or missing:
        raise UserError(f"MLflow does not say what version {version.number} was made from ({', '.join(missing)} of run "
                        f"{run.id}), so its companions cannot be found. A new run records it.")
    return step.inputs
