"""Pretraining the embedded default: a tokenizer that loses nothing, and a model that gets better at its texts."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.config import BaseParams
from plumbline.errors import UserError
from plumbline.lm.optim import linear_schedule
from plumbline.lm.pretrain import pretrain
from testing.depth import examples
from testing.tiny_models import NOWHERE, silent

BASE = BaseParams(version="1", source="pretrain", hidden_size=32, layers=2, heads=2, vocabulary=300, context=32,
                  tokens=6400, batch_size=4, learning_rate=1e-2, checkpoint_every=1000)


def texts(seed):
    rng = random.Random(seed)
    while True:
        yield f"the {rng.choice(['cat', 'dog', 'cow'])} sat on the {rng.choice(['mat', 'bed'])}."


@given(text=st.text())
@examples(50)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


def test_padding_start_and_end_have_tokens_of_their_own(tokenizer):
    special = tokenizer.convert_tokens_to_ids(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    assert len(set(special)) == 3 and all(tokenizer.decode([i], skip_special_tokens=True) == "" for i in special)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (special[0], special[2])


@pytest.fixture(scope="module")
def trained():
    losses = []
    found = pretrain(BASE, 0, texts(0), lambda step, total, metrics, what="": losses.append(metrics["loss"]), NOWHERE)
    return *found, losses


def test_the_loss_falls_from_that_of_a_guess(trained):
    lm, metrics, losses = trained
    assert losses[0] == pytest.approx(math.log(len(lm.tokenizer)), abs=0.3)
    assert losses[-1] < 1.5 and metrics["loss"] == losses[-1]
    assert metrics["tokens"] == 6400 and len(losses) == 50
    assert metrics["parameters"] == sum(p.numel() for p in lm.model.parameters())


def test_the_same_seed_gives_the_same_model(trained):
    again, _ = pretrain(BASE, 0, texts(0), silent, NOWHERE)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), trained[0].model.parameters(), strict=True))


def test_every_document_ends_with_the_end_token(trained):
    """Only a model that has seen the end after the full stop, and nowhere else, can predict it so."""
    lm = trained[0]
    ids = lm.tokenizer("the cat sat on the mat.")["input_ids"]
    with torch.no_grad():
        ends = lm.model(torch.tensor([ids])).logits[0].softmax(-1)[:, lm.tokenizer.eos_token_id]
    assert ends[-1] > 0.8 and ends[:-1].max() < 0.2


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("total", [1, 7, 100])
def test_the_learning_rate_rises_then_falls_and_never_reaches_zero_or_passes_one(total, warmup):
    factors = [linear_schedule(step, total, warmup) for step in range(total)]
    peak = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors == sorted(factors[:peak]) + sorted(factors[peak:], reverse=True)
    assert peak <= math.ceil(warmup * total)
    assert total < 10 or warmup == 1 or factors[-1] <= 2 / (total * (1 - warmup))


def test_pretraining_that_diverges_ends_in_a_sentence():
    with pytest.raises(UserError, match=r"At step \d+ of 50, the \w+ is nan .*base\.learning_rate"):
        pretrain(BASE.model_copy(update={"learning_rate": 1e30}), 0, texts(0), silent, NOWHERE)
