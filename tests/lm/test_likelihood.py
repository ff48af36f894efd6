"""Likelihoods of given text against float64 passes over one conversation at a time, and the page of samples."""

import pytest
import torch

from plumbline.alignment.sample_page import respond, samples_page
from plumbline.errors import UserError
from plumbline.lm import likelihood
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.likelihood import next_token_log_probs, response_log_likelihoods, sampled_log_likelihoods
from plumbline.preferences.types import Message
from testing.tiny_models import PROMPTS, WORDS, copy_of, small_gpt2, small_model


def log_probs(lm, ids):
    with torch.no_grad():
        return copy_of(lm).model.double()(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("tokens_a_batch", [1, 12, 2048])
def test_the_likelihood_of_a_response_is_the_mean_over_its_tokens_and_its_stop(random_lm, monkeypatch, tokens_a_batch):
    monkeypatch.setattr(likelihood, "TOKENS_A_BATCH", tokens_a_batch)
    asked = [(PROMPTS[0], "red"), (PROMPTS[2], "green blue black"), (PROMPTS[1], "")]
    expected = []
    for prompt, text in asked:
        start, response = encode_prompt(random_lm.tokenizer, prompt), encode_response(random_lm.tokenizer, text)
        table = log_probs(random_lm, start + response)
        each = [float(table[len(start) + t - 1, token]) for t, token in enumerate(response)]
        expected.append(sum(each) / len(each))
    seen = []
    found = response_log_likelihoods(random_lm, asked, lambda done, total: seen.append((done, total)))
    assert found == pytest.approx(expected, abs=1e-4)
    assert seen[-1] == (3, 3)
    assert (len(seen) == 1) == (tokens_a_batch == 2048)


def test_sampled_tokens_are_weighed_as_they_were_sampled_at_their_temperature(random_lm):
    """Cut ones too, and by their ids: their text would be tokenised otherwise."""
    prompts = [encode_prompt(random_lm.tokenizer, prompt) for prompt in (PROMPTS[0], PROMPTS[1])]
    responses = [[40, 41, 42, 43], [50]]
    expected = []
    for start, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logits = copy_of(random_lm).model.double()(torch.tensor([start + response])).logits[0] / 0.7
        table = logits.log_softmax(-1)
        expected.append(sum(float(table[len(start) + t - 1, token]) for t, token in enumerate(response)))
    assert sampled_log_likelihoods(random_lm, prompts, responses, 0.7) == pytest.approx(expected, abs=1e-4)


def test_options_are_weighed_as_the_first_token_of_the_answer(random_lm):
    found, = next_token_log_probs(random_lm, ["colors"], ["A", " B"])
    last = log_probs(random_lm, encode_prompt(random_lm.tokenizer, PROMPTS[1]))[-1]
    ids = [random_lm.tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in "AB"]
    assert found == pytest.approx(last[ids].tolist(), abs=1e-4)


@pytest.mark.parametrize("make", [small_model, small_gpt2])
def test_a_question_beyond_the_context_is_refused_before_any_is_read(tokenizer, make, monkeypatch):
    """With absolute positions it was an IndexError, with rotary ones a verdict of a model out of its depth."""
    lm = LanguageModel(make(tokenizer), tokenizer)
    fits = "red " * 100
    while len(encode_prompt(tokenizer, ((Message("user", fits)),))) < 128:
        fits += "red "
    assert len(next_token_log_probs(lm, [fits], ["A", "B"])) == 1
    monkeypatch.setattr(type(lm.model), "forward", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match=r"reads at most 128 tokens, but a question .* has 129. .*ppo.max_prompt"):
        next_token_log_probs(lm, ["colors", fits + "red "], ["A", "B"])


def test_responses_are_text_without_special_tokens_in_the_order_of_the_prompts(taught_lm):
    said = respond(taught_lm, PROMPTS, max_response=16, temperature=0.0, seed=0, batch_size=2)
    assert said == [respond(taught_lm, [p], max_response=16, temperature=0.0, seed=0)[0] for p in PROMPTS]
    assert all("<|" not in text and set(text.split()) <= set(WORDS) for text in said)


def test_a_sample_cannot_close_its_quotation():
    page = samples_page(PROMPTS[:1], {"sft": ["~~~\n# I am a heading\n~~~~"]})
    assert "~~~~~text\n~~~\n# I am a heading\n~~~~\n~~~~~" in page
    assert page.startswith("# Samples") and ASKED in page


ASKED = PROMPTS[0][0].content


def test_a_likelihood_that_is_no_number_is_no_verdict(random_lm):
    """Compared with anything it would count as the less likely of the two."""
    lm = copy_of(random_lm)
    with torch.no_grad():
        lm.model.lm_head.weight[7] = float("nan")
    with pytest.raises(UserError, match="2 of 2 log-probabilities are not a number"):
        response_log_likelihoods(lm, [(PROMPTS[0], "red"), (PROMPTS[1], "blue")])
    with pytest.raises(UserError, match="not a number"):
        next_token_log_probs(lm, ["colors"], ["A", "B"])
