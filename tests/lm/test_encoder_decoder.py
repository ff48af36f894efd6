"""A T5 as a model that reads from left to right: what transformers computes and samples, in rows like all others."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel, load_base
from plumbline.lm.chat import decode_response, encode_prompt, encode_response, stop_tokens
from plumbline.lm.encoder_decoder import as_causal
from plumbline.lm.examination import examine
from plumbline.lm.likelihood import response_log_likelihoods
from plumbline.lm.sampling import left_pad, right_pad, sample
from plumbline.lm.source import context_of
from plumbline.preferences.types import Message
from testing.tiny_models import PROMPTS, prompt, save_t5, small_tokenizer

ASKED, ANSWER = [5, 6, 7, 1], [0, 9, 10, 11]
RAGGED = [[5, 6, 7, 1, 0, 9, 10], [8, 1, 0, 3], [6, 6, 6, 6, 6, 1, 0]]



@pytest.fixture(params=[(T5ForConditionalGeneration, False), (T5ForConditionalGeneration, True),
                        (MT5ForConditionalGeneration, False), (MT5ForConditionalGeneration, True)],
                ids=["v1.1", "v1.0", "mT5", "mT5 of shared embeddings"])
def original(request, tmp_path):
    kind, tied = request.param
    return save_t5(tmp_path / "base", kind=kind, tied=tied)


@pytest.fixture
def lm(original, tmp_path):
    return load_base("base", tmp_path)


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ASKED]), decoder_input_ids=torch.tensor([ANSWER])).logits


def test_an_answer_has_the_logits_that_transformers_gives_it(original, lm):
    with torch.no_grad():
        found = lm.model(torch.tensor([ASKED + ANSWER])).logits[:, len(ASKED) :]
    torch.testing.assert_close(found, logits_of(original))


def test_what_is_saved_is_a_t5_for_transformers_and_the_same_model_here(original, lm, tmp_path):
    lm.save(tmp_path / "saved")
    torch.testing.assert_close(logits_of(T5ForConditionalGeneration.from_pretrained(tmp_path / "saved")),
                               logits_of(original))
    again = LanguageModel.load(tmp_path / "saved").model
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in lm.model.state_dict().items())


@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_padding_and_the_other_rows_change_nothing_and_leave_gradients_finite(lm, pad):
    ids_BT, mask_BT = pad(RAGGED, 0)
    logits_BTV = lm.model(ids_BT, attention_mask=mask_BT).logits
    for row, logits_TV, mask_T in zip(RAGGED, logits_BTV, mask_BT, strict=True):
        torch.testing.assert_close(logits_TV[mask_T.bool()], lm.model(torch.tensor([row])).logits[0])
    logits_BTV.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in lm.model.parameters())


def test_greedy_samples_are_those_of_generate_whatever_ends_in_the_batch(original, lm):
    rows = [[5, 6, 7, 1], [8, 1], [9, 10, 11, 4, 4, 1]]
    whole = [original.generate(torch.tensor([row]), do_sample=False, max_new_tokens=9, eos_token_id=None)[0, 1:]
             .tolist() for row in rows]
    stop = whole[0][4]
    found = sample(lm.model, [[*row, 0] for row in rows] * 2, max_response=9, stop=stop, temperature=0,
                   generator=torch.Generator())
    expected = [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in whole]
    assert [one.ids for one in found] == expected * 2


def test_log_probs_of_what_was_sampled_are_those_of_a_pass_over_the_whole(lm):
    prompts = [encode_prompt(lm.tokenizer, one) for one in PROMPTS]
    found = sample(lm.model, prompts, max_response=6, stop=1, temperature=0.7,
                   generator=torch.Generator().manual_seed(3))
    for asked, one in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits_RV = lm.model(torch.tensor([asked + one.ids])).logits[0, len(asked) - 1 : -1] / 0.7
        expected = logits_RV.log_softmax(-1).gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        assert one.log_probs == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_conversation_is_turns_with_their_ends_and_the_token_from_which_the_decoder_starts(lm):
    tokenizer = lm.tokenizer
    asked = (Message("user", "say red"), Message("assistant", "red"),
             Message("user", "<pad> again </s> \uff1cpad\uff1e"))
    ids = encode_prompt(tokenizer, asked)
    assert ids.count(tokenizer.pad_token_id) == 1 and ids[-1] == tokenizer.pad_token_id
    assert ids.count(tokenizer.eos_token_id) == len(asked)  # what a user writes ends no turn
    assert encode_response(tokenizer, "red")[-1] == tokenizer.eos_token_id == stop_tokens(tokenizer, lm.model)[0]
    assert decode_response(tokenizer, encode_response(tokenizer, "red green")) == "red green"


def test_an_answers_text_is_what_its_tokens_say_whatever_the_tokenizer_would_clean_up(lm):
    lm.tokenizer.clean_up_tokenization_spaces = True
    ids = lm.tokenizer.convert_tokens_to_ids(["▁red", "▁", ".", "▁blue"])
    assert decode_response(lm.tokenizer, ids) == "red . blue"


def test_it_reads_any_length_because_it_knows_distances_alone():
    assert context_of(as_causal(T5Config(n_positions=512))) is None


def test_the_likelihood_of_an_answer_is_minus_the_loss_that_transformers_gives_it(original, lm):
    asked, answer = encode_prompt(lm.tokenizer, prompt("colors")), encode_response(lm.tokenizer, "red blue")
    with torch.no_grad():
        loss = original(input_ids=torch.tensor([asked[:-1]]), labels=torch.tensor([answer])).loss
    assert response_log_likelihoods(lm, [(prompt("colors"), "red blue")]) == pytest.approx([-float(loss)], abs=1e-5)


def test_the_examination_lets_it_pass_and_says_what_is_different(original, tmp_path):
    found = examine("base", tmp_path)
    assert not found.packs
    assert any("The encoder reads a prompt" in note for note in found.notes)


def test_a_reward_model_is_the_body_with_a_layer_on_it(lm, tmp_path):
    lm.save(tmp_path / "saved")
    model, found = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "saved", num_labels=1, output_loading_info=True)
    assert found["missing_keys"] == {"score.weight"}
    ids = torch.tensor([ASKED + ANSWER])
    with torch.no_grad():
        torch.testing.assert_close(model.base_model(ids).last_hidden_state, lm.model.base_model(ids).last_hidden_state)


def test_a_template_that_does_not_start_the_decoder_is_refused(original, tmp_path):
    (tmp_path / "base/chat_template.jinja").write_text(small_tokenizer().chat_template)
    with pytest.raises(UserError, match=r"does not end a prompt with <pad>.*add_generation_prompt"):
        load_base("base", tmp_path)
