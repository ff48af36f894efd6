"""When pairs and rankings are made: what is short is filled up, and nothing is loaded where nothing is."""

import pytest

from plumbline.feedback import make_pairs as making
from plumbline.feedback import models
from plumbline.feedback.contestants import AnsweringModel, Contestants
from plumbline.feedback.make_pairs import ENOUGH, ENOUGH_RANKINGS, make_pairs
from plumbline.feedback.next_pair import next_pair, open_prompts, stock
from plumbline.feedback.service import LOW, LOW_RANKINGS
from plumbline.feedback.store import FeedbackStore
from plumbline.preferences.types import Message, Prompt
from plumbline.project.home import Home
from testing.verdict_makers import say, verdict

CONTESTANTS = Contestants((AnsweringModel("champion", "c.dir", True), AnsweringModel("SFT", "s.dir", False)), "r.dir",
                          "p.dir", 1.0, 12, "fp32")


def questions(count: int) -> list[Prompt]:
    return [(Message("user", f"Question {number}?"),) for number in range(count)]


class FakeModels:
    """Models that give another answer at each turn."""

    loaded = 0
    contestants = CONTESTANTS

    @classmethod
    def load(cls, *_: object) -> "FakeModels":
        cls.loaded += 1
        return cls()

    def answer(self, number: int, prompts: list[Prompt], seed: int) -> list[str]:
        return [f"Answer {number} with {seed}"] * len(prompts)

    def rewards(self, prompt: Prompt, answers: list[str]) -> list[float]:
        return [0.1 * place for place in range(len(answers))]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> type[FakeModels]:
    """The models that answer, and how often they were loaded; there are prompts enough."""
    monkeypatch.setattr(FakeModels, "loaded", 0)
    monkeypatch.setattr(models, "LoadedModels", FakeModels)
    monkeypatch.setattr(making, "_read_prompts", lambda *_: questions(400))
    return FakeModels


def judge(store: FeedbackStore, left: int, ranking: bool) -> None:
    """Let Ada judge pairs (or rankings) until so many are left."""
    while stock(store, ranking) > left:
        pair = next_pair(store, "ada", ranking)
        assert pair
        say(store, verdict(pair, "ranking", ranks=tuple(range(1, len(pair.answers) + 1))) if ranking else verdict(pair))


def test_both_stocks_are_filled_and_a_full_store_loads_no_model(
        home: Home, store: FeedbackStore, loaded: type[FakeModels]) -> None:
    added = make_pairs(home, CONTESTANTS)
    assert (stock(store), stock(store, ranking=True)) == (48, 9)
    assert (ENOUGH, ENOUGH_RANKINGS, added) == (48, 8, 57)
    assert (make_pairs(home, CONTESTANTS), loaded.loaded) == (0, 1)


def test_rankings_are_made_where_there_are_pairs_enough_and_no_more_pairs(
        home: Home, store: FeedbackStore, loaded: type[FakeModels]) -> None:
    make_pairs(home, CONTESTANTS)
    judge(store, 0, ranking=True)
    assert make_pairs(home, CONTESTANTS) == 9
    assert (stock(store), stock(store, ranking=True), loaded.loaded) == (48, 9, 2)


def test_pairs_are_made_where_there_are_rankings_enough_and_no_more_rankings(
        home: Home, store: FeedbackStore, loaded: type[FakeModels]) -> None:
    make_pairs(home, CONTESTANTS)
    judge(store, 40, ranking=False)
    assert make_pairs(home, CONTESTANTS) == 16
    assert (stock(store), stock(store, ranking=True)) == (56, 9)


@pytest.mark.parametrize(("prompts", "pairs", "ranked"), [(400, 48, 9), (40, 33, 7), (20, 16, 4), (5, 4, 1)])
def test_no_prompt_is_in_a_pair_and_in_a_ranking_and_both_get_some(
        home: Home, store: FeedbackStore, loaded: type[FakeModels], monkeypatch: pytest.MonkeyPatch, prompts: int,
        pairs: int, ranked: int) -> None:
    """Whoever has judged a pair is told the models, and would know them again in the ranking."""
    monkeypatch.setattr(making, "_read_prompts", lambda *_: questions(prompts))
    make_pairs(home, CONTESTANTS)
    assert (stock(store), stock(store, ranking=True)) == (pairs, ranked)
    assert len(open_prompts(store)) == pairs + ranked


def test_models_that_say_too_little_for_a_ranking_end_it(
        home: Home, store: FeedbackStore, loaded: type[FakeModels], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "answer", lambda _, number, prompts, seed: [f"Answer {number}"] * len(prompts))
    assert make_pairs(home, CONTESTANTS) == 48
    assert (stock(store), stock(store, ranking=True)) == (48, 0)


def test_whoever_finds_few_left_has_some_made() -> None:
    assert 0 < LOW < ENOUGH
    assert 0 < LOW_RANKINGS < ENOUGH_RANKINGS
