"""The stages `reward_model` and `judge` by themselves, with tiny models: what each learns from, and its centre."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from plumbline.alignment.reward import RewardModel
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.sampling import sample
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Comparison, Origin, prompt_json, to_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks import judge, reward_model
from testing.tiny_models import ASKED, copy_of, prompt

ROOT = Path(__file__).resolve().parents[2]
BEST = {"train": "red", "judge": "blue", "heldout": "green", "validation": "red"}
"""The word that wins in each split, whatever stands against it."""
SMALL = ("reward_model.max_length=64", "reward_model.epochs=3", "reward_model.batch_size=8",
         "reward_model.micro_batch_size=8", "reward_model.learning_rate=0.003", "ppo.max_prompt=40",
         "ppo.max_response=8", "reward_model.centering_samples=64")


def comparisons(best: str, count: int = 60) -> list[Comparison]:
    rng, found = random.Random(0), []
    for _ in range(count):
        words = (best, rng.choice([word for word in ("red", "green", "blue", "black") if word != best]))
        one = Comparison(prompt(rng.choice(ASKED)), words, "A", Origin("test"))
        found.append(one if rng.random() < 0.5 else one.swap())
    return found


@pytest.fixture
def workspace(taught_lm, tmp_path: Path) -> Path:
    copy_of(taught_lm).save(tmp_path / "models/sft/model")
    for split, best in BEST.items():
        rows = {"preferences": [to_json(one) for one in comparisons(best)],
                "prompts": [{"prompt": prompt_json(prompt(f"{text} {i}"))} for text in ASKED for i in range(40)]}
        for part, values in rows.items():
            file = tmp_path / f"data/prepared/{part}/{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(jsonl(values), encoding="utf-8")
    return tmp_path


def run_stage(module, root: Path, *settings: str) -> dict[str, float]:
    name = module.__name__.removeprefix("tasks.")
    params = load_params(ROOT, None, [*SMALL, *settings])
    with StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)[name], params, {}, "", None) as run:
        module.program(run)
    folder = {"reward_model": "reward", "judge": "judge"}[name]
    found: dict[str, float] = json.loads((root / f"models/{folder}/metrics.json").read_text())
    return found


def favourite(folder: Path) -> str:
    """The word that a stored reward model likes most."""
    return favourite_of(RewardModel.load(folder))


def favourite_of(model: RewardModel) -> str:
    scores = {word: model.score([(prompt(ASKED[0]), word)])[0] for word in ("red", "green", "blue", "black")}
    return max(scores, key=lambda word: scores[word])


@pytest.mark.parametrize(("module", "place", "best"), [(reward_model, "reward", "red"), (judge, "judge", "blue")])
def test_each_learns_from_its_own_split_alone(workspace: Path, module, place: str, best: str) -> None:
    run_stage(module, workspace)
    assert favourite(workspace / f"models/{place}/model") == best


@pytest.mark.parametrize(("module", "place"), [(reward_model, "reward"), (judge, "judge")])
def test_fresh_answers_of_sft_to_other_prompts_score_zero_on_average(workspace: Path, taught_lm, module,
                                                                      place: str) -> None:
    measured = run_stage(module, workspace)
    model, tokenizer = RewardModel.load(workspace / f"models/{place}/model"), taught_lm.tokenizer
    asked = [encode_prompt(tokenizer, prompt(f"{text} {i}")) for text in ASKED for i in range(50, 90)]
    answers = sample(taught_lm.model, asked, max_response=8, stop=stop_token(tokenizer), temperature=1.0,
                     generator=torch.Generator().manual_seed(99))
    scores = model.score_ids([ids + answer.ids for ids, answer in zip(asked, answers, strict=True) if answer.stopped])
    # The error of the centre, from about 64 answers, and that of this mean.
    error = stdev(scores) * (1 / measured["centering_finished"] + 1 / len(scores)) ** 0.5
    assert abs(fmean(scores)) < 4 * error < 4 * abs(measured["offset"]), "without a centre it would not be 0"
    assert model.std == measured["std"] == pytest.approx(stdev(scores), rel=0.35)


def test_how_often_the_judge_is_right_is_measured_on_held_out_comparisons(workspace: Path) -> None:
    """Decided ones that it reads whole: promote asks for it where the judge decides."""
    file = workspace / "data/prepared/preferences/heldout.jsonl"
    right, long = comparisons("blue"), Comparison(prompt("colors " * 80), ("red", "blue"), "B", Origin("test"))
    tie = Comparison(prompt(ASKED[0]), ("red", "blue"), "tie", Origin("test"))
    file.write_text(jsonl([to_json(one) for one in [*right, long, tie]]), encoding="utf-8")
    measured = run_stage(judge, workspace)
    assert (measured["heldout_accuracy"], measured["heldout_accuracy_n"]) == (1.0, 60)
    assert 0.5 < measured["heldout_accuracy_low"] < 1.0
    wrong = [Comparison(one.prompt, one.responses, "B" if one.label == "A" else "A", one.origin) for one in right]
    file.write_text(jsonl([to_json(one) for one in wrong]), encoding="utf-8")
    assert run_stage(judge, workspace)["heldout_accuracy"] == 0.0
    file.write_text(jsonl([to_json(long), to_json(tie)]), encoding="utf-8")
    assert "heldout_accuracy" not in run_stage(judge, workspace)


def test_the_judge_is_another_model_than_the_first_on_the_same_data(workspace: Path) -> None:
    """Its head starts from another seed, and its prompts come in another order."""
    data = workspace / "data/prepared/preferences"
    (data / "judge.jsonl").write_bytes((data / "train.jsonl").read_bytes())
    first, second = run_stage(reward_model, workspace), run_stage(judge, workspace)
    assert first["pairs"] == second["pairs"] and first["validation_loss"] != second["validation_loss"]


THREE = "reward_model.members=3"


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_an_ensemble_has_members_that_differ_and_share_a_centre(workspace: Path) -> None:
    folder = workspace / "models/reward/model"
    alone = run_stage(reward_model, workspace)
    first = weights(folder)
    measured = run_stage(reward_model, workspace, THREE)
    assert measured == alone, "the metrics are those of the first, which is the same model"
    found = [weights(one) for one in (folder, folder / "members/2", folder / "members/3")]
    assert found[0] == first and len(set(found)) == 3
    assert sorted(file.name for file in (folder / "members").iterdir()) == ["2", "3"]
    model = RewardModel.load(folder)
    assert model.model.config.reward_mean_std < 1.0, "the mean of several is less far from 0 than each"
    for member in model.members:
        assert favourite_of(member) == "red"
    points = [json.loads(line) for line in (workspace / "models/reward/curves.jsonl").read_text().splitlines()]
    assert {point.get("what", "") for point in points} == {"", "member 2", "member 3"}


def test_a_killed_ensemble_goes_on_with_the_member_that_was_killed(workspace: Path, monkeypatch) -> None:
    """At whatever step of the second member or the third: what is made is what an undisturbed training makes."""
    folder, steps = workspace / "models/reward/model", []
    run_stage(reward_model, workspace, THREE, "reward_model.checkpoint_every=5")
    expected = [weights(one) for one in (folder, folder / "members/2", folder / "members/3")]
    config = (folder / "config.json").read_text()
    report = StageRun.report

    def killed(self, step, total, metrics=None, what=""):
        report(self, step, total, metrics, what)
        steps.append((what, step))
        if len(steps) in (8, 31):
            raise Killed

    monkeypatch.setattr(StageRun, "report", killed)
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(Killed):
            run_stage(reward_model, workspace, THREE, "reward_model.checkpoint_every=5")
        assert not folder.exists()
    run_stage(reward_model, workspace, THREE, "reward_model.checkpoint_every=5")
    assert [weights(one) for one in (folder, folder / "members/2", folder / "members/3")] == expected
    assert (folder / "config.json").read_text() == config
    # The second member, killed after step 8, went on from step 5; the third, after step 3, began anew. The end of a
    # training is told, too.
    assert len(steps) == 3 * (24 + 1) + 3 + 3


def test_the_judge_is_a_single_model_beside_an_ensemble(workspace: Path) -> None:
    run_stage(judge, workspace, THREE)
    assert not (workspace / "models/judge/model/members").exists()


def test_centring_uses_the_prompts_and_the_lengths_of_ppo(workspace: Path) -> None:
    long = [{"prompt": prompt_json(prompt("colors " * 50))} for _ in range(200)]
    prompts = workspace / "data/prepared/prompts/train.jsonl"
    prompts.write_text(jsonl(long) + prompts.read_text(), encoding="utf-8")
    assert run_stage(reward_model, workspace)["centering_finished"] > 50, "prompts that do not fit are passed over"
    with pytest.raises(UserError, match=r"None of the 400 prompts fits ppo\.max_prompt = 3"):
        run_stage(reward_model, workspace, "ppo.max_prompt=3")
    prompts.write_text(jsonl([*long, {"prompt": prompt_json(prompt("colors"))}]), encoding="utf-8")
    assert run_stage(reward_model, workspace)["centering_finished"] > 50, "one prompt is asked as often as it takes"
    with pytest.raises(UserError, match="at least 8 of them; found 0"):
        run_stage(reward_model, workspace, "ppo.max_response=1", "ppo.temperature=0.01")


def test_without_data_for_a_judge_there_is_a_reason_in_its_place_and_no_torch(workspace: Path) -> None:
    (workspace / "data/prepared/preferences/judge.jsonl").write_text("")
    code = f"""
import sys
from pathlib import Path
from plumbline.config import load_params
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks.judge import program
checkout, root = Path({str(ROOT)!r}), Path({str(workspace)!r})
program(StageRun(root, Home(root, root / ".plumbline"), read_stages(checkout)["judge"], load_params(checkout), {{}}, "",
                 None))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    left, = (workspace / "models/judge/model").iterdir()
    assert left.name == "NONE" and "ingest.judge_fraction" in left.read_text()
    assert json.loads((workspace / "models/judge/metrics.json").read_text()) == {"pairs": 0}
