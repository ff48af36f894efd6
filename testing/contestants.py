"""Contestants of tiny models in a project's cache, and a history that names them as champion and challenger."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from plumbline.alignment.reward import RewardModel
from plumbline.feedback.contestants import PREPARED, REWARD, SFT, AnsweringModel, Contestants
from plumbline.history.history import History, RegisteredVersion, Run, Step
from plumbline.lm.base import LanguageModel
from plumbline.project.digests import cached_file, digest, listing
from testing.tiny_models import ASKED, copy_of, small_model

COMPARED = {"responses": ["x", "y"], "label": "A", "source": "test", "kind": "comparison"}


def keep(cache: Path, folder: Path) -> str:
    """Put a folder into the cache, as DVC would; its digest."""
    md5, names = digest(folder), listing(folder)
    entries = json.dumps([{"md5": file, "relpath": name} for name, file in sorted(names.items())], sort_keys=True)
    cached_file(cache, md5).parent.mkdir(parents=True, exist_ok=True)
    cached_file(cache, md5).write_text(entries)
    for name, file in names.items():
        cached_file(cache, file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, cached_file(cache, file))
    return md5


def make_contestants(cache: Path, taught: LanguageModel) -> Contestants:
    """A taught SFT model, two untaught policies and an untrained reward model, with prompts to ask."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taught.save(folder / "sft")
        for seed in (1, 2):
            LanguageModel(small_model(taught.tokenizer, seed), taught.tokenizer).save(folder / f"policy{seed}")
        copy_of(taught).save(folder / "body")
        RewardModel.from_policy(folder / "body", 64, seed=0).save(folder / "reward")
        for part, row in (("prompts", {}), ("preferences", COMPARED)):
            (folder / "prepared" / part).mkdir(parents=True)
            (folder / "prepared" / part / "train.jsonl").write_text("".join(
                json.dumps({**row, "prompt": [{"role": "user", "content": text}]}) + "\n" for text in ASKED))
        kept = {path.name: keep(cache, path) for path in folder.iterdir()}
    models = (AnsweringModel("champion, version 2", kept["policy2"], True),
              AnsweringModel("challenger, version 1", kept["policy1"], True), AnsweringModel("SFT", kept["sft"], False))
    return Contestants(models, kept["reward"], kept["prepared"], 1.0, 12, "fp32")


def put_into_history(history: History, contestants: Contestants) -> None:
    """Let the history say that the contestants' policies are champion and challenger."""
    inputs = {SFT: contestants.models[-1].digest, REWARD: contestants.reward, PREPARED: contestants.prepared}
    params = {"preference_eval.temperature": str(contestants.temperature),
              "preference_eval.precision": contestants.precision,
              "preference_eval.max_response": str(contestants.max_response)}
    history.runs = {"run": _run("run", {"ppo": _step(inputs)}, params)}
    champion, challenger, _ = contestants.models
    history.versions = {
        2: RegisteredVersion("policy", 2, champion.digest, "run", "2026-01-02T00:00:00+00:00", ("champion",), None, {}),
        1: RegisteredVersion("policy", 1, challenger.digest, "run", "2026-01-01T00:00:00+00:00", ("challenger",), None,
                             {})}


def _step(inputs: Mapping[str, str]) -> Step:
    return Step(stage="ppo", status="ran", reason="first run", seconds=1.0, started=None, version="1", mlflow_run=None,
                made_by="run", params={}, metrics={}, facts={}, inputs=inputs, outputs={})


def _run(name: str, steps: Mapping[str, Step], params: Mapping[str, str]) -> Run:
    return Run(id=name, created="2026-01-01T00:00:00+00:00", ended=None, status="finished", message=None,
               trigger="test", params_file=None, settings=(), until=None, git_commit=None, git_dirty=None, host="here",
               mlflow_run="0" * 32, params=params, steps=steps, snapshot=None, batches=(), folder=None)
