"""PPO's arithmetic against float64 loops over unpadded lists, and against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.alignment.online.advantages import (
    advantages_and_returns,
    explained_variance,
    of_unit_variance,
    token_rewards,
    whiten,
)
from plumbline.alignment.online.kl import KLController
from plumbline.alignment.online.losses import clipped_surrogate, value_loss
from plumbline.alignment.sequences import token_log_probs
from testing.depth import examples

finite = st.floats(-5, 5, width=32)
episodes = st.lists(st.lists(st.tuples(finite, finite), min_size=1, max_size=7), min_size=1, max_size=4)
share = st.floats(0, 1)
GARBAGE = 777.0


def padded(rows, fill=GARBAGE):
    """[B, R] with `fill` behind each row, and the mask."""
    width = max(map(len, rows)) + 2
    values = torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])
    return values, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def gae_by_definition(rewards, values, gamma, lam):
    """Equation 16 of arXiv 1506.02438 as it stands: a sum over the future of discounted one-step errors."""
    values = [*values, 0.0]
    deltas = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(rewards))]


@given(rows=episodes, gamma=share, lam=share)
@examples(60)
def test_advantages_of_padded_responses_are_those_of_each_alone(rows, gamma, lam):
    rewards, mask = padded([[r for r, _ in row] for row in rows])
    values, _ = padded([[v for _, v in row] for row in rows])
    advantages, returns = advantages_and_returns(rewards, values, mask, gamma, lam)
    for i, row in enumerate(rows):
        expected = gae_by_definition([r for r, _ in row], [v for _, v in row], gamma, lam)
        assert advantages[i, :len(row)].tolist() == pytest.approx(expected, abs=1e-3)
        assert returns[i, :len(row)].tolist() == pytest.approx([a + v for a, (_, v) in zip(expected, row, strict=True)],
                                                               abs=1e-3)
    assert (advantages[mask == 0] == 0).all() and (returns[mask == 0] == 0).all()


def test_with_gamma_and_lambda_one_the_advantage_is_the_monte_carlo_return_minus_the_value():
    rewards, values = [0.5, -1.0, 2.0], [0.1, 0.2, 0.3]
    advantages, returns = advantages_and_returns(
        torch.tensor([rewards]), torch.tensor([values]), torch.ones(1, 3), 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([1.5, 1.0, 2.0])
    assert advantages[0].tolist() == pytest.approx([1.4, 0.8, 1.7])


@given(rows=st.lists(st.lists(finite, min_size=1, max_size=7), min_size=1, max_size=4))
@examples(60)
def test_whitening_uses_the_mean_and_variance_of_real_tokens(rows):
    values, mask = padded(rows)
    found = whiten(values, mask)
    real = torch.cat([torch.tensor(row, dtype=torch.float64) for row in rows])
    std = real.var(correction=0).sqrt()
    if std > 1e-2:
        assert torch.allclose(found[mask == 1].double(), (real - real.mean()) / std, atol=1e-3)
    assert found.isfinite().all() and (found[mask == 0] == 0).all()


def test_unit_variance_is_that_of_real_tokens():
    values, mask = torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, 9.0]]), torch.tensor([[1, 1, 0], [1, 1, 0]])
    found = of_unit_variance(values, mask)
    assert found[mask.bool()].tolist() == pytest.approx([value / 5 ** 0.5 for value in (1, 3, 5, 7)])
    assert (found[mask == 0] == 0).all()


def test_whitening_one_token_gives_zero():
    assert whiten(torch.tensor([[3.0, GARBAGE]]), torch.tensor([[1, 0]])).tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_are_at_the_temperature_and_in_fp32_whatever_the_logits(dtype):
    logits = (torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 8).to(dtype)
    ids = torch.tensor([[0, 7, 49], [3, 3, 3]])
    found = token_log_probs(logits, ids, 0.7)
    scaled = logits.double() / 0.7
    expected = scaled.gather(-1, ids[..., None]).squeeze(-1) - scaled.exp().sum(-1).log()
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_the_score_comes_with_the_last_real_token_and_every_token_pays_for_its_own_kl():
    kl, mask = padded([[0.1, 0.2, 0.4], [1.0]])
    rewards = token_rewards(torch.tensor([5.0, -2.0]), kl, mask, kl_coef=0.5)
    assert rewards.tolist() == pytest.approx(torch.tensor([[-0.05, -0.1, 4.8, 0, 0], [-2.5, 0, 0, 0, 0]]))


def clipped_objective(new, old, advantage, clip):
    """Equation 7 of arXiv 1707.06347, negated."""
    ratio = math.exp(new - old)
    return -min(ratio * advantage, max(1 - clip, min(1 + clip, ratio)) * advantage)


@given(rows=st.lists(st.lists(st.tuples(st.floats(-3, 0, width=32), st.floats(-3, 0, width=32), finite),
                              min_size=1, max_size=6), min_size=1, max_size=4), clip=st.floats(0.05, 0.5))
@examples(60)
def test_the_policy_loss_is_the_clipped_objective_summed_over_real_tokens(rows, clip):
    (new, mask), (old, _), (advantages, _) = (padded([[token[k] for token in row] for row in rows]) for k in range(3))
    found = clipped_surrogate(new, old, advantages, mask, clip)
    tokens = [token for row in rows for token in row]
    ratios = [math.exp(n - o) for n, o, _ in tokens]
    expected = sum(clipped_objective(*token, clip) for token in tokens)
    assert float(found.loss) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert float(found.ratio) == pytest.approx(sum(ratios), rel=1e-4)
    k3 = sum(ratio - 1 - math.log(ratio) for ratio in ratios)
    assert float(found.approx_kl) == pytest.approx(k3, rel=1e-3, abs=1e-4) and float(found.approx_kl) >= -1e-5


def test_a_token_counts_as_clipped_when_it_gets_no_gradient():
    new = torch.tensor([[math.log(r) for r in (1.5, 1.5, 0.5, 0.5, 1.1)]], requires_grad=True)
    found = clipped_surrogate(new, torch.zeros(1, 5), torch.tensor([[1.0, -1, 1, -1, 1]]), torch.ones(1, 5), 0.2)
    found.loss.backward()
    assert (new.grad == 0).tolist() == [[True, False, False, True, False]]
    assert float(found.clipped) == 2


def test_k3_has_the_expectation_of_the_kl_and_is_never_negative():
    """Over all tokens of a small vocabulary, weighted by the old policy."""
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 12, generator=generator, dtype=torch.float64).log_softmax(-1)
    each = [float(clipped_surrogate(new[i].view(1, 1), old[i].view(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2)
                  .approx_kl) for i in range(12)]
    kl = float((old.exp() * (old - new)).sum())
    assert min(each) >= 0 and min((old - new).tolist()) < 0, "k1 is negative for some tokens, k3 for none"
    assert sum(p * k3 for p, k3 in zip(old.exp().tolist(), each, strict=True)) == pytest.approx(kl)


@given(rows=st.lists(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=6), min_size=1, max_size=4))
@examples(60)
def test_the_value_loss_is_the_larger_of_the_free_and_the_clipped_error(rows):
    (new, mask), (old, _), (returns, _) = (padded([[token[k] for token in row] for row in rows]) for k in range(3))
    expected = sum(0.5 * max((n - r) ** 2, (max(o - 0.2, min(o + 0.2, n)) - r) ** 2) for row in rows for n, o, r in row)
    assert float(value_loss(new, old, returns, mask, 0.2)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("kl", "episodes", "expected"), [
    (6.6, 64, 0.1 * (1 + 0.1 * 64 / 10000)),
    (60.0, 64, 0.1 * (1 + 0.2 * 64 / 10000)),
    (0.0, 64, 0.1 * (1 - 0.2 * 64 / 10000)),
    (6.0, 64, 0.1),
    (60.0, 10000, 0.12),
])
def test_the_adaptive_controller_moves_as_computed_by_hand(kl, episodes, expected):
    controller = KLController(0.1, 6.0, 10000)
    controller.update(kl, episodes)
    assert controller.coef == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kl", "expected"), [(0.0, math.exp(-0.2)), (60.0, math.exp(0.2))])
def test_over_a_horizon_the_weight_moves_as_the_parameter_says(kl, expected):
    """Up by 22 % and down by 18 %."""
    controller = KLController(1.0, 6.0, 10000)
    for _ in range(1000):
        controller.update(kl, 10)
    assert controller.coef == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("kl", "expected"), [(0.0, 0.08), (60.0, 0.12)])
def test_a_horizon_within_a_batch_moves_the_weight_by_a_fifth(kl, expected):
    controller = KLController(0.1, 6.0, 10)
    controller.update(kl, 64)
    assert controller.coef == pytest.approx(expected, rel=1e-12)


def test_without_a_target_the_kl_weight_stays():
    controller = KLController(0.1, None, 10000)
    controller.update(60.0, 64)
    assert controller.coef == 0.1


@given(rows=episodes, gamma=share)
@examples(60)
def test_explained_variance_is_of_the_sums_of_rewards_to_come(rows, gamma):
    """Against the returns that the value model learns from, values would explain themselves."""
    (rewards, mask), (values, _) = (padded([[token[k] for token in row] for row in rows]) for k in range(2))
    returns = [sum(gamma ** k * r for k, (r, _) in enumerate(row[t:])) for row in rows for t in range(len(row))]
    returns = torch.tensor(returns, dtype=torch.float64)
    errors = returns - torch.tensor([v for row in rows for _, v in row], dtype=torch.float64)
    if returns.var(correction=0) > 1e-2:
        expected = float(1 - errors.var(correction=0) / returns.var(correction=0))
        assert explained_variance(values, rewards, mask, gamma) == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_explained_variance_of_perfect_constant_and_opposite_values():
    rewards, mask = padded([[0.0, 0.0, 3.0], [4.0]])
    returns = torch.tensor([[3.0, 3.0, 3.0, GARBAGE, GARBAGE], [4.0, GARBAGE, GARBAGE, GARBAGE, GARBAGE]])
    assert explained_variance(returns, rewards, mask, 1.0) == 1
    assert explained_variance(torch.full_like(returns, 9.0), rewards, mask, 1.0) == pytest.approx(0, abs=1e-6)
    assert explained_variance(-returns, rewards, mask, 1.0) == pytest.approx(-3)
    assert explained_variance(returns, torch.zeros_like(rewards), mask, 1.0) is None, "nothing to explain"


def test_a_response_without_any_token_is_refused():
    """Its score would land in the last column, and would be dropped there without a word."""
    with pytest.raises(AssertionError, match="without any token"):
        token_rewards(torch.tensor([1.0, 2.0]), torch.zeros(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]]), 0.1)
