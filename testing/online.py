"""Online training of tiny models, with policy and critic made as the stage makes them."""

from dataclasses import dataclass, field

from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.online.loop import train_online
from plumbline.alignment.online.policies import make_policy
from plumbline.alignment.online.validation import Validation
from plumbline.alignment.sequences import log_probs_by
from plumbline.config.methods import METHODS
from plumbline.lm.chat import stop_tokens
from plumbline.lm.engines.own import OwnEngine
from testing.tiny_models import copy_of, ppo_params

OWN = {"grpo": {"scale_by_deviation": True}, "nlpo": {"mask_top_p": 0.9, "mask_every": 4},
       "trpo": {"trust_region": 0.02, "conjugate_gradients": 10, "damping": 0.01}}


def online_params(method, **changed):
    """The parameters of an online method, for tiny models."""
    return METHODS[method][1](**{**ppo_params().model_dump(), **OWN.get(method, {}), **changed})


@dataclass
class Scripted:
    """In place of a reward model: the share of `wanted` among the tokens, and a record of what it was asked."""

    wanted: int
    std: float = 1.0
    asked: list[list[int]] = field(default_factory=list)

    def score_sampled(self, prompts, responses, missing_stop_deviations):
        rows = [p + response.ids for p, response in zip(prompts, responses, strict=True)]
        self.asked += rows
        return [self.score(row) if response.stopped else -missing_stop_deviations * self.std
                for row, response in zip(rows, responses, strict=True)]

    def score(self, row):
        return row.count(self.wanted) / 3

    def sharded(self):
        return self


def policy_of(model, reference, params=None, seed=0):
    """The policy `model`, held near `reference`."""
    return make_policy(model, lambda: reference, params or ppo_params(), seed)


def own_engine(lm):
    """Our own sampler, as the stage makes it."""
    return OwnEngine(stop_tokens(lm.tokenizer, lm.model))


@dataclass
class RecordedEngine:
    """An engine, and a record of prompts and responses; the model `instead` answers in place of any other."""

    engine: OwnEngine
    instead: object = None
    sampled: list = field(default_factory=list)

    def sample(self, model, prompts, uniform_BR, temperature, batch_size=None):
        found = self.engine.sample(self.instead or model, prompts, uniform_BR, temperature, batch_size)
        self.sampled += zip(prompts, found, strict=True)
        return found


def response_log_probs(model, sequences, temperature, precision):
    """Of a whole model."""
    return log_probs_by(model.base_model, model.get_output_embeddings(), sequences, temperature, precision)


def prepared(lm, reward, judge, prompts, params, seed):
    """A validation against the answers of `lm`."""
    policy = policy_of(lm.model, copy_of(lm).model, params)
    return Validation.prepare(lm, policy, own_engine(lm), reward, judge, prompts, params, seed)


def train_policy(lm, reference, value, reward, prompts, params, seed, report, folder, validation=None, method="ppo",
                 demonstrations=(), engine=None):
    """Train `lm` in place, held near `reference`; `value` becomes the critic."""
    policy = policy_of(lm.model, reference, params, seed)
    critic, reward = make_critic(method, policy, reward, lambda: value, params)
    return train_online(method, lm, policy, critic, reward, engine or own_engine(lm), prompts, params, seed,
                        report, folder, validation, demonstrations)
