"""The losses equal those of another implementation, TRL, on the same tensors, and so do their gradients.

    pip install -c constraints.txt -e '.[peers]'        # optional: without TRL these tests are skipped

TRL 0.11.4 is the last whose PPO computes its losses in functions of their own; later ones have them inside the training
loop, or have no PPO. Its methods are called here without a trainer, with what they read of one.
"""

from types import SimpleNamespace

import pytest
import torch

from plumbline.alignment.online.advantages import advantages_and_returns, token_rewards, whiten
from plumbline.alignment.online.kl import KLController
from plumbline.alignment.online.losses import clipped_surrogate, value_loss
from plumbline.alignment.reward_training import bradley_terry

pytest.importorskip("trl", reason="the optional dependency `peers` is not installed")
from trl.trainer.ppo_trainer import PPOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.utils import AdaptiveKLController

if not hasattr(PPOTrainer, "compute_advantages"):
    pytest.skip("another version of TRL than the one in constraints.txt", allow_module_level=True)

LENGTHS = (1, 4, 7, 12)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CLIP, VALUE_CLIP, GAMMA, LAMBDA, KL_COEF = 0.2, 0.3, 0.97, 0.9, 0.13


@pytest.fixture
def trl():
    """What the methods of TRL's PPO trainer read of it."""
    return SimpleNamespace(
        config=SimpleNamespace(cliprange=CLIP, cliprange_value=VALUE_CLIP, vf_coef=1.0, ratio_threshold=1e9,
                               gamma=GAMMA, lam=LAMBDA, whiten_rewards=False, kl_penalty="kl"),
        kl_ctl=SimpleNamespace(value=KL_COEF), _kl_penalty=lambda one, other: one - other)


@pytest.fixture(params=[0, 1, 2])
def batch(request):
    """Four responses of different lengths: log-probabilities, values, returns and advantages, 0 at padding."""
    generator = torch.Generator().manual_seed(request.param)
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).float()

    def draw(mean, std):
        return (torch.randn(mask.shape, generator=generator) * std + mean) * mask

    old = draw(-2.0, 1.0)
    values = draw(0.3, 1.0)
    return SimpleNamespace(
        mask=mask, old=old, new=old + draw(0.0, 0.3), reference=old + draw(0.0, 0.5), values=values,
        new_values=values + draw(0.0, 0.5), advantages=draw(0.0, 1.0), returns=draw(0.5, 1.0),
        scores=torch.randn(len(LENGTHS), generator=generator), logits=torch.zeros(*mask.shape, 5))


def gradient(loss, of):
    (found,) = torch.autograd.grad(loss, of)
    return found


def test_policy_and_value_loss(trl, batch):
    new, new_values = batch.new.clone().requires_grad_(), batch.new_values.clone().requires_grad_()
    theirs, their_value, stats = PPOTrainer.loss(
        trl, batch.old, batch.values, batch.logits, new_values, new, batch.mask, batch.advantages, batch.returns)
    tokens = batch.mask.sum()
    ours = clipped_surrogate(new, batch.old, batch.advantages, batch.mask, CLIP)
    our_value = value_loss(new_values, batch.values, batch.returns, batch.mask, VALUE_CLIP)
    torch.testing.assert_close(ours.loss / tokens, theirs, **CLOSE)
    torch.testing.assert_close(our_value / tokens, their_value, **CLOSE)
    torch.testing.assert_close(ours.clipped / tokens, stats["policy/clipfrac"], **CLOSE)
    assert 0 < stats["policy/clipfrac"] < 1, "some ratios are clipped, or nothing was compared"
    torch.testing.assert_close(gradient(ours.loss / tokens, new), gradient(theirs, new), **CLOSE)
    torch.testing.assert_close(gradient(our_value / tokens, new_values), gradient(their_value, new_values), **CLOSE)


def test_rewards_advantages_and_returns(trl, batch):
    rewards, _, kl = PPOTrainer.compute_rewards(trl, batch.scores, batch.new, batch.reference, batch.mask)
    ours = token_rewards(batch.scores, (batch.new - batch.reference) * batch.mask, batch.mask, KL_COEF)
    torch.testing.assert_close(ours, rewards, **CLOSE)
    assert kl.abs().sum() > 0

    _, whitened, returns = PPOTrainer.compute_advantages(trl, batch.values, rewards, batch.mask)
    advantages, our_returns = advantages_and_returns(ours, batch.values, batch.mask, GAMMA, LAMBDA)
    torch.testing.assert_close(our_returns, returns * batch.mask, **CLOSE)
    torch.testing.assert_close(advantages, (returns - batch.values) * batch.mask, **CLOSE)
    # TRL divides by the standard deviation of a sample, we by that of the tokens at hand: n - 1 and n.
    tokens = float(batch.mask.sum())
    sample = ((tokens - 1) / tokens) ** 0.5
    torch.testing.assert_close(whiten(advantages, batch.mask) * sample, whitened * batch.mask, **CLOSE)


@pytest.mark.parametrize("kl", [0.5, 5.0, 6.5, 40.0])
def test_the_adaptive_weight_of_the_penalty(kl):
    ours, theirs = KLController(0.1, 6.0, 10000), AdaptiveKLController(0.1, 6.0, 10000)
    for _ in range(3):
        ours.update(kl, 64)
        theirs.update(kl, 64)
    assert ours.coef == pytest.approx(theirs.value, rel=1e-9)
    assert ours.coef != 0.1


@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_loss(with_margin):
    generator = torch.Generator().manual_seed(7)
    chosen, rejected = (torch.randn(16, generator=generator).requires_grad_() for _ in range(2))
    margin = torch.rand(16, generator=generator) if with_margin else torch.zeros(16)
    inputs = {"input_ids_chosen": chosen, "attention_mask_chosen": None, "input_ids_rejected": rejected,
              "attention_mask_rejected": None} | ({"margin": margin} if with_margin else {})
    trainer = SimpleNamespace(use_reward_data_collator=True, args=SimpleNamespace(center_rewards_coefficient=None))
    theirs = RewardTrainer.compute_loss(trainer, lambda input_ids, **_: {"logits": input_ids}, inputs)
    first_wins = (torch.arange(16) % 2 == 0).float()  # the better one is shown first, or second
    difference = torch.where(first_wins == 1, chosen - rejected, rejected - chosen)
    ours = bradley_terry(difference, first_wins, margin).mean()
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(gradient(ours, chosen), gradient(theirs, chosen), **CLOSE)
