"""Learning from pairs: each method's loss and gradient by hand, what is left out, resuming, and that it learns."""

import itertools
import math
from copy import deepcopy

import pytest
import torch

from plumbline.alignment.direct.decided import decided
from plumbline.alignment.direct.pairwise import Pairwise
from plumbline.alignment.direct.training import train_direct
from plumbline.alignment.tokenized import encode
from plumbline.errors import UserError
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.preferences.types import Comparison, Origin, Ranking
from testing.tiny_models import (
    DIRECT,
    NOWHERE,
    PROMPTS,
    Steps,
    copy_of,
    direct_params,
    prefers_red,
    share_saying,
    silent,
)

RANKING = Ranking(PROMPTS[1], ("red", "blue", "green red", "black"), (3, 1, 2, 3), Origin("test"))
"""Five decided pairs and a tie."""


@pytest.fixture
def train(taught_lm, tmp_path):
    """Train a copy of the taught model; the copy itself is the reference."""
    numbers = itertools.count()

    def run(method, rows, held=(), report=silent, lm=None, folder=None, seed=0, reference=None, **changed):
        lm = lm or copy_of(taught_lm)
        return train_direct(lm, reference or lm.model, rows, held, method, direct_params(method, **changed), seed,
                            report, tmp_path / (folder or str(next(numbers))))

    return run


def log_prob(model, tokenizer, prompt, response):
    """Of a response, in nats, unpadded and in the model's own precision, and its tokens."""
    start, answer = encode_prompt(tokenizer, prompt), encode_response(tokenizer, response)
    log_probs = model(torch.tensor([start + answer])).logits[0].log_softmax(-1)
    return sum(log_probs[len(start) + t - 1, token] for t, token in enumerate(answer)), len(answer)


def decided_pairs(row):
    """The better and the worse response of each pair that is no tie."""
    rows = row.comparisons() if isinstance(row, Ranking) else [row]
    return [(one.chosen, one.rejected) for one in rows if one.label != "tie"]


def by_hand(method, ratios, policy, tokens):
    """A pair's loss: of (better, worse), log-ratios to the reference, log-probabilities, and tokens."""
    (ratio, worse_ratio), (better, worse), (n, m) = ratios, policy, tokens
    def log_sigmoid(x):
        return -(1 + (-x).exp()).log()

    if method == "dpo":
        return -log_sigmoid(0.1 * (ratio - worse_ratio))
    if method == "ipo":
        return (ratio / n - worse_ratio / m - 1 / 0.6) ** 2
    if method == "simpo":
        return -log_sigmoid(2 * better / n - 2 * worse / m - 0.5)
    odds = [(x.exp() / (1 - x.exp())).log() for x in (better / n, worse / m)]
    return -better / n - log_sigmoid(odds[0] - odds[1])


def first_step(train, method, rows, lm, reference, **changed):
    reports = []
    with Steps() as steps:
        train(method, rows, report=lambda step, total, metrics, what="": reports.append(metrics), lm=lm,
              reference=reference, **changed)
    return reports[0], steps.gradients[0]


@pytest.mark.parametrize("micro_batch_size", [8, 1])
@pytest.mark.parametrize("method", ["dpo", "ipo", "simpo", "orpo"])
def test_the_first_step_is_that_of_the_mean_over_elements_of_the_mean_over_their_pairs(
        train, taught_lm, random_lm, method, micro_batch_size):
    rows, tokenizer = [RANKING, *prefers_red(5)], taught_lm.tokenizer
    policy, reference = deepcopy(taught_lm.model).double(), deepcopy(random_lm.model).double()
    losses = []
    for row in rows:
        of_row = []
        for pair in decided_pairs(row):
            found = [log_prob(policy, tokenizer, row.prompt, answer) for answer in pair]
            with torch.no_grad():
                known = [log_prob(reference, tokenizer, row.prompt, answer)[0] for answer in pair]
            ratios = [ours - theirs for (ours, _), theirs in zip(found, known, strict=True)]
            of_row.append(by_hand(method, ratios, [ours for ours, _ in found], [tokens for _, tokens in found]))
        losses.append(sum(of_row) / len(of_row))
    assert [len(decided_pairs(row)) for row in rows] == [5, 1, 1, 1, 1, 1]
    loss = sum(losses) / len(losses)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])

    reported, ours = first_step(train, method, rows, copy_of(taught_lm), random_lm.model,
                                micro_batch_size=micro_batch_size)
    assert reported["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert reported["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    torch.testing.assert_close(ours.double(), gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_at_the_reference_the_gradient_of_dpo_is_half_of_beta_times_the_difference(train, taught_lm):
    lm, model = copy_of(taught_lm), deepcopy(taught_lm.model).double()
    row = prefers_red(1)[0]
    better, worse = (log_prob(model, lm.tokenizer, row.prompt, answer)[0] for answer in (row.chosen, row.rejected))
    expected = torch.autograd.grad(-0.1 / 2 * (better - worse), list(model.parameters()))
    _, found = first_step(train, "dpo", [row], lm, lm.model)
    expected = torch.cat([g.flatten() for g in expected])
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_another_prompt_is_never_an_elements_own(taught_lm, tmp_path):
    rows = [Comparison(PROMPTS[i % 7 == 0], (f"red {i}", "green"), "A", Origin("test")) for i in range(40)]
    elements = encode(taught_lm.tokenizer, rows, 64, tmp_path).elements
    for seed in range(5):
        found = decided(elements, None, direct_params("kto"), torch.Generator().manual_seed(seed))
        assert all(one.other_prompt != one.prompt for one in found)
    alone = encode(taught_lm.tokenizer, rows[1:7], 64, tmp_path / "alone").elements
    with pytest.raises(UserError, match="all 6 comparisons have the same prompt"):
        decided(alone, None, direct_params("kto"), torch.Generator())
    assert len(decided(alone, None, direct_params("dpo"), torch.Generator())) == 6


def test_validation_pairs_of_one_prompt_keep_kto_from_measuring_and_not_from_learning(train):
    one, several = prefers_red(1, seed=3), prefers_red(12, seed=3)
    same = [Comparison(PROMPTS[0], row.responses, row.label, row.origin) for row in several]
    for held in (one, same):
        metrics = train("kto", prefers_red(16), held)
        assert metrics["steps"] == 4 and not [name for name in metrics if name.startswith("validation")]
    assert "validation_loss" in train("kto", prefers_red(16), several)
    assert "validation_loss" in train("dpo", prefers_red(16), one), "which compares no prompts"


def counted(model):
    """A copy of a model, and the list of the rows that it reads."""
    read = []
    asked = deepcopy(model)
    asked.base_model.register_forward_pre_hook(
        lambda module, args, given: read.extend(given["input_ids"].tolist()), with_kwargs=True)
    return asked, read


def test_training_pairs_of_one_prompt_are_refused_before_the_reference_reads_them(train, taught_lm):
    reference, read = counted(taught_lm.model)
    same = [Comparison(PROMPTS[0], row.responses, row.label, row.origin) for row in prefers_red(6)]
    with pytest.raises(UserError, match="all 6 comparisons have the same prompt"):
        train("kto", same, prefers_red(6), reference=reference)
    assert not read


@pytest.mark.parametrize(("method", "pairs"), [("dpo", 9 + 5), ("simpo", 5), ("orpo", 5), ("ilql", 0)])
def test_the_reference_reads_only_what_somebody_asks_for(train, taught_lm, method, pairs):
    reference, read = counted(taught_lm.model)
    metrics = train(method, prefers_red(9), prefers_red(5, seed=1), reference=reference)
    assert pairs <= len(read) <= 2 * pairs, "a row or two for a pair"
    assert "validation_accuracy" in metrics


@pytest.mark.parametrize("micro_batch_size", [8, 1])
def test_the_zero_of_kto_is_the_kl_on_answers_to_other_prompts(train, taught_lm, random_lm, micro_batch_size):
    """With two elements each one's answers go with the other one's prompt."""
    one, other = (Comparison(PROMPTS[i], answers, "A", Origin("test"))
                  for i, answers in ((0, ("red blue", "green")), (2, ("black", "blue green"))))
    tokenizer = taught_lm.tokenizer
    with torch.no_grad():
        def ratio(prompt, answer):
            ours, theirs = (log_prob(deepcopy(lm.model).double(), tokenizer, prompt, answer)[0]
                            for lm in (taught_lm, random_lm))
            return ours - theirs

        mismatched = [ratio(prompt, answer) for prompt, row in ((other.prompt, one), (one.prompt, other))
                      for answer in row.responses]
        zero = sum(mismatched) / 4
        terms = [1 - torch.sigmoid(0.1 * (ratio(row.prompt, row.chosen) - zero)) for row in (one, other)]
        terms += [1 - torch.sigmoid(0.1 * (zero - ratio(row.prompt, row.rejected))) for row in (one, other)]
    reported, _ = first_step(train, "kto", [one, other], copy_of(taught_lm), random_lm.model,
                             micro_batch_size=micro_batch_size)
    assert float(zero) > 1
    assert reported["kl"] == pytest.approx(float(zero), rel=1e-5)
    assert reported["loss"] == pytest.approx(float(sum(terms)) / 4, rel=1e-5)


def test_the_zero_of_kto_is_never_negative(train, taught_lm, random_lm):
    """Answers that the reference finds likelier than the policy does, as any answer of its own."""
    reported, _ = first_step(train, "kto", prefers_red(8), copy_of(random_lm), taught_lm.model)
    assert reported["better_log_ratio"] < -1 and reported["kl"] == 0


def test_the_rate_rises_and_falls_and_one_epoch_is_one_pass(train):
    with Steps() as steps:
        metrics = train("dpo", prefers_red(80), epochs=1, warmup=0.0)
    assert metrics["steps"] == 10
    assert steps.rates == pytest.approx([3e-3 * (10 - i) / 10 for i in range(10)])


@pytest.mark.parametrize("method", DIRECT)
def test_the_split_into_micro_batches_changes_neither_gradient_nor_figures(train, method):
    rows, found = [RANKING, *prefers_red(7)], []
    for size in (8, 3):
        reports = []
        with Steps() as steps:
            metrics = train(method, rows, rows, micro_batch_size=size, epochs=3,
                            report=lambda step, total, metrics, what="", to=reports: to.append(metrics))
        found.append((steps.gradients[1], reports[1], metrics))
    (whole, reported, metrics), (split, split_reported, split_metrics) = found
    assert torch.allclose(whole, split, atol=1e-3 * float(whole.abs().max()))
    assert split_reported == pytest.approx(reported, rel=1e-3, abs=1e-4)
    assert split_metrics == pytest.approx(metrics, rel=1e-2, abs=1e-3)


def test_the_gradient_is_clipped(train):
    with Steps() as steps:
        train("dpo", prefers_red(8), max_grad_norm=0.01)
    assert all(gradient.norm() == pytest.approx(0.01, rel=1e-3) for gradient in steps.gradients)


def test_the_policy_itself_may_be_the_reference_and_starts_at_no_distance_to_it(train, taught_lm):
    rows, held = prefers_red(24), prefers_red(12, seed=3)
    itself, beside = copy_of(taught_lm), copy_of(taught_lm)
    metrics = train("dpo", rows, held, lm=itself)
    assert train("dpo", rows, held, lm=beside, reference=taught_lm.model) == metrics
    assert all(torch.equal(a, b) for a, b in zip(itself.model.parameters(), beside.model.parameters(), strict=True))
    assert abs(metrics["validation_better_log_ratio_before"]) < 1e-4 < abs(metrics["validation_better_log_ratio"])


def test_what_is_left_out_is_counted_by_name(train):
    long = [Comparison(PROMPTS[0], ("red green " * 60, "red"), "A", Origin("test"))] * 3
    same = [Comparison(PROMPTS[0], ("red", "red"), "A", Origin("test"))] * 2
    ties = prefers_red(4, label="tie")
    for method in DIRECT:
        metrics = train(method, [*prefers_red(8), *long, *same, *ties, RANKING])
        assert [metrics[name] for name in ("pairs", "dropped_too_long", "dropped_identical", "dropped_ties")] == [
            13, 3, 2, 5]
    with pytest.raises(UserError, match=r"of 3 a side .*direct\.max_length = 64 tokens, 2 have .*, and 4 are ties"):
        train("dpo", [*long, *same, *ties])


def test_a_training_that_diverges_stops(train, taught_lm):
    lm = copy_of(taught_lm)
    with torch.no_grad():
        lm.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"At step 1 of .*direct\.learning_rate"):
        train("simpo", prefers_red(8), lm=lm)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


@pytest.mark.parametrize("method", ["dpo", "kto", "ilql"])
def test_a_killed_training_ends_as_the_undisturbed_one_does(train, taught_lm, method):
    def part(folder, killed_after=None):
        lm, reports = copy_of(taught_lm), []

        def report(step, total, metrics=None, what=""):
            reports.append((step, metrics))
            if step == killed_after:
                raise Killed

        try:
            last = train(method, prefers_red(22), prefers_red(6, seed=2), report, lm, folder, checkpoint_every=2)
        except Killed:
            last = torch.rand(17)  # the next process starts with whatever random state
        return last, reports, list(lm.model.parameters())

    last, reports, weights = part("whole")
    assert [step for step, _ in reports] == [1, 2, 3, 4, 5, 6, 6]
    assert reports[-1][1].keys() >= {"validation_accuracy", "validation_pairs"}, "the curve has what it came to"
    part("killed", killed_after=2)
    part("killed", killed_after=5)
    resumed_last, resumed, resumed_weights = part("killed")
    assert resumed_last == last and resumed == reports[4:]
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed_weights, strict=True))


def test_a_checkpoint_of_another_method_or_of_other_pairs_is_refused(train):
    train("dpo", prefers_red(22), folder="one", checkpoint_every=2)
    with pytest.raises(UserError, match="method was dpo and is ipo"):
        train("ipo", prefers_red(22), folder="one", checkpoint_every=2)
    with pytest.raises(UserError, match="digest of the data was"):
        train("dpo", prefers_red(22, seed=1), folder="one", checkpoint_every=2)


@pytest.mark.parametrize("method", DIRECT)
def test_a_policy_that_learns_from_who_likes_red_says_red_more_often(train, taught_lm, method):
    lm = copy_of(taught_lm)
    metrics = train(method, prefers_red(160), prefers_red(40, seed=1), lm=lm)
    assert metrics["validation_accuracy"] > 0.9 > metrics["validation_accuracy_before"]
    assert metrics["validation_loss"] < metrics["validation_loss_before"]
    assert share_saying("red", lm) > share_saying("red", taught_lm) + 0.2


def test_equal_rewards_are_half_right(taught_lm):
    params, lm = direct_params("dpo"), copy_of(taught_lm)
    elements = encode(lm.tokenizer, prefers_red(7), 64, NOWHERE).elements
    found = Pairwise(lm.model, params).evaluate(decided(elements, lm.model, params, torch.Generator()))
    assert (found["accuracy"], found["margin"]) == (0.5, 0)
    assert found["loss"] == pytest.approx(math.log(2))
