"""The vLLM engine against a server of the same routes: what it draws, what it catches, and a server that goes away."""

import socket
import threading
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from plumbline.errors import UserError
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.engines import http
from plumbline.lm.engines.http import ServerAway, VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine, log_probs, seed_of
from plumbline.lm.engines.weights import write_untied
from plumbline.lm.ranks.world import WAIT, World
from plumbline.lm.sampling import uniforms
from testing.tiny_models import PROMPTS, copy_of, silent, small_model
from testing.vllm_server import DrawsAsOurs, FakeVllm

R, TEMPERATURE = 3, 0.7


@pytest.fixture
def base(tokenizer, tmp_path):
    """The folder that the server was started with: another model than the one that learns."""
    write_untied(small_model(tokenizer, seed=5), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def fake(base):
    with FakeVllm(base) as fake:
        yield fake


@pytest.fixture
def told():
    return []


@pytest.fixture
def engine(fake, taught_lm, tmp_path, told):
    server = VllmServer(fake.url, lambda step, total, metrics=None, what="": told.append((step, total, what)), 20.0)
    return VllmEngine(server, tmp_path / "weights", stop_tokens(taught_lm.tokenizer, taught_lm.model), "fp32",
                      encode_prompt(taught_lm.tokenizer, PROMPTS[0]))


@pytest.fixture
def asked(taught_lm):
    prompts = [encode_prompt(taught_lm.tokenizer, PROMPTS[i % len(PROMPTS)]) for i in range(10)]
    return prompts, uniforms(10, R, torch.Generator().manual_seed(3)), TEMPERATURE


def moved(model, size):
    """A copy with other weights."""
    other = deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return other


def test_a_server_that_draws_as_we_do_gives_our_own_responses(engine, fake, taught_lm, asked):
    own = OwnEngine(engine.stop).sample(taught_lm.model, *asked)
    found = DrawsAsOurs(engine, fake).sample(taught_lm.model, *asked)
    assert found == own, "with the learnt weights, not those that the server was started with"
    assert len({one.stopped for one in found}) == 2, "some end and some are cut"
    for one, other in zip(found, own, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_each_row_has_a_seed_of_its_own(engine, taught_lm, asked):
    prompts, uniform_BR, _ = asked
    found = engine.sample(taught_lm.model, *asked)
    assert engine.sample(taught_lm.model, prompts[::-1], uniform_BR.flip(0), TEMPERATURE) == found[::-1]
    assert engine.sample(taught_lm.model, prompts[3:5], uniform_BR[3:5], TEMPERATURE) == found[3:5]
    assert len({seed_of(row) for row in uniform_BR}) == 10


def test_greedy_responses_are_ours_too(engine, taught_lm, asked):
    prompts, uniform_BR, _ = asked
    own, found = (one.sample(taught_lm.model, prompts, uniform_BR, 0.0) for one in (OwnEngine(engine.stop), engine))
    assert found == own
    assert all(one.log_probs == [0.0] * len(one.ids) for one in found)


def test_the_weights_of_now_are_sampled_from(engine, taught_lm, asked):
    later = moved(taught_lm.model, 0.1)
    for model in (taught_lm.model, later):
        same_log_probs(model, asked[0], engine.sample(model, *asked))


def same_log_probs(model, prompts, responses):
    """What was drawn has the log-probabilities that the model gives it in float64."""
    for prompt, response in zip(prompts, responses, strict=True):
        ours = log_probs(deepcopy(model).double(), prompt, [response], TEMPERATURE)
        assert response.log_probs == pytest.approx(ours.tolist(), abs=1e-4)


def test_of_tied_embeddings_both_ends_arrive(engine, tokenizer, asked):
    """A server that reloads a tied model keeps its old output layer, as vLLM does."""
    tied = small_model(tokenizer, tie_word_embeddings=True)
    for model in (tied, moved(tied, 0.1)):
        same_log_probs(model, asked[0], engine.sample(model, *asked))


@pytest.mark.parametrize("size", [0.1, 1e-4])
def test_weights_that_do_not_arrive_are_caught_however_small_the_step(engine, fake, taught_lm, asked, size):
    """In bf16 the limit on the difference would let the small one pass."""
    engine.precision = "bf16"
    engine.sample(taught_lm.model, *asked)
    fake.ignores_reload = True
    with pytest.raises(UserError, match="still samples with those before"):
        engine.sample(moved(taught_lm.model, size), *asked)


def test_unchanged_weights_are_no_fault(engine, taught_lm, asked):
    assert engine.sample(taught_lm.model, *asked) == engine.sample(copy_of(taught_lm).model, *asked)


@pytest.mark.parametrize("fault", [{"raw": True}, {"off": 0.01}, {"ignores_reload": True}, {"dtype": torch.bfloat16}])
def test_log_probabilities_of_something_else_are_caught(engine, fake, taught_lm, asked, fault):
    for name, value in fault.items():
        setattr(fake, name, value)
    with pytest.raises(UserError, match=r"differ by a factor of .*--logprobs-mode processed_logprobs"):
        engine.sample(taught_lm.model, *asked)


def test_a_server_killed_in_the_middle_gives_the_same_responses_with_the_same_weights(
        engine, fake, taught_lm, asked, told):
    found = engine.sample(taught_lm.model, *asked)
    loads = len(fake.loads)
    fake.kill_at = fake.asked + 8  # four are for the probe
    assert engine.sample(taught_lm.model, *asked) == found
    assert fake.killed == 1 and len(fake.loads) == loads + 2, "handed over again: it came back with others"
    assert told and all(what == "waiting for the vLLM server" and total == 20 for _, total, what in told)


def test_a_server_that_stays_away_is_told_in_words(engine, fake, taught_lm, asked):
    fake.kill_at, fake.comes_back_after = 3, None
    engine.server = replace(engine.server, patience=0.6)
    with pytest.raises(UserError, match=r"has not answered for 1 seconds \(.*refused.*PLUMBLINE_VLLM_URL"):
        engine.sample(taught_lm.model, *asked)


@pytest.mark.parametrize(("rank", "said"), [
    (0, ""), (1, "Waiting for the vLLM server at http://127.0.0.1:9 (refused).\n")])
def test_a_rank_whose_reports_nobody_sees_says_that_it_waits(rank, said, monkeypatch, capsys):
    monkeypatch.setattr(http, "world", lambda: World(rank, 2))
    with pytest.raises(UserError, match="has not answered"):
        VllmServer("http://127.0.0.1:9", silent, 0.05)._wait("refused")
    assert capsys.readouterr().err == said


def test_the_other_ranks_have_the_patience_for_a_batch_that_begins_anew():
    # A request that gets no answer, the restart, the weights, the batch.
    assert WAIT.total_seconds() > http.ANSWER_SECONDS + http.PATIENCE + 2 * http.ANSWER_SECONDS


def test_an_error_of_the_servers_own_is_tried_again_and_not_for_ever(engine, fake, taught_lm, asked):
    fake.fails = 1
    engine.sample(taught_lm.model, *asked)
    fake.fails = 10**6
    with pytest.raises(UserError, match=r"failed 3 times and went away 0 times, last with HTTP 500 .*EngineDeadError"):
        engine.sample(taught_lm.model, *asked)


def test_a_server_that_goes_away_at_the_same_work_each_time_is_not_waited_for_for_ever(
        engine, fake, taught_lm, asked, monkeypatch):
    """As one does that lacks memory for it."""
    monkeypatch.setattr(http, "DEPARTURES", 3)
    fake.dies_at_tokens = True
    with pytest.raises(UserError, match=r"failed 0 times and went away 3 times"):
        engine.sample(taught_lm.model, *asked)
    assert fake.killed >= 3


@pytest.mark.parametrize(("answer", "error", "words"), [
    (b"HTTP/1.1 500 No\r\nContent-Length: 400\r\n\r\nhalf", ServerAway, "IncompleteRead"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nhalf", ServerAway, "IncompleteRead"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>Log in</h", UserError, "so it is no vLLM server"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", UserError, "so it is no vLLM server")])
def test_what_is_no_answer_of_a_vllm_server_is_told_in_words(answer, error, words):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def answering():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=answering)
        thread.start()
        with pytest.raises(error, match=words):
            VllmServer(f"http://127.0.0.1:{listening.getsockname()[1]}", silent).version()
        thread.join()


def test_a_server_that_cannot_load_weights_is_told_how_to_start(engine, fake, taught_lm, asked):
    fake.dev_mode = False
    with pytest.raises(UserError, match=r"has no /pause.*VLLM_SERVER_DEV_MODE=1"):
        engine.sample(taught_lm.model, *asked)
