"""Sampling against transformers' own `generate`, exact probabilities, and one prompt at a time."""

from copy import deepcopy

import pytest
import torch

from plumbline.errors import UserError
from plumbline.lm.sampling import Response, left_pad, positions, right_pad, sample, sample_all
from plumbline.lm.sampling import draw as draw_one
from testing.tiny_models import small_causal, small_gpt2

ROWS = [[5, 6, 7, 8, 9, 10, 11], [40, 41], [100], [200, 30, 60, 61], [7, 7, 7]]


def draw(model, prompts, stop=-1, temperature=0.0, max_response=12, seed=0):
    return sample(model, prompts, max_response=max_response, stop=stop, temperature=temperature,
                  generator=torch.Generator().manual_seed(seed))


def generated(model, ids, stop, max_response=12):
    """What transformers generates greedily for one prompt without padding."""
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False,
                         max_new_tokens=max_response, eos_token_id=stop, pad_token_id=0)
    return out[0, len(ids):].tolist()


@pytest.fixture(scope="module")
def stop(random_lm):
    """A token that ends the first prompt's greedy response after three tokens, and not every other one's."""
    return generated(random_lm.model, ROWS[0], stop=-1)[2]


def test_greedy_responses_are_those_of_generate(random_lm, stop):
    expected = [generated(random_lm.model, ids, stop) for ids in ROWS]
    assert len({len(ids) for ids in expected}) > 1, "some must stop and some must not"
    assert draw(random_lm.model, ROWS, stop) == [Response(ids, ids[-1] == stop) for ids in expected]


def test_a_response_ends_at_whichever_of_several_tokens_comes_first(random_lm, stop):
    whole = [generated(random_lm.model, ids, stop=-1) for ids in ROWS]
    other = next(token for token in whole[1] if token not in (stop, whole[1][0]))
    expected = [ids[:next((i + 1 for i, token in enumerate(ids) if token in (stop, other)), len(ids))] for ids in whole]
    ends = {ids[-1] for ids in expected}
    assert {stop, other} <= ends, "one row ends with each"
    found = draw(random_lm.model, ROWS, (stop, other))
    assert found == [Response(ids, ids[-1] in (stop, other)) for ids in expected]


def test_the_log_probability_of_each_drawn_token_is_kept(random_lm, stop):
    found = draw(random_lm.model, ROWS, stop, temperature=0.7)
    model = deepcopy(random_lm.model).double()
    for ids, response in zip(ROWS, found, strict=True):
        with torch.no_grad():
            log_probs = (model(torch.tensor([ids + response.ids])).logits[0] / 0.7).log_softmax(-1)
        expected = [float(log_probs[len(ids) + t - 1, token]) for t, token in enumerate(response.ids)]
        assert list(response.log_probs) == pytest.approx(expected, abs=1e-3)
    greedy = draw(random_lm.model, ROWS, stop)
    assert all(set(response.log_probs) == {0.0} and len(response.log_probs) == len(response.ids) for response in greedy)


def test_left_pads_do_not_move_the_positions(tokenizer):
    """Rotary positions are relative and would hide it: GPT-2's are absolute."""
    model = small_gpt2(tokenizer)
    assert [response.ids for response in draw(model, ROWS)] == [generated(model, ids, stop=-1) for ids in ROWS]


def test_rows_that_finished_leave_the_batch(random_lm, stop):
    sizes = []
    hook = random_lm.model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])),
                                                     with_kwargs=True)
    found = draw(random_lm.model, ROWS, stop)
    hook.remove()
    assert sizes == [sum(len(response.ids) > step for response in found) for step in range(len(sizes))]
    assert sizes[0] == len(ROWS) > sizes[-1]


def test_nothing_runs_once_every_row_has_finished(random_lm):
    calls = []
    first = generated(random_lm.model, ROWS[0], stop=-1)[0]
    hook = random_lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert draw(random_lm.model, [ROWS[0]] * 2, stop=first) == [Response([first], True)] * 2
    hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_tokens_come_as_often_as_their_probability_at_the_temperature(random_lm, temperature):
    n = 3000
    with torch.no_grad():
        logits = random_lm.model(torch.tensor([ROWS[3]])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1)
    drawn = draw(random_lm.model, [ROWS[3]] * n, temperature=temperature, max_response=1)
    counts = torch.bincount(torch.tensor([response.ids[0] for response in drawn]), minlength=len(expected))
    error = (counts / n - expected).abs()
    assert (error <= 5 * (expected * (1 - expected) / n).sqrt() + 2 / n).all()


def test_the_seed_decides_the_samples(random_lm):
    once, again, other = (draw(random_lm.model, ROWS, temperature=1.0, seed=seed) for seed in (3, 3, 4))
    assert once == again != other


def test_greedy_needs_no_randomness(random_lm):
    assert draw(random_lm.model, ROWS, seed=1) == draw(random_lm.model, ROWS, seed=2)


def test_batches_by_length_come_back_in_the_order_of_the_prompts(random_lm, stop):
    found = sample_all(random_lm.model, ROWS, max_response=12, stop=stop, temperature=0.0,
                       generator=torch.Generator(), batch_size=2)
    assert found == [draw(random_lm.model, [ids], stop)[0] for ids in ROWS]


def test_the_mask_is_of_lengths_not_of_pad_values():
    """A row that contains the pad's id keeps it: with pad == eos, `ids != pad` would drop the end."""
    ids, mask = right_pad([[3, 0, 0], [0]], pad=0)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]] and ids.tolist() == [[3, 0, 0], [0, 0, 0]]
    ids, mask = left_pad([[3, 0, 0], [0], []], pad=9)
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]] and ids.tolist() == [[3, 0, 0], [9, 9, 0], [9, 9, 9]]


def test_positions_count_real_tokens():
    assert positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


@pytest.mark.parametrize(("kind", "more"), [
    ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}),
    ("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}),
])
def test_finished_rows_leave_hybrid_and_sliding_caches_too(tokenizer, kind, more):
    model = small_causal(kind, tokenizer, **more)
    end = generated(model, ROWS[0], stop=-1)[2]
    expected = [generated(model, ids, end) for ids in ROWS]
    assert len({len(ids) for ids in expected}) > 1, "some must stop and some must not"
    assert [response.ids for response in draw(model, ROWS, end)] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_not_sampled_from(random_lm, temperature, damage):
    model = deepcopy(random_lm.model)
    with torch.no_grad():
        model.lm_head.weight[7] = damage
    with pytest.raises(UserError, match="not a number"):
        draw(model, ROWS, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_may_be_ruled_out(temperature):
    assert draw_one(torch.tensor([[float("-inf"), 1.0]]), temperature, torch.zeros(1))[0].tolist() == [1]


def test_the_first_token_beyond_the_uniform_number_is_drawn():
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]).log().expand(5, -1)
    tokens, log_probs = draw_one(logits, 1.0, torch.tensor([0.0, 0.19, 0.21, 0.71, 0.9999999]))
    assert tokens.tolist() == [0, 0, 2, 3, 3]
    assert log_probs.exp().tolist() == pytest.approx([0.2, 0.2, 0.5, 0.3, 0.3])


def test_a_row_is_what_it_is_alone_whatever_its_batch(random_lm, stop):
    """Sorted by length, in batches of two or all at once, with equal prompts read once."""
    rows = [*ROWS, ROWS[1], ROWS[1], ROWS[0]]
    found = [sample_all(random_lm.model, rows, max_response=12, stop=stop, temperature=1.0,
                        generator=torch.Generator().manual_seed(5), batch_size=size) for size in (1, 3, 8)]
    assert found[0] == found[1] == found[2]
    assert len({tuple(response.ids) for response in found[0][-3:-1] + found[0][1:2]}) > 1, "each its own"


def test_equal_prompts_are_read_once(random_lm):
    sizes = []
    hook = random_lm.model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])),
                                                     with_kwargs=True)
    draw(random_lm.model, [ROWS[0]] * 4 + [ROWS[1]] * 4, temperature=1.0, max_response=3)
    hook.remove()
    assert sizes == [2, 8, 8]
