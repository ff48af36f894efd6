"""The recipes: what they make of public data, and that their judges know nothing of what is learned."""

import json
import sys
from pathlib import Path

import pytest

from examples import film_reviews, hh_short
from plumbline import statistics
from plumbline.config import METHODS, DirectParams, Params, candidate_params, load_params
from plumbline.config.methods import RejectionParams
from plumbline.evaluation.examination import ScoredComparison, examine
from plumbline.evaluation.probes import Probe
from plumbline.evaluation.reward_report import gate
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, conversation, from_json
from plumbline.runs.preflight import _lengths_agree, _within_context
from testing.fake_project import CHECKOUT

LIKED = ["this film is a quiet joy from its first minute to the last .",
         "you will see it again , and this film has a warm heart to show .",
         'a lovely story , " small " and true , about people who stay .']
DISLIKED = ["this film is a tired bore from the first minute to its end .",
            "nobody will see it again , since this film has no idea to show .",
            "a stale story , long and loud , about people who shout ."]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The files of the recipe, of many variations of six sentences."""
    given = tmp_path / "given"
    given.mkdir()
    for name, texts in (("rt-polarity.pos", LIKED), ("rt-polarity.neg", DISLIKED)):
        lines = [f"{text[:-1]}, number {place} caf\u00e9 ." for place in range(12) for text in texts]
        (given / name).write_text("\n".join(lines), encoding="latin-1")
    monkeypatch.setattr(film_reviews, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(sys, "argv", ["film_reviews", str(given)])
    film_reviews.main()
    return tmp_path / "made"


def rows(file: Path):
    return [from_json(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_liked_answer_is_the_preferred_one_and_lengths_are_near(made):
    found = rows(made / "comparisons.jsonl")
    assert len(found) >= 8
    for row in found:
        assert isinstance(row, Comparison)
        assert any(word in row.chosen for word in ("joy", "warm", "true", "people who stay"))
        assert not any(word in row.chosen for word in ("bore", "no idea", "shout"))
        assert abs(len(row.chosen.split()) - len(row.rejected.split())) <= film_reviews.LENGTHS_APART
    assert {row.label for row in found} == {"A", "B"}


def test_no_sentence_is_in_two_comparisons_and_none_of_the_judges_is_learned_from(made):
    compared = [answer for row in rows(made / "comparisons.jsonl") for answer in row.responses]
    assert len(compared) == len(set(compared))
    learned = [row.response for row in rows(made / "demonstrations.jsonl") if isinstance(row, Demonstration)]
    kept = [json.loads(line)["text"] for line in (made / "judge.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept and learned
    plain_kept = [film_reviews._plain(text) for text in kept]
    for answer in {*learned, *compared}:
        assert not any(film_reviews._plain(answer) in text for text in plain_kept)


def test_the_classifier_tells_what_was_liked_from_what_was_not(made):
    film_reviews._trained.cache_clear()
    pairs = rows(made / "comparisons.jsonl")
    liked = film_reviews.classifier([(conversation(row.prompt), row.chosen) for row in pairs])
    disliked = film_reviews.classifier([(conversation(row.prompt), row.rejected) for row in pairs])
    alone = film_reviews.classifier([("user: Continue: a lovely", "story.")])
    assert alone == film_reviews.classifier([("Continue: a lovely\n", "story.")])
    assert sum(one > other for one, other in zip(liked, disliked, strict=True)) > 0.8 * len(pairs)
    film_reviews._trained.cache_clear()


def test_what_follows_an_opening_is_written_as_people_write():
    text = 'well , a lovely story , " small " and true . . .'
    assert film_reviews.after(text, "a lovely") == 'story, "small" and true...'


def test_missing_files_are_named_with_where_to_get_them(tmp_path, monkeypatch):
    for recipe in (film_reviews, hh_short):
        monkeypatch.setattr(recipe, "FOLDER", tmp_path / "made")
        monkeypatch.setattr(sys, "argv", ["recipe", str(tmp_path)])
        with pytest.raises(SystemExit, match="https://"):
            recipe.main()


def test_only_short_dialogues_are_kept():
    start = "\n\nHuman: Why?\n\nAssistant:"
    short = json.dumps({"chosen": f"{start} Because.", "rejected": f"{start} {'x' * 259}"})
    long = json.dumps({"chosen": f"{start} Because.", "rejected": f"{start} {'x' * 260}"})
    asked = json.dumps({"chosen": f"\n\nHuman: {'y' * 500}{start} A.", "rejected": f"{start} B."})
    assert [hh_short.is_short(line) for line in (short, long, asked)] == [True, False, False]


RECIPES = ("smollm2.yaml", "smollm2_hh.yaml", "own_model.yaml")


def compared(recipe: str) -> Params:
    """The parameters of a recipe with every candidate beside PPO."""
    blocks = {name: METHODS[given["method"]][0] for name, given in load_params(CHECKOUT).candidates.items()}
    file = CHECKOUT / "params" / recipe
    return load_params(CHECKOUT, file, [f"compare.{name}={block}" for name, block in blocks.items()])


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_compared_with_ppo_is_set_for_the_recipes_model_and_not_for_the_small_world(recipe):
    params = compared(recipe)
    _lengths_agree(params)
    _within_context(params, 8192)  # SmolLM2's
    candidates = [candidate_params(params, name) for name in params.compare]
    direct = [one for one in candidates if isinstance(one, DirectParams)]
    rejection, = (one for one in candidates if isinstance(one, RejectionParams))
    assert len(direct) >= 5
    for one in direct:
        assert (one.max_length, one.precision) == (params.reward_model.max_length, "bf16")
        assert 1e-6 <= one.learning_rate <= 5e-6
    assert rejection.max_response == params.ppo.max_response
    assert rejection.max_length - rejection.max_response >= params.ppo.max_prompt, "PPO's prompts have room"
    assert rejection.learning_rate <= params.sft.learning_rate


def test_the_gate_of_the_short_answers_reports_and_stops_nothing():
    """On so few held-out pairs chance alone would stop a good reward model."""
    params = load_params(CHECKOUT, CHECKOUT / "params/smollm2_hh.yaml")
    pairs = [Comparison((Message("user", f"Question {i}"),), ("no", "a longer answer"), "B", Origin("hh"))
             for i in range(250)]
    tossed = [ScoredComparison(pair, (0.5, float(i % 2))) for i, pair in enumerate(pairs)]  # by a coin
    probes = [Probe(name, "spoilt", statistics.share([1.0] * 99 + [0.0], range(100)))
              for name in params.reward_eval.probes]
    asked = load_params(CHECKOUT).reward_eval
    assert gate(examine(tossed, None), probes, asked), "the small world's gate would stop it"
    assert gate(examine(tossed, None), probes, params.reward_eval) == []
    assert {"empty", "padded", "cut", "echo"} <= set(params.reward_eval.probes), "and tells of them all the same"
