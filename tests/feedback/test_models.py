"""Real (tiny) models answer: pairs are made, and `Try it` streams."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plumbline.errors import UserError
from plumbline.feedback.contestants import Contestants, contestants_of
from plumbline.feedback.live_answers import FinishedAnswer, LiveAnswers
from plumbline.feedback.make_pairs import make_pairs
from plumbline.feedback.models import LoadedModels
from plumbline.feedback.next_pair import next_pair, stock
from plumbline.feedback.store import FeedbackStore
from plumbline.history.history import History
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.sampling import sample
from plumbline.project.home import Home
from testing.contestants import make_contestants, put_into_history
from testing.tiny_models import ASKED, prompt


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def contestants(cache: Path, taught_lm: LanguageModel) -> Contestants:
    return make_contestants(cache, taught_lm)


@pytest.fixture(scope="module")
def models(cache: Path, contestants: Contestants) -> LoadedModels:
    return LoadedModels.load(contestants, cache)


@pytest.fixture
def project(tmp_path: Path, cache: Path, contestants: Contestants, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project whose cache holds the contestants."""
    monkeypatch.delenv("PLUMBLINE_FEEDBACK_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / ".plumbline").mkdir()
    (tmp_path / ".plumbline" / "cache").symlink_to(cache)
    return Home(tmp_path, tmp_path / ".plumbline")


def test_pieces_put_together_are_the_answer_that_sampling_gives(models: LoadedModels) -> None:
    for number, lm in enumerate(models.models):
        for seed in range(4):
            said = "".join(models.stream(number, prompt(ASKED[seed]), seed))
            expected, = sample(lm.model, [encode_prompt(lm.tokenizer, prompt(ASKED[seed]))], max_response=12,
                               stop=stop_token(lm.tokenizer), temperature=1.0,
                               generator=torch.Generator().manual_seed(seed))
            assert said == decode_response(lm.tokenizer, expected.ids)


def test_a_prompt_that_leaves_no_room_is_refused_in_streams_and_answered_with_nothing_in_batches(
        models: LoadedModels) -> None:
    long = prompt("red " * 200)
    with pytest.raises(UserError, match="too long"):
        list(models.stream(0, long, 0))
    texts = models.answer(2, [long, prompt("colors")], 0)
    assert texts[0] == ""
    assert texts[1]


def test_a_model_that_the_cache_lacks_is_said_with_what_to_do(
        contestants: Contestants, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc pull"):
        LoadedModels.load(contestants, tmp_path)


def test_the_contestants_are_what_the_registry_names(project: Home, contestants: Contestants) -> None:
    history = History(project)
    with pytest.raises(UserError, match="plumbline run"):
        contestants_of(history)
    put_into_history(history, contestants)
    assert contestants_of(history) == contestants


def test_a_champion_that_is_the_challenger_too_answers_once(project: Home, contestants: Contestants) -> None:
    history = History(project)
    put_into_history(history, contestants)
    only = history.versions[2]
    history.versions = {2: type(only)(only.name, 2, only.md5, only.run, only.created, ("challenger", "champion"), None,
                                      {})}
    assert [part.name for part in contestants_of(history).models] == ["champion, version 2", "SFT"]


def test_pairs_are_made_of_what_the_champion_learned_from_with_rewards_and_a_reason(
        project: Home, contestants: Contestants) -> None:
    assert make_pairs(project, contestants) > 0
    store = FeedbackStore.open(project)
    pair = next_pair(store, "ada")
    assert pair
    assert pair.prompt[0].content in ASKED
    assert pair.reason
    assert all(answer.reward is not None and answer.text for answer in pair.answers)
    assert {answer.model for answer in pair.answers} <= {part.name for part in contestants.models}
    assert stock(store, ranking=True) > 0
    store.close()


@pytest.fixture
def live_answers(project: Home) -> Iterator[LiveAnswers]:
    one = LiveAnswers(project)
    yield one
    one.close()


@pytest.mark.slow
def test_a_prompt_is_answered_by_every_contestant_piece_by_piece_one_prompt_at_a_time(
        live_answers: LiveAnswers, contestants: Contestants) -> None:
    events = live_answers.answers(contestants, prompt("colors"))
    first = next(events)
    with pytest.raises(UserError, match="One at a time"):
        next(live_answers.answers(contestants, prompt("colors")))
    rest = [first, *events]
    said = [event for event in rest if isinstance(event, FinishedAnswer)]
    assert [one.model for one in said] == [0, 1, 2]
    for one in said:
        assert one.text == "".join(event.text for event in rest if event.model == one.model and event is not one)
        assert (one.reward is None) == (not one.text)
    assert [event.model for event in rest] == sorted(event.model for event in rest)
    started = time.monotonic()
    again = live_answers.answers(contestants, prompt("say it"))
    assert len([event for event in again if isinstance(event, FinishedAnswer)]) == 3
    assert time.monotonic() - started < 5, "the models stay loaded"


@pytest.mark.slow
def test_whoever_leaves_or_asks_too_much_does_not_keep_the_next_one_waiting(
        live_answers: LiveAnswers, contestants: Contestants) -> None:
    events = live_answers.answers(contestants, prompt("colors"))
    next(events)
    events.close()
    with pytest.raises(UserError, match="too long"):
        list(live_answers.answers(contestants, prompt("red " * 200)))
    assert list(live_answers.answers(contestants, prompt("colors")))


@pytest.mark.slow
def test_the_process_ends_when_nobody_asks_and_when_the_server_is_gone(cache: Path) -> None:
    code = ("import sys; from pathlib import Path; from plumbline.feedback.live_answers import serve; "
            "serve(Path('.'), {})")
    waiting = [subprocess.Popen([sys.executable, "-c", code.format(seconds)], stdin=subprocess.PIPE, cwd=cache,
                                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
               for seconds in (1.0, 600.0)]
    try:
        assert waiting[0].wait(180) == 0
        assert waiting[1].poll() is None
        assert waiting[1].stdin
        waiting[1].stdin.close()
        assert waiting[1].wait(180) == 0
    finally:
        for one in waiting:
            one.kill()
            one.wait()
