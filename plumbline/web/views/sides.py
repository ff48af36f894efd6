"""The policies that can be compared: registered versions, and a run's policy, its SFT model, the champion
that it was judged against, and its candidates.

In addresses a version is its number or alias, the policy of a run is the run's id, and the others are
`RUN:sft`, `RUN:champion` and `RUN:candidate@dpo`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from plumbline.evaluation.samples import Sample
from plumbline.history.history import History, RegisteredVersion, Run, Step
from plumbline.history.reports import Reports
from plumbline.lineage.graph import short_digest
from plumbline.lineage.graph_build import model_digest
from plumbline.project.dvc_yaml import JOIN
from plumbline.web.views.home import champion_of

EVALUATION = "preference_eval"
REWARD_MODEL = "models/reward/model"
POLICY, SFT, CHAMPION = "policy", "sft", "champion"
CANDIDATE = f"candidate{JOIN}"
"""Begins the stage that makes a candidate."""
VERSIONS, RUNS = 100, 30
"""So many of the newest are offered."""
Choices = list[tuple[str, list[tuple[str, str]]]]
"""By heading: the name and the label of each policy."""


@dataclass(frozen=True)
class Side:
    """One of the two policies."""

    name: str
    """As addresses have it."""
    run: Run
    version: RegisteredVersion | None
    model: str = POLICY
    """Which one of the run: `policy`, `sft`, `champion`, or `candidate@dpo`."""

    @property
    def candidate(self) -> str:
        """The name of the candidate; empty for what is none."""
        return self.model.partition(JOIN)[2]

    @property
    def label(self) -> str:
        """`version 3`, `run 2026...`, `candidate dpo of run 2026...`."""
        if self.version:
            return f"version {self.version.number}"
        of = f"run {self.run.id}"
        if self.candidate:
            return f"candidate {self.candidate} of {of}"
        return {POLICY: of, SFT: f"SFT of {of}", CHAMPION: f"the champion of {of}"}[self.model]

    @property
    def evaluation(self) -> str:
        """The stage that evaluated it."""
        return f"candidate_eval{JOIN}{self.candidate}" if self.candidate else EVALUATION

    @property
    def contestant(self) -> str:
        """The name under which that evaluation kept its answers: `policy` for every candidate."""
        return POLICY if self.candidate else self.model

    @property
    def step(self) -> Step | None:
        """The record of its evaluation."""
        return self.run.steps.get(self.evaluation)

    @property
    def reward_model(self) -> str | None:
        """DVC's digest of the reward model that scored its answers."""
        return self.step.inputs.get(REWARD_MODEL) if self.step else None

    @property
    def sft(self) -> str | None:
        """DVC's digest of the SFT model that it started from, or is."""
        return self.step.inputs.get("models/sft/model") if self.step else None

    def samples(self, reports: Reports) -> tuple[Sample, ...]:
        """Return the prompts that it answered, with the answers of all contestants."""
        found = reports.samples(self.run, self.evaluation)
        return tuple(one for one in found if self.contestant in one.answers)

    def figure(self, stage: str, name: str) -> float | None:
        """Return a metric of one of its stages; of its evaluation where that is meant.

        Win rates are the policy's alone: SFT and the champion were its opponents.
        """
        if name.startswith("win_rate_") and self.contestant != POLICY:
            return None
        step = self.step if stage == EVALUATION else self.run.steps.get(stage)
        return step.metrics.get(name.replace(POLICY, self.contestant)) if step else None

    @property
    def params(self) -> Mapping[str, str]:
        """The parameters that made it, under the names that the run's own policy has."""
        params = {name: value for name, value in self.run.params.items()
                  if not name.startswith(("candidates.", "compare."))}
        if not self.candidate:
            return params | ({"method": "ppo"} if self.model == POLICY else {})
        block, own = self.run.params.get(f"compare.{self.candidate}"), f"candidates.{self.candidate}."
        for name, value in self.run.params.items():
            if name.startswith(own):
                key = name.removeprefix(own)
                params[key if key == "method" else f"{block}.{key}"] = value
        return params


def side(history: History, name: str) -> Side | None:
    """Return the policy of that name; None if there is none."""
    of, _, model = name.partition(":")
    if model:
        run = history.runs.get(of)
        if run is None:
            return None
        candidate = model.startswith(CANDIDATE) and model in run.steps
        return Side(name, run, None, model) if candidate or model in (SFT, CHAMPION) else None
    version = history.version(name)
    run = history.runs.get(version.run if version else name)
    if run is None:
        return None
    made = version or next((one for one in history.versions.values() if one.run == run.id), None)
    return Side(str(made.number) if made else run.id, run, made)


def comparable(history: History) -> list[int]:
    """Return the versions of which figures and answers are known, newest first: not those whose run's records
    are gone, or that `dvc repro` evaluated.
    """
    return [number for number, version in history.versions.items() if version.run in history.runs]


def usual_sides(history: History) -> tuple[str, str]:
    """Return the names of what is compared where nobody has chosen: the newest version and the champion.

    Where that is the same one, the version before it, or else the SFT model that it started from.
    """
    versions = [str(number) for number in comparable(history)]
    if not versions:
        return "", ""
    newest, champion = versions[0], champion_of(history)
    others = [str(champion.version.number)] if champion and champion.run else []
    sft = f"{history.versions[int(newest)].run}:{SFT}"
    return newest, next((name for name in (*others, *versions) if name != newest), sft)


def choices(history: History) -> Choices:
    """Return what can be chosen: versions, candidates, SFT models and unregistered policies, newest first.

    What several runs have in common is named by the newest of them.
    """
    known = [history.versions[number] for number in comparable(history)[:VERSIONS]]
    versions = [(str(one.number),
                 f"version {one.number}" + (f" ({', '.join(one.aliases)})" if one.aliases else "")
                 + f", {one.created[:10]}") for one in known]
    candidates: list[tuple[str, str]] = []
    sfts: list[tuple[str, str]] = []
    policies: list[tuple[str, str]] = []
    registered, seen = {short_digest(one.md5) for one in history.versions.values()}, set[str]()
    evaluated = [run for run in history.runs.values() if _left(run, EVALUATION)][:RUNS]
    for run in evaluated:
        when = run.id[:15]
        for stage in run.steps:
            if stage.startswith(CANDIDATE) and _new(run, stage, seen):
                candidates.append((f"{run.id}:{stage}", f"{stage.partition(JOIN)[2]}, {when}"))
        if _new(run, "sft", seen):
            sfts.append((f"{run.id}:{SFT}", f"SFT, {when}"))
        if _new(run, "ppo", seen, registered):
            policies.append((run.id, f"policy, {when}"))
    groups = (("Versions", versions), ("Candidates", candidates), ("SFT models", sfts),
              ("Policies without a version", policies))
    return [(heading, names) for heading, names in groups if names]


def _left(run: Run, stage: str) -> bool:
    return stage in run.steps and run.steps[stage].status in ("ran", "reused")


def _new(run: Run, stage: str, seen: set[str], others: Collection[str] = ()) -> bool:
    """True for a model that was made, not seen before, and not among `others`."""
    md5 = model_digest(run.steps[stage]) if _left(run, stage) else None
    if md5 is None or md5 in seen or md5 in others:
        return False
    seen.add(md5)
    return True
