"""The online methods: estimates by hand, contradictions by name, and each learns."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from plumbline.alignment.online.advantages import Rewarded, leave_one_out, to_go, whiten, within_group
from plumbline.alignment.online.kl import estimate
from plumbline.alignment.online.methods import METHODS
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.config import candidate_params, load_params
from plumbline.config.methods import METHODS as PARAMETERS
from plumbline.config.online import require_usable
from plumbline.errors import UserError
from testing.online import Scripted, online_params, train_policy
from testing.tiny_models import PROMPTS, copy_of

ROOT = Path(__file__).resolve().parents[2]
REWARDS = torch.tensor([[0.0, 1.0, 0.0], [-0.5, 0.0, 3.0], [2.0, 0.0, 0.0], [0.25, 0.25, 0.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
TOTALS = [1.0, 2.5, 2.0, 0.5]


def estimated(estimator, name, groups=2, unit=2.0, **changed):
    return estimator(Rewarded(REWARDS, MASK, None, unit), online_params(name, answers_per_prompt=groups, **changed))


def test_a_response_is_compared_with_the_others_to_its_prompt():
    found = estimated(leave_one_out, "rloo")
    assert found.returns_BR is None
    assert found.advantages_BR[:, 0].tolist() == pytest.approx([-0.75, 0.75, 0.75, -0.75]), "in deviations of 2"
    assert torch.equal(found.advantages_BR, found.advantages_BR[:, :1] * MASK), "the same at all of its tokens"
    of_four = estimated(leave_one_out, "rloo", groups=4, unit=1.0).advantages_BR[:, 0]
    assert of_four.tolist() == pytest.approx([t - (sum(TOTALS) - t) / 3 for t in TOTALS])
    assert float(of_four.sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_within_its_group(scaled):
    found = estimated(within_group, "grpo", groups=4, unit=2.0, scale_by_deviation=scaled).advantages_BR[:, 0]
    scale = stdev(TOTALS) + 1e-4 if scaled else 2.0
    assert found.tolist() == pytest.approx([(t - fmean(TOTALS)) / scale for t in TOTALS])


def test_a_group_whose_answers_are_equally_good_teaches_nothing():
    same = Rewarded(torch.ones(4, 3), torch.ones(4, 3), None, 1.0)
    for estimator, name in ((leave_one_out, "rloo"), (within_group, "grpo")):
        assert (estimator(same, online_params(name, answers_per_prompt=2)).advantages_BR == 0).all()


def test_rewards_to_go_are_whitened_over_the_batch():
    found = estimated(to_go, "reinforce++", groups=1, gamma=0.5).advantages_BR
    by_hand = torch.tensor([[0.5, 1.0, 0], [-0.5 + 0.25 * 3, 1.5, 3], [2, 0, 0], [0.25 + 0.125, 0.25, 0]])
    assert torch.allclose(found, whiten(by_hand, MASK))


def test_estimators_of_the_kl():
    """Of two distributions of twelve tokens: means by summing over all, and the gradients of their own."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(12, generator=generator, dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    p, q = policy.exp(), reference.exp()
    kl, backward = (p * (policy - reference)).sum(), (q * (reference - policy)).sum()
    means = {name: float((p * estimate(policy - reference, name)).sum().detach()) for name in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(float(kl.detach())) == means["k3"]
    assert all((estimate(policy - reference, name) >= 0).all() for name in ("k2", "k3"))

    def gradient(of):
        return torch.autograd.grad(of, logits, retain_graph=True)[0]

    expected = {name: gradient((p.detach() * estimate(policy - reference, name)).sum())
                for name in ("k1", "k2", "k3")}
    assert torch.allclose(expected["k1"], torch.zeros(12, dtype=torch.float64)), "why it may not be in the loss"
    assert torch.allclose(expected["k2"], gradient(kl)) and torch.allclose(expected["k3"], gradient(backward))


@pytest.mark.parametrize(("method", "changed", "said"), [
    ("rloo", {"answers_per_prompt": 1}, r"rloo compares.*ppo\.answers_per_prompt"),
    ("ppo", {"batch_size": 6, "answers_per_prompt": 4}, r"groups of ppo\.answers_per_prompt = 4"),
    ("a2c", {"epochs": 2}, r"a2c may look at each batch once.*ppo\.epochs is 2"),
    ("ppo", {"kl_in": "loss"}, r"ppo\.kl_estimator to k2 or k3"),
    ("ppo", {"critic": "shared"}, r"ppo\.critic: shared needs .*ppo\.trainable is all"),
    ("nlpo", {"engine": "vllm"}, r"Set ppo\.engine to own"),
    ("trpo", {"ptx_coef": 0.1}, r"Set ppo\.ptx_coef to 0"),
    ("trpo", {"kl_in": "loss", "kl_estimator": "k3"}, r"Set ppo\.kl_in to reward"),
    ("ppo", {"kl_coef": 0.0, "kl_target": 6.0}, r"never move it from ppo\.kl_coef = 0"),
    ("ppo", {"batch_size": 2, "minibatches": 3}, r"ppo\.minibatches = 3")])
def test_values_that_contradict_each_other(method, changed, said):
    with pytest.raises(UserError, match=said):
        require_usable(method, online_params(method, **changed))


def test_values_that_contradict_the_number_of_processes():
    params = online_params("trpo", batch_size=8, minibatches=4)
    require_usable("trpo", params)
    with pytest.raises(UserError, match=r"candidates\.a\.batch_size = 8 in candidates\.a\.minibatches = 4 leaves"):
        require_usable("ppo", params, 3, "candidates.a")
    with pytest.raises(UserError, match="here are 2"):
        require_usable("trpo", params, 2)


@dataclass
class InUnits(Scripted):
    """The scripted reward, in a unit of its own."""

    def score(self, row):
        return self.std * super().score(row)


@pytest.mark.parametrize(("method", "changed"), [
    ("rloo", {"answers_per_prompt": 4}), ("grpo", {"answers_per_prompt": 4, "scale_by_deviation": False}),
    ("ppo", {"value_clip": 0.01, "value_learning_rate": 1e-2})])
def test_whitened_rewards_have_lost_their_unit(taught_lm, taught_folder, tokenizer, tmp_path, method, changed):
    """Answers of several lengths and a KL: gradients of the policy, and the critic's losses, are the same."""
    RewardModel.from_policy(taught_folder, 64, seed=0).save(tmp_path / "reward")
    red, = tokenizer(" red", add_special_tokens=False)["input_ids"]
    found = []
    for unit in (1.0, 10.0):
        reports = []
        train_policy(copy_of(taught_lm), copy_of(taught_lm).model, value_model(tmp_path / "reward"),
                     InUnits(red, unit), PROMPTS, online_params(method, **{
                         "whiten_rewards": True, "updates": 3, "epochs": 2, "batch_size": 16, "learning_rate": 1e-3,
                         "kl_coef": 0.2, **changed}), 0,
                     lambda step, total, metrics=None, what="", seen=reports: seen.append(metrics),
                     tmp_path / f"{unit}", method=method)
        found.append([reports[-1][name] for name in ("policy_grad_norm", "policy_loss", "value_loss")
                      if name in reports[-1]])
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5)


def test_every_online_method_has_its_parameters():
    assert set(METHODS) == {name for name, (block, _) in PARAMETERS.items() if block == "ppo"}


LEARNING = {"updates": 12, "batch_size": 32, "micro_batch_size": 32, "epochs": 2, "minibatches": 2, "kl_coef": 0.02,
            "learning_rate": 3e-3, "value_learning_rate": 3e-3, "max_grad_norm": 1.0}


@pytest.mark.parametrize(("method", "changed"), [
    ("ppo", {}), ("ppo", {"kl_in": "loss", "kl_estimator": "k3", "whiten_rewards": True, "value_clip": None}),
    ("ppo", {"trainable": "top", "critic": "shared", "learning_rate": 1e-2}),
    ("ppo", {"trainable": "lora", "critic": "shared", "learning_rate": 1e-2}),
    ("a2c", {"epochs": 1, "minibatches": 4}),
    ("rloo", {"answers_per_prompt": 4}), ("grpo", {"answers_per_prompt": 4, "kl_in": "loss", "kl_estimator": "k3"}),
    ("reinforce++", {}), ("nlpo", {"mask_top_p": 0.95}), ("trpo", {"trust_region": 0.1, "updates": 18})],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "plain")
def test_each_method_learns(taught_lm, taught_folder, tokenizer, tmp_path, method, changed):
    RewardModel.from_policy(taught_folder, 64, seed=0).save(tmp_path / "reward")
    red, = tokenizer(" red", add_special_tokens=False)["input_ids"]
    reports, value = [], value_model(tmp_path / "reward")
    train_policy(copy_of(taught_lm), copy_of(taught_lm).model, value, reward_of(red, tmp_path), PROMPTS,
                 online_params(method, **LEARNING | changed), 0,
                 lambda step, total, metrics=None, what="": reports.append(metrics), tmp_path / "run", method=method)
    assert reports[0]["kl"] == 0, "at first the policy is the reference"
    rewards = [metrics["reward"] for metrics in reports]
    assert fmean(rewards[-3:]) > fmean(rewards[:2]) + 0.2  # which is 0.05 and less
    assert reports[-1]["kl"] > 0.1


def reward_of(red, folder):
    """The scripted reward; a critic that shares the reward model's weights needs a model, too."""
    scripted = Scripted(red)
    scripted.model = RewardModel.load(folder / "reward").model
    return scripted


def test_the_candidates_that_ship_can_be_made():
    params = load_params(ROOT)
    for name, candidate in params.candidates.items():
        values = candidate_params(params, name)
        if candidate["method"] in METHODS:
            require_usable(candidate["method"], values)
    assert {candidate["method"] for candidate in params.candidates.values()} >= METHODS.keys()
