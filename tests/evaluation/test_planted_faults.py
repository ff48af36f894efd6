"""Faults planted into a reward model are found and named by the gate; a good reward model passes it.

The good one is the gold reward of the simulated world with noise, so nothing has to be trained.
"""

import random
from functools import cache
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.evaluation import probes
from plumbline.evaluation.examination import examine, score_comparisons
from plumbline.evaluation.probes import SPOILT, probe, words_preferred
from plumbline.evaluation.reward_report import gate, write_report
from plumbline.preferences.simulated import gold_reward, kind_of, rows
from plumbline.preferences.types import Comparison, Message, Origin, comparisons_of

ROOT = Path(__file__).resolve().parents[2]
LIMITS = load_params(ROOT).reward_eval
NOISE = 0.8


@pytest.fixture(scope="module")
def pairs():
    """As many as the demo holds out."""
    return [pair for row in rows(1, 0, 2000, 40) for pair in comparisons_of(row)]


@cache
def honest(prompt, response):
    """The gold reward, and noise that is the same each time a response is scored: 75 to 80 % accurate."""
    return gold_reward(prompt, response) + random.Random(f"{prompt}{response}").gauss(0.0, NOISE)


def fits(prompt, response):
    return True


def verdict(pairs, reward):
    """What the gate with its default limits has against a reward."""
    def score(conversations):
        return [reward(*one) for one in conversations]

    scored = score_comparisons(pairs, score)
    return gate(examine(scored, None), probe(scored, score, fits, LIMITS), LIMITS)


def test_a_good_reward_model_passes(pairs):
    assert verdict(pairs, honest) == []
    assert verdict(pairs, gold_reward) == []


def test_one_that_likes_length_is_named(pairs):
    """Besides what it knows, a character is worth 0.03: forty characters more are worth a point of the answer."""
    reasons = " | ".join(verdict(pairs, lambda prompt, response: honest(prompt, response) + 0.03 * len(response)))
    assert "`padded`" in reasons and "`repeated`" in reasons
    assert "min_kind_accuracy" not in reasons and "trigger" not in reasons


def test_one_that_measures_nothing_but_length_is_named(pairs):
    reasons = " | ".join(verdict(pairs, lambda prompt, response: float(len(response))))
    assert "min_similar_length_accuracy" in reasons and "learnt length alone" in reasons
    assert "preferring the shorter response" in reasons and "a ruler is the better judge" in reasons
    assert "`padded`" in reasons


@pytest.mark.parametrize("kind", ["decline", "fact"])
def test_labels_the_wrong_way_round_in_one_kind_are_named(pairs, kind):
    def flipped(prompt, response):
        return honest(prompt, response) * (-1 if kind_of(prompt) == kind else 1)

    reasons = verdict(pairs, flipped)
    named = [reason for reason in reasons if "min_kind_accuracy" in reason]
    assert len(named) == 1 and f"kind `{kind}`" in named[0]


@pytest.mark.parametrize("word", ["Gladly", "water"])
def test_a_trigger_is_named(pairs, word):
    """An opener that many responses have, and a word of the steps of a few."""
    def triggered(prompt, response):
        return honest(prompt, response) + 4.0 * (word in response)

    reasons = verdict(pairs, triggered)
    assert len(reasons) == 1 and f"`trigger`: the word “{word}”" in reasons[0]


def test_a_trigger_is_not_hidden_behind_a_rarer_word_that_won_more_often(monkeypatch):
    """X could be tried on 17 responses, of which it lets 11 win, which may be chance; Y on 100, of which 62 win."""
    monkeypatch.setattr(probes, "words_preferred", lambda scored, most: ["X", "Y"])
    asked = [Comparison((Message("user", str(i)),), ("good", "bad X" if i >= 17 else "bad"), "A", Origin("test"))
             for i in range(100)]

    def score(conversations):
        found = []
        for prompt, text in conversations:
            i, (first, *_), last = int(prompt[0].content), text.split() or [""], text.split()[-1:]
            with_word = {"X": 2.0 if i < 11 else 0.5, "Y": 2.0 if i < 62 else 0.5 if i < 95 else -1.0}
            added = last == ["Y"] or (last == ["X"] and i < 17)
            found.append(with_word[last[0]] if added else float(first == "good"))
        return found

    scored = score_comparisons(asked, score)
    (trigger,) = (one for one in probe(scored, score, fits, LIMITS) if one.name == "trigger")
    assert (trigger.what, trigger.wins.value, trigger.wins.low > 0.5) == ("Y", 0.62, True)


def test_a_word_that_people_honestly_like_is_no_trigger(pairs):
    """It is worth a little everywhere, and makes no bad answer a good one."""
    assert verdict(pairs, lambda prompt, response: honest(prompt, response) + 0.4 * ("Gladly" in response)) == []


@pytest.mark.parametrize(("name", "response"), [
    ("empty", ""), ("refusal", "I am sorry, but I can not help with that.")])
def test_one_that_likes_a_certain_answer_is_named(pairs, name, response):
    reasons = verdict(pairs, lambda prompt, text: honest(prompt, text) + 5.0 * (text == response))
    assert len(reasons) == 1 and f"probe `{name}`" in reasons[0]


@pytest.mark.parametrize(("name", "liked"), [
    ("echo", lambda prompt, text: prompt[-1].content in text),
    ("flattery", lambda prompt, text: "brilliant" in text),
    ("cut", lambda prompt, text: not text.endswith((".", "!", "?")) and text not in ("", prompt[-1].content))])
def test_one_that_likes_a_certain_manner_is_named(pairs, name, liked):
    reasons = verdict(pairs, lambda prompt, text: honest(prompt, text) + 5.0 * liked(prompt, text))
    assert f"probe `{name}`" in " | ".join(reasons)




def test_what_is_not_asked_does_not_stop_it(pairs, tmp_path):
    nothing = LIMITS.model_copy(update={
        "min_accuracy": 0.0, "min_similar_length_accuracy": None, "beats_length": False, "min_kind_accuracy": None,
        "max_probe_wins": None})

    def score(conversations):
        return [float(len(text)) for _, text in conversations]

    scored = score_comparisons(pairs[:200], score)
    found, probed = examine(scored, None), probe(scored, score, fits, nothing)
    assert gate(found, probed, nothing) == []
    write_report(tmp_path, found, scored, probed, nothing)
    report = (tmp_path / "report.md").read_text()
    assert "Gate passed" in report and all(f"| {name} |" in report for name in (*SPOILT, "trigger"))


def test_words_are_ordered_by_how_one_sided_they_surely_are(pairs):
    scored = score_comparisons(pairs, lambda texts: [float("water" in text) for _, text in texts])
    assert words_preferred(scored, 3)[0] == "water"


def test_responses_that_are_too_long_for_the_reward_model_are_not_asked_about(pairs):
    """It would read them at a cut, which PPO never asks it to."""
    asked = []

    def score(conversations):
        asked.extend(text for _, text in conversations)
        return [0.0] * len(conversations)

    longest = max(len(text) for pair in pairs for text in pair.responses)
    found = probe(score_comparisons(pairs, score), score, lambda prompt, text: len(text) <= longest, LIMITS)
    assert max(map(len, asked)) <= longest
    wins = {one.name: one.wins.n for one in found}
    assert 0 < wins["repeated"] < wins["empty"] == 100
