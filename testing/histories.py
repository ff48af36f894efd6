"""Histories for the tests of the graph: runs of a few words, as the real ones would be recorded."""

from collections.abc import Mapping

from plumbline.history.history import RegisteredVersion, Run, Step
from plumbline.lineage.graph import Graph
from plumbline.lineage.graph_build import build
from plumbline.preferences.batches.manifest import Batch

READS = {
    "ingest": ("data/snapshot",), "base": (), "sft": ("models/base/model", "data/prepared"),
    "reward_model": ("models/sft/model", "data/prepared"), "reward_eval": ("models/reward/model", "data/prepared"),
    "judge": ("models/sft/model", "data/prepared"),
    "ppo": ("models/sft/model", "models/reward/model", "models/judge/model", "data/prepared",
            "reports/reward/gate.json"),
    "preference_eval": ("models/policy/model", "models/sft/model", "models/reward/model", "models/judge/model",
                        "data/prepared"),
    "promote": ("models/policy/model", "reports/preference/metrics.json")}
LEAVES = {
    "ingest": "data/prepared", "base": "models/base/model", "sft": "models/sft/model",
    "reward_model": "models/reward/model", "reward_eval": "reports/reward/metrics.json",
    "judge": "models/judge/model", "ppo": "models/policy/model",
    "preference_eval": "reports/preference/metrics.json", "promote": "reports/promote/decision.json"}
GATE = "reports/reward/gate.json"


class Story:
    """Runs one after the other: each does what its ingredients ask for, and reuses what was done before."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.versions: dict[int, RegisteredVersion] = {}
        self._done: dict[tuple[str, ...], Step] = {}

    def run(self, data: str = "monday", failing: str = "", gate: bool = True, bytes_of: Mapping[str, str] = {},
            **settings: str) -> Run:
        """A run over the batches `data` (their names with a + between); `settings` give a stage another parameter.

        `bytes_of` names the content that a stage leaves, whatever it was given.
        """
        id = f"20260101-0000{len(self.runs):02}-aaaaaa"
        left = {"data/snapshot": f"snapshot of {data}"}
        steps, failed = {"snapshot": step("snapshot", "ran", id)}, False
        for stage, reads in READS.items():
            inputs = {path: left[path] for path in reads}
            key = (stage, *inputs.values(), settings.get(stage, ""), str(gate) if stage == "reward_eval" else "")
            if stage == failing:
                steps[stage] = step(stage, "failed", id, inputs={}, mlflow_run=f"{stage} in {id}")
                failed = True
                break
            content = bytes_of.get(stage) or f"{stage} {abs(hash(key))}"
            known = self._done.get(key)
            steps[stage] = _again(known) if known else step(
                stage, "ran", id, inputs=inputs, outputs={LEAVES[stage]: content}, mlflow_run=f"{stage} in {id}",
                metrics=_metrics(stage, gate, self._number(content) if stage == "promote" else 0))
            self._done.setdefault(key, steps[stage])
            left |= steps[stage].outputs
            if stage == "reward_eval":
                left[GATE] = f"gate {gate}"
                if not gate:
                    failed = True
                    break
        batches = tuple(Batch(name, f"{name}.jsonl", 10, {"comparison": 10}, 0, False) for name in data.split("+"))
        run = Run(id=id, created=f"2026-01-01T00:00:{len(self.runs):02}+00:00", ended=None,
                  status="failed" if failed else "finished", message="no" if failed else None, trigger="test",
                  params_file=None, settings=tuple(settings.values()), until=None, git_commit=None, git_dirty=None,
                  host="here", mlflow_run=f"mlflow of {id}", params={}, steps=steps, snapshot=left["data/snapshot"],
                  batches=batches, folder=None)
        self.runs = {id: run, **self.runs}
        if "promote" in steps and steps["promote"].status == "ran":
            self._register(run)
        return run

    def graph(self) -> Graph:
        """The graph of all of them."""
        return build(self.runs, self.versions, {})

    def _number(self, content: str) -> int:
        return len(self.versions) + 1

    def _register(self, run: Run) -> None:
        number = len(self.versions) + 1
        policy = run.steps["ppo"].outputs["models/policy/model"]
        version = RegisteredVersion("policy", number, policy, run.id, run.created, (), number - 1 or None, {})
        self.versions = {number: version, **self.versions}


def step(stage: str, status: str, run: str, inputs: Mapping[str, str] | None = None,
         outputs: Mapping[str, str] | None = None, mlflow_run: str | None = None,
         metrics: Mapping[str, float] | None = None) -> Step:
    """One stage of a run."""
    return Step(stage=stage, status=status, reason="because", seconds=1.0, started="2026-01-01T00:00:00+00:00",  # type: ignore[arg-type]
                version="1", mlflow_run=mlflow_run, made_by=run, params={}, metrics=metrics or {}, facts={},
                inputs=inputs or {}, outputs=outputs or {})


def _again(known: Step) -> Step:
    values = {**known.__dict__, "status": "reused", "started": None}
    return Step(**values)


def _metrics(stage: str, gate: bool, number: int) -> dict[str, float]:
    return {"reward_eval": {"passed": float(gate)}, "promote": {"promoted": 1.0, "version": float(number)},
            "preference_eval": {"win_rate_vs_sft": 0.7, "win_rate_vs_champion": 0.6}}.get(stage, {})
