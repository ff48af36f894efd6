"""Online training of tiny models, with policy and critic made as the stage makes them."""

from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.online.loop import train_online
from plumbline.alignment.online.policies import make_policy
from plumbline.alignment.online.validation import Validation
from testing.tiny_models import ppo_params


def policy_of(model, reference, params=None):
    """The policy `model`, held near `reference`."""
    return make_policy(model, lambda: reference, params or ppo_params())


def prepared(lm, reward, judge, prompts, params, seed):
    """A validation against the answers of `lm`."""
    return Validation.prepare(lm, policy_of(lm.model, lm.model, params), reward, judge, prompts, params, seed)


def train_policy(lm, reference, value, reward, prompts, params, seed, report, folder, validation=None, method="ppo"):
    """Train `lm` in place, held near `reference`; `value` becomes the critic."""
    policy = policy_of(lm.model, reference, params)
    critic, reward = make_critic(policy, reward, lambda: value, params)
    return train_online(method, lm, policy, critic, reward, prompts, params, seed, report, folder, validation)
