"""The losses, against their formulas computed with Python's own floats, and where they are at an extreme."""

import math

import pytest
import torch

from plumbline.alignment.direct import losses

BETTER, WORSE = [-3.2, -11.0, -0.4], [-4.0, -2.5, -9.0]
"""Log-probabilities, or log-ratios, of three pairs."""
TOKENS = [2, 7, 3], [5, 1, 4]


def tensors(*columns):
    return [torch.tensor(column, dtype=torch.float64) for column in columns]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def expected(formula):
    """The formula of each pair: better, worse, tokens of either."""
    return [formula(*row) for row in zip(BETTER, WORSE, *TOKENS, strict=True)]


def test_dpo_is_equation_7_and_a_smoothed_label_is_wrong_sometimes():
    found = losses.dpo(*tensors(BETTER, WORSE), 0.3, 0.1)
    assert found.tolist() == pytest.approx(expected(
        lambda b, w, *_: -0.9 * log_sigmoid(0.3 * (b - w)) - 0.1 * log_sigmoid(-0.3 * (b - w))), rel=1e-12)


def test_ipo_is_equation_17_of_means_a_token():
    found = losses.ipo(*tensors(BETTER, WORSE, *TOKENS), 0.3)
    assert found.tolist() == pytest.approx(expected(lambda b, w, n, m: (b / n - w / m - 1 / 0.6) ** 2), rel=1e-12)


def test_kto_is_the_mean_of_equation_8_over_both_answers():
    def value(b, w, *_):
        gain = 1.3 / (1 + math.exp(-0.2 * (b - 1.5)))
        loss = 0.7 / (1 + math.exp(-0.2 * (1.5 - w)))
        return ((1.3 - gain) + (0.7 - loss)) / 2

    found = losses.kto(*tensors(BETTER, WORSE), 1.5, 0.2, 1.3, 0.7)
    assert found.tolist() == pytest.approx(expected(value), rel=1e-12)


def test_simpo_is_equation_6():
    found = losses.simpo(*tensors(BETTER, WORSE, *TOKENS), 2.0, 0.5)
    assert found.tolist() == pytest.approx(
        expected(lambda b, w, n, m: -log_sigmoid(2 * b / n - 2 * w / m - 0.5)), rel=1e-12)


def test_orpo_is_equation_6_with_the_odds_of_equation_3():
    def loss(b, w, n, m):
        better, worse = math.exp(b / n), math.exp(w / m)
        ratio = (better / (1 - better)) / (worse / (1 - worse))
        return -b / n - 0.25 * math.log(1 / (1 + 1 / ratio))

    found = losses.orpo(*tensors(BETTER, WORSE, *TOKENS), 0.25)
    assert found.tolist() == pytest.approx(expected(loss), rel=1e-12)


def test_at_the_reference_dpo_raises_the_better_answer_by_half_of_beta():
    """Equation 7's gradient: -beta sigmoid(0) (grad better - grad worse)."""
    better, worse = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    losses.dpo(better, worse, 0.4, 0.0).sum().backward()
    assert (float(better.grad), float(worse.grad)) == pytest.approx((-0.2, 0.2))


@pytest.mark.parametrize("far", [-1e4, 0.0, 1e4])
def test_no_answer_is_too_far_for_a_finite_loss_and_gradient(far):
    one = torch.ones(1)
    for loss in (lambda b, w: losses.dpo(b, w, 1.0, 0.1), lambda b, w: losses.kto(b, w, 0.0, 1.0, 1.0, 1.0),
                 lambda b, w: losses.ipo(b, w, one, one, 0.1), lambda b, w: losses.simpo(b, w, one, one, 2.0, 0.5),
                 lambda b, w: losses.orpo(b.clamp(max=0), w.clamp(max=0), one, one, 1.0)):
        better, worse = torch.tensor([far], requires_grad=True), torch.tensor([-far], requires_grad=True)
        found = loss(better, worse)
        found.sum().backward()
        assert all(bool(value.isfinite().all()) for value in (found, better.grad, worse.grad))
