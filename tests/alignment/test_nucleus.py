"""NLPO's mask: which tokens are kept, and that what is sampled, and how likely it is, follow it."""

from copy import deepcopy

import pytest
import torch

from plumbline.alignment.online import nucleus as online_nucleus
from plumbline.alignment.online.nucleus import NucleusMask, nucleus
from plumbline.alignment.sequences import join, log_probs_by
from plumbline.lm.chat import encode_prompt
from plumbline.lm.sampling import sample
from testing.online import online_params, policy_of
from testing.tiny_models import PROMPTS, copy_of


@pytest.mark.parametrize(("top_p", "kept"), [
    (0.4, [1]), (0.49, [1]), (0.51, [0, 1]), (0.79, [0, 1]), (0.95, [0, 1, 3]), (1.0, [0, 1, 2, 3])])
def test_the_fewest_tokens_that_reach_the_probability(top_p, kept):
    logits = torch.tensor([0.3, 0.5, 0.05, 0.15], dtype=torch.float64).log()[None]
    assert nucleus(logits, top_p)[0].nonzero().flatten().tolist() == kept


def test_what_is_sampled_is_allowed_and_as_likely_as_it_was_drawn(taught_lm, random_lm):
    """Prompts of several lengths and rows that end early: both caches follow."""
    mask = NucleusMask(taught_lm.model, 0.7, 1.0, "fp32", 3)
    asked = [encode_prompt(taught_lm.tokenizer, prompt) for prompt in PROMPTS] * 8
    answers = sample(mask.over(random_lm.model), asked, max_response=8, stop=7, temperature=1.0,
                     generator=torch.Generator().manual_seed(0))
    sequences = mask.marked(join(asked, [answer.ids for answer in answers], torch.device("cpu")))
    with torch.no_grad():
        body, head = random_lm.model.base_model, random_lm.model.get_output_embeddings()
        found = log_probs_by(body, head, sequences, 1.0, "fp32")
        for row, answer in enumerate(answers):
            whole = torch.tensor([asked[row] + answer.ids])
            older = taught_lm.model(whole).logits[0, len(asked[row]) - 1:-1]
            assert nucleus(older, 0.7 + 1e-4)[range(len(answer.ids)), answer.ids].all()
            assert found[row, :len(answer.ids)].tolist() == pytest.approx(list(answer.log_probs), abs=1e-3)


def test_the_mask_of_each_answer_is_what_it_is_alone_and_is_made_a_micro_batch_at_a_time(taught_lm, monkeypatch):
    """Against float64, a row at a time; no more than 3 answers' logits are held at once."""
    rows = [encode_prompt(taught_lm.tokenizer, prompt) for prompt in PROMPTS]
    answers = [[5, 6, 7, 8], [9], [10, 11], [12, 13, 14], [15, 16]]
    sizes = []
    monkeypatch.setattr(online_nucleus, "nucleus", lambda logits, top_p: sizes.append(len(logits)) or nucleus(
        logits, top_p))
    mask = NucleusMask(taught_lm.model, 0.7, 2.0, "fp32", 3)
    found = mask.marked(join(rows, answers, torch.device("cpu"))).allowed_BRV
    assert sizes == [3, 2]
    older = deepcopy(taught_lm.model).double()
    for n, (prompt, answer) in enumerate(zip(rows, answers, strict=True)):
        with torch.no_grad():
            logits = older(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1:-1] / 2.0
        expected = nucleus(logits, 0.7)
        expected[range(len(answer)), answer] = True
        assert torch.equal(found[n, :len(answer)], expected)
    assert found.any(-1).all(), "at padding, too, something is allowed"


def test_policy_and_reference_are_masked_alike_and_validation_is_not(taught_lm):
    params = online_params("nlpo", mask_top_p=0.5)
    policy = policy_of(copy_of(taught_lm).model, taught_lm.model, params)
    sequences = join([[5, 6, 7]], [[3, 4]], torch.device("cpu"))
    masked = policy.masked(policy.prepared(sequences))
    with torch.no_grad():
        assert torch.equal(policy.log_probs(masked), policy.reference_log_probs(masked))
        plain = policy.log_probs(policy.prepared(sequences))
        assert (policy.log_probs(masked) >= plain).all() and not torch.equal(policy.log_probs(masked), plain)
