"""SFT: packed rows compute what separate ones do, the loss is on responses alone, and a taught model stops."""

import itertools
from copy import deepcopy

import pytest
import torch

from plumbline.alignment import packing, sft
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, encode_response, stop_token
from plumbline.lm.sampling import sample
from plumbline.preferences.types import Demonstration, Message, Origin
from testing.tiny_models import (
    NOWHERE,
    PROMPTS,
    WORDS,
    Steps,
    copy_of,
    demonstrations,
    prompt,
    sft_params,
    silent,
    small_causal,
)


def mean_loss_one_by_one(lm, shown):
    """Nats a response token, in float64, one demonstration at a time."""
    model, total, tokens = copy_of(lm).model.double(), 0.0, 0
    for row in shown:
        start = len(encode_prompt(lm.tokenizer, row.prompt))
        ids = encode_prompt(lm.tokenizer, row.prompt) + encode_response(lm.tokenizer, row.response)
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(float(log_probs[t - 1, ids[t]]) for t in range(start, len(ids)))
        tokens += len(ids) - start
    return total / tokens


def first_gradient(lm, shown, **params):
    with Steps() as steps:
        sft.train_sft(copy_of(lm), shown, [], sft_params(epochs=1, warmup=0.0, **params), 0, silent, NOWHERE)
    return steps.gradients[0]


def test_packed_rows_give_the_logits_of_separate_ones(random_lm):
    examples = sft.encode(random_lm, demonstrations(9), 64)
    rows = packing.pack(examples, 64)
    assert len(rows) < len(examples)
    ids, at = (torch.tensor([getattr(row, field) + [0] * (64 - len(row.ids)) for row in rows])
               for field in ("ids", "positions"))
    with torch.no_grad():
        packed = random_lm.model(input_ids=ids, position_ids=at, use_cache=False).logits
        flat = torch.cat([packed[i, :len(row.ids)] for i, row in enumerate(rows)])
        alone = torch.cat([random_lm.model(torch.tensor([example.ids])).logits[0] for example in examples])
    assert torch.allclose(flat, alone, atol=1e-4)


def test_the_validation_loss_is_that_of_each_response_alone(random_lm):
    shown = demonstrations(12)
    metrics = sft.train_sft(copy_of(random_lm), [], shown, sft_params(micro_batch_size=2), 0, silent, NOWHERE)
    expected = mean_loss_one_by_one(random_lm, shown)
    assert metrics["validation_loss_before"] == pytest.approx(expected, rel=1e-5)
    assert metrics["validation_loss"] == metrics["validation_loss_before"], "nothing to train on"


def test_no_demonstration_is_split_lost_or_too_long_for_its_row(random_lm):
    examples = sft.encode(random_lm, demonstrations(40), 64)
    rows = packing.pack(examples, 64)
    assert all(len(row.ids) == len(row.labels) == len(row.positions) <= 64 for row in rows)
    found = []
    for row in rows:
        starts = [i for i, position in enumerate(row.positions) if position == 0]
        for a, b in itertools.pairwise([*starts, len(row.ids)]):
            assert row.positions[a:b] == list(range(b - a))
            found.append(row.ids[a:b])
    assert found == [example.ids for example in examples]


def test_the_loss_is_on_the_response_and_its_stop_token_only(random_lm):
    shown = demonstrations(3)
    row, = packing.pack(sft.encode(random_lm, shown, 128), 128)
    labels = [label for label in row.labels if label != packing.IGNORED]
    assert labels == [i for row in shown for i in encode_response(random_lm.tokenizer, row.response)]
    assert labels.count(stop_token(random_lm.tokenizer)) == 3


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_split_into_micro_batches_does_not_change_the_gradient(random_lm, micro_batch_size):
    shown = demonstrations(30)
    whole = first_gradient(random_lm, shown, batch_size=8, micro_batch_size=8)
    split = first_gradient(random_lm, shown, batch_size=8, micro_batch_size=micro_batch_size)
    assert whole.norm() > 0.1 and torch.allclose(whole, split, atol=1e-5)


def test_the_gradient_is_that_of_the_mean_over_response_tokens(random_lm):
    shown, reports = demonstrations(6), []
    sft.train_sft(copy_of(random_lm), shown, [], sft_params(epochs=1, batch_size=8, micro_batch_size=2), 0,
                  lambda step, total, metrics, what="": reports.append(metrics), NOWHERE)
    model, losses = copy_of(random_lm).model.double(), []
    for row in shown:
        response = encode_response(random_lm.tokenizer, row.response)
        ids = torch.tensor([encode_prompt(random_lm.tokenizer, row.prompt) + response])
        log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        losses.append(-log_probs[-len(response):, 0])
    loss = torch.cat(losses).mean()
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).norm()
    assert reports[0] == pytest.approx({"loss": float(loss.detach()), "grad_norm": float(norm)}, rel=1e-4)


def test_demonstrations_without_room_for_a_response_are_dropped_and_counted(random_lm):
    long = Demonstration(prompt("colors " * 80), "red", Origin("test"))
    metrics = sft.train_sft(copy_of(random_lm), [*demonstrations(4), long], [], sft_params(epochs=0), 0, silent,
                            NOWHERE)
    assert (metrics["examples"], metrics["dropped_too_long"], metrics["steps"]) == (4, 1, 0)
    with pytest.raises(UserError, match=r"sft\.max_length = 64"):
        sft.train_sft(copy_of(random_lm), [long], [], sft_params(), 0, silent, NOWHERE)


def test_a_demonstration_that_is_cut_does_not_learn_to_stop_there(random_lm):
    long = Demonstration(PROMPTS[0], "red green " * 30, Origin("test"))
    cut, = sft.encode(random_lm, [long], 40)
    assert len(cut.ids) == 40 and stop_token(random_lm.tokenizer) not in cut.ids[cut.start:]
    metrics = sft.train_sft(copy_of(random_lm), [*demonstrations(4), long, long], [], sft_params(epochs=0), 0, silent,
                            NOWHERE)
    assert (metrics["examples"], metrics["cut"], metrics["dropped_too_long"]) == (6, 2, 0)


def test_a_demonstration_that_just_fits_is_whole(random_lm):
    shown, = demonstrations(1)
    whole, = sft.encode(random_lm, [shown], 1000)
    found = [sft.encode(random_lm, [shown], room)[0] for room in (len(whole.ids), len(whole.ids) - 1)]
    assert [one.cut for one in found] == [False, True]
    assert found[0].ids[-1] == stop_token(random_lm.tokenizer)


def test_less_than_a_step_is_refused_and_none_at_all_is_asked_for_with_zero(random_lm):
    with pytest.raises(UserError, match=r"sft\.epochs = 0\.1 of \d rows .* no step at all"):
        sft.train_sft(copy_of(random_lm), demonstrations(8), [], sft_params(epochs=0.1), 0, silent, NOWHERE)
    none = sft.train_sft(copy_of(random_lm), demonstrations(8), [], sft_params(epochs=0), 0, silent, NOWHERE)
    assert none["steps"] == 0


@pytest.mark.parametrize(("rows", "batch_size", "epochs", "steps"), [
    (9, 8, 10, 11),  # 90 rows in batches of 8, of which those over begin the next epoch
    (9, 8, 1, 1), (16, 8, 1.5, 3), (16, 8, 10, 20), (3, 8, 10, 10), (12, 5, 5, 12), (0, 8, 10, 0)])
def test_so_many_epochs_are_so_many_passes(random_lm, monkeypatch, rows, batch_size, epochs, steps):
    used, accumulate = [], sft._accumulate_gradient

    def note(model, batch, params):
        used.extend(tuple(row.ids) for row in batch)
        return accumulate(model, batch, params)

    monkeypatch.setattr(sft, "_accumulate_gradient", note)
    monkeypatch.setattr(sft, "packs", lambda config: False)
    shown = [Demonstration(PROMPTS[0], " ".join(words), Origin("test"))
             for words in itertools.islice(itertools.product(WORDS, repeat=2), rows)]
    metrics = sft.train_sft(copy_of(random_lm), shown, [], sft_params(epochs=epochs, batch_size=batch_size), 0, silent,
                            NOWHERE)
    assert metrics["steps"] == steps
    assert len(used) == steps * min(batch_size, rows) == pytest.approx(rows * epochs, abs=batch_size / 2)
    times = [used.count(tuple(example.ids)) for example in sft.encode(random_lm, shown, 64)]
    assert not rows or max(times) - min(times) <= 1, "none is used again before all others are"


def test_a_taught_model_answers_as_shown_and_stops(taught_lm):
    """A model whose stop token is masked from the loss never ends (huggingface/trl#1623)."""
    tokenizer = taught_lm.tokenizer
    responses = sample(taught_lm.model, [encode_prompt(tokenizer, p) for p in PROMPTS * 8], max_response=16,
                       stop=stop_token(tokenizer), temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert sum(response.stopped for response in responses) >= 0.9 * len(responses)
    said = [decode_response(tokenizer, response.ids).split() for response in responses]
    assert sum(set(words) <= set(WORDS) and 1 <= len(words) <= 3 for words in said) >= 0.8 * len(said)


def test_the_loss_falls_and_the_rate_ends_near_zero(random_lm):
    reported = []
    with Steps() as steps:
        metrics = sft.train_sft(copy_of(random_lm), demonstrations(40), demonstrations(10, seed=2), sft_params(), 0,
                                lambda step, total, metrics, what="": reported.append((step, metrics)), NOWHERE)
    losses = [measured["loss"] for _, measured in reported if "loss" in measured]
    held = {step: measured["validation_loss"] for step, measured in reported if "validation_loss" in measured}
    assert held[len(losses)] == metrics["validation_loss"] and len(held) == 5, "at each quarter of the steps"
    assert held[0] == metrics["validation_loss_before"]
    assert metrics["validation_loss"] < 0.6 * metrics["validation_loss_before"]
    assert losses[-1] < 0.6 * losses[0]
    assert len(steps.rates) == metrics["steps"] == len(losses)
    assert 0 < steps.rates[-1] < 0.2 * max(steps.rates) <= 0.2 * 1e-2


def test_the_same_seed_gives_the_same_weights(random_lm):
    one, two, other = (copy_of(random_lm) for _ in range(3))
    for lm, seed in ((one, 0), (two, 0), (other, 1)):
        sft.train_sft(lm, demonstrations(20), [], sft_params(epochs=1), seed, silent, NOWHERE)
    same = [torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


def test_bf16_arithmetic_keeps_fp32_weights_and_learns(random_lm):
    lm = copy_of(random_lm)
    metrics = sft.train_sft(lm, demonstrations(40), demonstrations(10, seed=2), sft_params(precision="bf16"), 0, silent,
                            NOWHERE)
    assert all(p.dtype == torch.float32 for p in lm.model.parameters())
    assert metrics["validation_loss"] < 0.6 * metrics["validation_loss_before"]


@pytest.mark.parametrize(("kind", "more"), [
    ("opt", {}), ("bloom", {}), ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]})])
def test_where_packed_demonstrations_would_see_each_other_each_has_its_own_row(tokenizer, kind, more):
    lm, shown = LanguageModel(small_causal(kind, tokenizer, **more), tokenizer), demonstrations(12)
    metrics = sft.train_sft(copy_of(lm), shown, shown, sft_params(epochs=1), 0, silent, NOWHERE)
    assert metrics["packed"] is False and metrics["steps"] == 3, "twelve rows in batches of four"
    assert metrics["validation_loss_before"] == pytest.approx(mean_loss_one_by_one(lm, shown), rel=1e-4)


def test_packing_is_said_and_so_is_a_system_message_that_moves(random_lm):
    told = (Message("system", "be brief"), *PROMPTS[0])
    shown = [*demonstrations(3), Demonstration(told, "red", Origin("test"))]
    metrics = sft.train_sft(copy_of(random_lm), shown, [], sft_params(epochs=0), 0, silent, NOWHERE)
    assert metrics["packed"] is True and "system_before_user" not in metrics
    own = copy_of(random_lm)
    own = LanguageModel(own.model, deepcopy(own.tokenizer))
    own.tokenizer.chat_template = own.tokenizer.chat_template.replace(
        "in messages", "in messages if message.role != 'system'")
    assert sft.train_sft(own, shown, [], sft_params(epochs=0), 0, silent, NOWHERE)["system_before_user"] == 1


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_anything_is_learnt(random_lm, damage):
    lm, reports = copy_of(random_lm), []
    with torch.no_grad():
        lm.model.model.layers[0].mlp.up_proj.weight[0, 0] = damage
    kept = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    with pytest.raises(UserError, match=r"At step 1 of \d+, the loss is .*sft\.learning_rate") as caught:
        sft.train_sft(lm, demonstrations(), [], sft_params(), 0, lambda *args, **kwargs: reports.append(args), NOWHERE)
    assert not reports and "\n" not in str(caught.value)
    assert all(torch.equal(weight, kept[name]) or not kept[name].isfinite().all()
               for name, weight in lm.model.state_dict().items())


def test_a_learning_rate_far_too_high_ends_in_a_sentence(random_lm):
    with pytest.raises(UserError, match=r"diverged.*sft\.learning_rate"):
        sft.train_sft(copy_of(random_lm), demonstrations(), [], sft_params(learning_rate=1e30, epochs=8), 0, silent,
                      NOWHERE)
