"""The losses equal those of TRL 1.9 on the same tensors, and so do their gradients.

    pip install --no-deps --target FOLDER trl==1.9.0      # optional: without it these tests are skipped
    PYTHONPATH=FOLDER python -m pytest tests/alignment/direct/test_against_trl.py

TRL computes the losses of DPO, IPO and KTO within a trainer's step, from a model's logits. Its methods are called here
without a trainer, with what they read of one, and with a model that returns given logits.
"""

import importlib
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from plumbline.alignment.direct import losses

pytest.importorskip("trl", reason="TRL is not installed")
dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
if not hasattr(dpo_trainer.DPOTrainer, "_compute_loss"):
    pytest.skip("another version of TRL than 1.9", allow_module_level=True)
KTOTrainer = importlib.import_module("trl.trainer.kto_trainer").KTOTrainer
CPOTrainer = importlib.import_module("trl.experimental.cpo").CPOTrainer
ORPOTrainer = importlib.import_module("trl.experimental.orpo").ORPOTrainer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PAIRS, LONGEST, VOCABULARY = 4, 9, 11
LENGTHS = torch.tensor([3, 7, 1, 5, 6, 2, 4, 7])
"""Of the better answers, then of the worse ones; the prompts have two tokens."""


class Step:
    """Ids, their completion mask, and the logits of policy and reference; the better answers come first."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        shape = (2 * PAIRS, LONGEST)
        self.ids = torch.randint(VOCABULARY, shape, generator=generator)
        place = torch.arange(LONGEST)[None]
        self.mask = ((place >= 2) & (place < 2 + LENGTHS[:, None])).long()
        self.policy, self.reference, self.other, self.other_reference = (
            torch.randn(*shape, VOCABULARY, generator=generator) for _ in range(4))
        self.policy.requires_grad_()

    def log_probs(self, logits):
        """Of each answer, in nats: better [P], worse [P]."""
        token = logits[:, :-1].log_softmax(-1).gather(-1, self.ids[:, 1:, None])[..., 0]
        return (token * self.mask[:, 1:]).sum(1).chunk(2)

    def ratios(self):
        return [ours - theirs for ours, theirs in zip(self.log_probs(self.policy), self.log_probs(self.reference),
                                                      strict=True)]


@pytest.fixture(params=[0, 1, 2])
def step(request):
    return Step(request.param)


class Gives(torch.nn.Module):
    """A model that returns these logits, whatever it is asked. TRL looks whether a model is one of peft's."""

    is_gradient_checkpointing = False

    def __init__(self, logits=None):
        super().__init__()
        self.logits = logits

    def forward(self, **_):
        return SimpleNamespace(logits=self.logits.clone())


def trainer(**more):
    """What the methods of a trainer read of it."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(**{
        "model": Gives(), "accelerator": accelerator, "aux_loss_enabled": False, "_metrics": defaultdict(
            lambda: defaultdict(list)), "_total_train_tokens": 0, "precompute_ref_logps": False,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False)} | more)


def dpo_of_trl(step, loss_type, beta, flipped=False):
    order = torch.arange(2 * PAIRS).roll(PAIRS if flipped else 0)
    given = trainer(ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
                    beta=beta, label_smoothing=0.0, use_weighting=False, ref_model=Gives(step.reference[order]))
    mask = step.mask[order]
    inputs = {"input_ids": step.ids[order], "completion_mask": mask, "attention_mask": torch.ones_like(mask)}
    return dpo_trainer.DPOTrainer._compute_loss(given, Gives(step.policy[order]), inputs, return_outputs=False)


def same(ours, theirs, step):
    torch.testing.assert_close(ours, theirs, **CLOSE)
    (our_gradient,), (their_gradient,) = (torch.autograd.grad(loss, step.policy) for loss in (ours, theirs))
    assert their_gradient.abs().max() > 1e-3
    torch.testing.assert_close(our_gradient, their_gradient, **CLOSE)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo(step, smoothing):
    """TRL 1.9 smooths no labels of this loss; conservative DPO is what both orders of a pair give, weighted."""
    theirs = (1 - smoothing) * dpo_of_trl(step, "sigmoid", 0.3) + smoothing * dpo_of_trl(step, "sigmoid", 0.3, True)
    same(losses.dpo(*step.ratios(), 0.3, smoothing).mean(), theirs, step)


def test_ipo(step):
    ours = losses.ipo(*step.ratios(), *LENGTHS.chunk(2), 0.3)
    same(ours.mean(), dpo_of_trl(step, "ipo", 0.3), step)


@pytest.mark.parametrize("sign", [1, -1])
def test_kto(step, sign):
    """The KL is positive with one sign, and with the other it is cut at 0."""
    log_ratio = torch.cat(step.log_probs(step.other)) - torch.cat(step.log_probs(step.other_reference))
    kl = sign * log_ratio.abs()
    given = trainer(calculate_KL=True, loss_type="kto", beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    given.ref_model, policy = Gives(step.reference), Gives(step.policy)
    given._compute_kl_logps = lambda model, batch: kl if model is policy else torch.zeros_like(kl)
    label = torch.arange(2 * PAIRS) < PAIRS
    inputs = {"input_ids": step.ids, "completion_mask": step.mask, "attention_mask": torch.ones_like(step.mask),
              "label": label}
    theirs = KTOTrainer._compute_loss(given, policy, inputs, return_outputs=False)
    zero = max(0.0, float(kl.mean()))
    assert (zero > 0) == (sign > 0)
    same(losses.kto(*step.ratios(), zero, 0.2, 1.3, 0.7).mean(), theirs, step)


def test_simpo(step):
    lengths = LENGTHS.chunk(2)
    means = [total / tokens for total, tokens in zip(step.log_probs(step.policy), lengths, strict=True)]
    given = trainer(alpha=0.0, loss_type="simpo", simpo_gamma=0.5, beta=2.0, label_smoothing=0.0)
    theirs, *_ = CPOTrainer.cpo_loss(given, *means)
    same(losses.simpo(*step.log_probs(step.policy), *lengths, 2.0, 0.5).mean(), theirs.mean(), step)


def test_orpo(step):
    """Of TRL's loss the odds ratio; its likelihood is of the prompt, too, where the paper's is of the answer."""
    lengths = LENGTHS.chunk(2)
    means = [total / tokens for total, tokens in zip(step.log_probs(step.policy), lengths, strict=True)]
    odds, *_ = ORPOTrainer.odds_ratio_loss(trainer(beta=0.25), *means)
    theirs = (-means[0]).mean() - odds.mean()
    same(losses.orpo(*step.log_probs(step.policy), *lengths, 0.25).mean(), theirs, step)
