"""The stage `preference_eval` by itself, with tiny models: who meets whom, on which prompts, by which judge."""

import json
from pathlib import Path

import pytest

from plumbline.alignment.reward import RewardModel
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.evaluation import answers
from plumbline.lm.base import LanguageModel
from plumbline.lm.engines.weights import write_untied
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Comparison, Demonstration, Origin, prompt_json, to_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks import candidate_eval
from tasks.preference_eval import program
from testing.tiny_models import WORDS, copy_of, prompt, small_model, small_tokenizer
from testing.vllm_server import VERSION, FakeVllm

ROOT = Path(__file__).resolve().parents[2]
HELDOUT = [f"{text} {i}" for text in ("colors", "which ones?", "say it", "tell me") for i in range(10)]
SMALL = ("ppo.max_prompt=24", "preference_eval.max_response=8",
         "preference_eval.answers_per_prompt=2", "preference_eval.best_of=4", "preference_eval.bon_pool=8",
         "preference_eval.bon_prompts=10")
RULE = f'''def colors(conversations):
    """The number of different colors that an answer names; a prompt of training is never judged."""
    assert not any("train" in prompt for prompt, _ in conversations)
    return [len(set(answer.split()) & set({WORDS!r})) for _, answer in conversations]
'''


@pytest.fixture
def workspace(taught_lm, random_lm, tmp_path: Path) -> Path:
    """SFT answers with colors; `random_lm` babbles."""
    for name in ("policy", "sft"):
        copy_of(taught_lm).save(tmp_path / f"models/{name}/model")
    RewardModel.from_policy(tmp_path / "models/sft/model", 64, seed=0).save(tmp_path / "models/reward/model")
    RewardModel.from_policy(tmp_path / "models/sft/model", 64, seed=1).save(tmp_path / "models/judge/model")
    prepared = tmp_path / "data/prepared"
    people = Origin("people")
    for split, texts in {"heldout": HELDOUT, "train": [f"train {i}" for i in range(50)]}.items():
        kept = {"prompts": [{"prompt": prompt_json(prompt(text))} for text in texts],
                "demonstrations": [to_json(Demonstration(prompt(text), "red blue", people)) for text in texts],
                "preferences": [to_json(Comparison(prompt(text), ("red blue", "names name"), "A", people))
                                for text in texts]}
        for part, rows in kept.items():
            (prepared / part).mkdir(parents=True, exist_ok=True)
            (prepared / part / f"{split}.jsonl").write_text(jsonl(rows), encoding="utf-8")
    batch = {"digest": "0" * 64, "source": "people", "rows": 50, "kinds": {}, "quarantined": 0, "simulated": False}
    (prepared / "manifest.json").write_text(json.dumps({"digest": "0" * 64, "batches": [batch]}))
    (tmp_path / "rules.py").write_text(RULE)
    return tmp_path


def run_eval(root: Path, *settings: str) -> dict[str, float]:
    params = load_params(ROOT, None, [*SMALL, *settings])
    home = Home(root, root / ".plumbline")
    program(StageRun(root, home, read_stages(ROOT)["preference_eval"], params, {}, "", None))
    found: dict[str, float] = json.loads((root / "reports/preference/metrics.json").read_text())
    return found


def test_sft_against_itself_is_a_tie_and_at_no_distance(workspace: Path) -> None:
    """Greedily to the last digit; sampled answers are as independent as those of two models, and win half the time."""
    found = run_eval(workspace)
    assert found["judge"] == "second"
    assert found["win_rate_vs_sft_greedy"] == found["win_rate_vs_sft_greedy_by_reward"] == 0.5
    assert found["win_rate_vs_sft_low"] < 0.5 < found["win_rate_vs_sft_high"]
    assert found["kl_policy"] == 0.0
    assert found["prompts"] == 40 and found["win_rate_vs_sft_n"] == 80
    for what in ("demonstration_loss", "preference_accuracy"):
        assert found[f"{what}_policy"] == found[f"{what}_sft"]
    for what in ("fluency", "distinct_2", "stopped", "reward"):
        assert found[f"{what}_policy_greedy"] == found[f"{what}_sft_greedy"]
    assert found["entropy_policy"] != found["entropy_sft"], "the same model, and other random numbers"
    assert "win_rate_vs_champion" not in found
    for by in ("own", "judge"):
        assert abs(found[f"gain_{by}_policy"]) < 3 / 80**0.5, "nothing over itself, in deviations of an answer"
    assert found["gain_own_best_of"] > 1, "the best of 8 by the reward that chose them"
    assert (workspace / "reports/preference/report/overoptimisation.png").stat().st_size > 1000


def test_a_server_answers_for_the_models_that_it_can_hold(
        workspace: Path, random_lm, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedily as our own sampler does; the champion, which is larger, is not handed over."""
    copy_of(random_lm).save(workspace / "models/policy/model")
    LanguageModel(small_model(tokenizer, hidden_size=48), tokenizer).save(workspace / "models/champion/model")
    own = run_eval(workspace)
    write_untied(small_model(tokenizer, seed=5), workspace / "served")
    with FakeVllm(workspace / "served") as fake:
        monkeypatch.setenv("PLUMBLINE_VLLM_URL", fake.url)
        found = run_eval(workspace, "preference_eval.engine=vllm")
    assert (own["engine"], found["engine"]) == ("own", f"vllm {VERSION}")
    assert len(fake.loads) == 2 + 2 + 2, "the policy and SFT, each sampled and greedy, and SFT's pool in two parts"
    for name in ("win_rate_vs_sft_greedy", "win_rate_vs_champion_greedy", "characters_policy_greedy"):
        assert found[name] == own[name]
    assert found["entropy_sft"] != own["entropy_sft"], "a server draws other tokens"
    assert found["entropy_champion"] == own["entropy_champion"]


def test_a_candidate_is_judged_as_the_policy_is_against_the_same_answers(workspace: Path, random_lm) -> None:
    """Whatever pool of answers the over-optimisation of PPO is shown with, the best of 4 are the same four's."""
    copy_of(random_lm).save(workspace / "models/policy/model")
    copy_of(random_lm).save(workspace / "models/candidates/near/model")
    policy = run_eval(workspace)
    params = load_params(ROOT, None, list(SMALL))
    stages = read_stages(ROOT, {"compare": {"near": "ppo"}})
    candidate_eval.program(StageRun(workspace, Home(workspace, workspace / ".plumbline"),
                                    stages["candidate_eval@near"], params, {}, "", None))
    found = json.loads((workspace / "reports/candidates/near/metrics.json").read_text())
    assert found == {name: policy[name] for name in found}
    assert {"win_rate_vs_sft", "win_rate_vs_sft_greedy", "win_rate_vs_best_of_4", "kl_policy", "characters_policy",
            "demonstration_loss_policy"} <= found.keys()
    assert not any(name.startswith(("gain_", "parting_")) for name in found)
    lines = (workspace / "reports/candidates/near/report/samples.jsonl").read_text()
    assert lines == (workspace / "reports/preference/report/samples.jsonl").read_text()


def test_sft_answers_once_for_all_candidates(workspace: Path, random_lm, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for another reward model, other prompts, or other code."""
    asked: list[object] = []

    def answer_all(lm, *arguments, **more):
        asked.append(lm)
        return sampled(lm, *arguments, **more)

    sampled = answers.answer_all
    monkeypatch.setattr(answers, "answer_all", answer_all)
    inputs = {"models/sft/model": "s", "models/reward/model": "r", "data/prepared": "d"}

    def judge(name: str, *settings: str, code: str = "c", **changed: str) -> int:
        """Judge a candidate; how often a model was asked for answers."""
        asked.clear()
        params = load_params(ROOT, None, [*SMALL, *settings])
        stage = read_stages(ROOT, {"compare": {name: "ppo"}})[f"candidate_eval@{name}"]
        candidate_eval.program(StageRun(workspace, Home(workspace, workspace / ".plumbline"), stage, params,
                                        inputs | changed, code, None))
        return len(asked)

    copy_of(random_lm).save(workspace / "models/candidates/far/model")
    copy_of(random_lm).save(workspace / "models/candidates/near/model")
    assert judge("far") == 5, "both sampled and greedy, and a pool"
    assert judge("near") == 2
    reports = [workspace / f"reports/candidates/{name}" for name in ("far", "near")]
    for file in ("metrics.json", "report/samples.jsonl", "report/report.md"):
        assert (reports[0] / file).read_text() == (reports[1] / file).read_text()
    assert judge("near", **{"models/reward/model": "another"}) == 5
    assert judge("near", "preference_eval.prompts=20") == 5
    assert judge("near", code="other") == 5
    assert judge("near", code="") == 5 == judge("near", code=""), "nobody knows which code it was"
    kept = sorted((workspace / ".plumbline/answers").iterdir())
    assert len(kept) == 4
    kept[0].write_text("{")
    assert sorted([judge("near"), judge("near", code="other"), judge("near", "preference_eval.prompts=20"),
                   judge("near", **{"models/reward/model": "another"})]) == [2, 2, 2, 5]


def test_a_policy_that_forgot_what_sft_knew_is_found_out(workspace: Path, random_lm) -> None:
    """A policy that was judged against itself, or whose answers were SFT's, would be at 0.5 here."""
    copy_of(random_lm).save(workspace / "models/policy/model")
    found = run_eval(workspace, "preference_eval.judges=['rules:colors', reward]")
    assert found["judge"] == "colors" and "judge_optimised" not in found
    assert found["win_rate_vs_sft_high"] < 0.3 and found["win_rate_vs_sft_greedy_high"] < 0.5
    assert found["kl_policy"] > 3 and found["fluency_policy"] < found["fluency_sft"] - 1
    assert found["demonstration_loss_policy"] > found["demonstration_loss_sft"] + 1
    assert 0 <= found["agreement_colors_reward"] <= 1
    report = (workspace / "reports/preference/report/report.md").read_text()
    assert "Judge: colors" in report and "## The price" in report and "best of 4 of SFT" in report


def test_a_rule_that_ppo_was_rewarded_by_is_no_independent_judge(workspace: Path) -> None:
    settings = ("preference_eval.judges=['rules:colors', second]", "ppo.rewards={'rules:colors': 1.0}")
    assert run_eval(workspace, *settings)["judge_optimised"] == 1
    report = (workspace / "reports/preference/report/report.md").read_text()
    assert "(judge: second;" in report, "the curve of over-optimisation takes the next one"


def test_the_reward_that_chooses_the_best_of_n_is_ppos_own(workspace: Path) -> None:
    """By the reward model that chose them they are better than SFT's, so the policy (SFT here) loses."""
    found = run_eval(workspace, "preference_eval.judges=[reward, second]")
    assert found["win_rate_vs_best_of_4"] < 0.4
    assert found["reward_sft_best_of_4"] > found["reward_sft"]


def test_the_second_judge_is_the_model_of_stage_judge(workspace: Path) -> None:
    (workspace / "models/reward/model").rename(workspace / "kept")
    RewardModel.from_policy(workspace / "models/sft/model", 64, seed=7).save(workspace / "models/reward/model")
    before = run_eval(workspace, "preference_eval.judges=[reward]")["win_rate_vs_best_of_4"]
    (workspace / "models/judge/model").rename(workspace / "models/judge/other")
    (workspace / "models/reward/model").rename(workspace / "models/judge/model")
    (workspace / "kept").rename(workspace / "models/reward/model")
    found = run_eval(workspace, "preference_eval.judges=[second]")
    assert found["win_rate_vs_best_of_4"] > before, "the other model chose the best of 4"


def test_a_second_judge_that_is_not_there_says_what_to_do(workspace: Path) -> None:
    folder = workspace / "models/judge/model"
    folder.rename(workspace / "elsewhere")
    folder.mkdir()
    (folder / "NONE").write_text("no preference is kept for it\n")
    with pytest.raises(UserError, match=r"no preference is kept for it.*ingest\.judge_fraction"):
        run_eval(workspace)


def test_gold_is_refused_where_the_data_is_not_simulated(workspace: Path) -> None:
    with pytest.raises(UserError, match="simulated world only"):
        run_eval(workspace, "preference_eval.judges=[gold]")


@pytest.mark.parametrize(("body", "words"), [
    ("def colors(rows): return [1.0]", "asked for .* and gave 1"), ("def colors(rows): return rows", "TypeError"),
    ("def colors(rows): raise RuntimeError('no key')", "RuntimeError: no key"),
    ("def colors(rows): return [float('nan')] * len(rows)", "not a number"), ("colors = 3", "has no function `colors`"),
    ("import nowhere_at_all", "ModuleNotFoundError")])
def test_a_function_that_cannot_judge_is_explained(workspace: Path, body: str, words: str) -> None:
    name = f"rules_{abs(hash(body))}"
    (workspace / f"{name}.py").write_text(body)
    with pytest.raises(UserError, match=words):
        run_eval(workspace, f"preference_eval.judges=['{name}:colors']", "preference_eval.prompts=2")


def test_prompts_are_a_sample_that_order_does_not_change_and_that_fits(workspace: Path) -> None:
    file = workspace / "data/prepared/prompts/heldout.jsonl"
    asked = []
    for turn in (1, -1):
        rows = [json.loads(line) for line in file.read_text().splitlines()][::turn]
        long = {"prompt": prompt_json(prompt("colors " * 30))}
        file.write_text(jsonl([*(row for row in rows if row != long), long][::turn]))
        found = run_eval(workspace, "preference_eval.prompts=12")
        assert (found["prompts"], found["prompts_too_long"]) == (12, 1)
        lines = (workspace / "reports/preference/report/samples.jsonl").read_text().splitlines()
        asked.append([json.loads(line)["prompt"][0]["content"] for line in lines])
    assert asked[0] == asked[1] and set(asked[0]) != set(HELDOUT[:12])


def test_a_champion_of_another_tokenizer_is_compared_by_its_text(workspace: Path, taught_lm) -> None:
    """Its ids would be read as other words: its KL to SFT was 40 nats of nonsense, or an IndexError."""
    tokenizer = small_tokenizer()
    tokenizer.add_tokens([" a token of its own"])
    champion = LanguageModel(small_model(tokenizer, seed=3, vocab_size=len(tokenizer)), tokenizer)
    champion.save(workspace / "models/champion/model")
    found = run_eval(workspace, "preference_eval.judges=['rules:colors', second]")
    assert found["win_rate_vs_champion"] > 0.7
    assert "win_rate_vs_champion_greedy" in found
    assert "reward_champion" in found and "stopped_champion" in found
    assert not {"kl_champion", "entropy_champion", "fluency_champion"} & found.keys()


def test_a_champion_of_the_same_tokenizer_has_its_distance(workspace: Path, random_lm) -> None:
    copy_of(random_lm).save(workspace / "models/champion/model")
    found = run_eval(workspace, "preference_eval.judges=['rules:colors']")
    assert found["kl_champion"] > 3 and found["win_rate_vs_champion_low"] > 0.5


def test_rows_too_long_to_be_answered_are_left_out_of_the_price(workspace: Path) -> None:
    file = workspace / "data/prepared/demonstrations/heldout.jsonl"
    long = to_json(Demonstration(prompt(HELDOUT[0]), "red blue " * 40, Origin("people")))
    before = run_eval(workspace)
    file.write_text(file.read_text() + jsonl([long]), encoding="utf-8")
    after = run_eval(workspace)
    for name in ("demonstration_loss_sft", "demonstration_loss_n"):
        assert after[name] == before[name]


def test_a_champion_that_reads_less_is_refused_by_name(workspace: Path, tokenizer) -> None:
    champion = LanguageModel(small_model(tokenizer, max_position_embeddings=16), tokenizer)
    champion.save(workspace / "models/champion/model")
    with pytest.raises(UserError, match=r"The model `champion` reads at most 16 tokens, but a held-out prompt with an"):
        run_eval(workspace)


def test_kinds_are_the_sources_of_rows(workspace: Path) -> None:
    rows = [to_json(Comparison(prompt(text), ("red", "blue"), "A", Origin("web chat" if i % 2 else "people")))
            for i, text in enumerate(HELDOUT)]
    (workspace / "data/prepared/preferences/heldout.jsonl").write_text(jsonl(rows))
    found = run_eval(workspace)
    assert {key for key in found if key.startswith("win_rate_vs_sft_kind") and key.endswith("_n")} == {
        "win_rate_vs_sft_kind_people_n", "win_rate_vs_sft_kind_web_chat_n"}


def test_a_source_named_like_an_end_or_at_length_is_a_kind_of_its_own(workspace: Path) -> None:
    """`people_high` would be the end of `people`, and MLflow refuses names of more than 250 characters."""
    rows = [to_json(Comparison(prompt(text), ("red", "blue"), "A", Origin("people_high" if i % 2 else "p" * 230)))
            for i, text in enumerate(HELDOUT)]
    (workspace / "data/prepared/preferences/heldout.jsonl").write_text(jsonl(rows))
    found = run_eval(workspace, "preference_eval.judges=['rules:colors']")
    kinds = [key.removeprefix("win_rate_vs_sft_kind_") for key in found if key.startswith("win_rate_vs_sft_kind_")
             and not key.endswith(("_low", "_high", "_n"))]
    assert sorted(kind[:-8] for kind in kinds) == ["people_high-", "p" * 80 + "-"]
    assert max(map(len, found)) <= 250


def test_two_evaluations_may_clear_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one deletes a file between the list of them and a look at it."""
    for i in range(20):
        (tmp_path / f"{i:02}.json").write_text("")
    listed = Path.glob

    def glob(folder: Path, pattern: str) -> list[Path]:
        found = list(listed(folder, pattern))
        for file in found:
            file.unlink()
        return found

    made = answers.SftAnswers([], [])
    monkeypatch.setattr(Path, "glob", glob)
    assert answers.kept_answers(tmp_path / "new.json", lambda: made) is made
