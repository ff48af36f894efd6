"""Short trainings of tiny models, each made anew from seeds, as every process of a run makes them."""

from functools import cache, partial

import torch

from plumbline.alignment.direct.rejection import train_rejection
from plumbline.alignment.direct.training import train_direct
from plumbline.alignment.online.rewards import make_rewards
from plumbline.alignment.reward import RewardModel
from plumbline.alignment.reward_training import answers_to_centre_on, centre, train_reward_model
from plumbline.alignment.sft import train_sft
from plumbline.config.methods import RejectionParams
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.encoder_decoder import TEMPLATE, CausalT5, as_causal
from plumbline.lm.ranks.world import world
from testing.online import RecordedEngine, online_params, own_engine, prepared, train_policy
from testing.tiny_models import (
    PROMPTS,
    copy_of,
    demonstrations,
    direct_params,
    ppo_params,
    prefers_red,
    reward_params,
    sft_params,
    silent,
    small_model,
    small_t5,
    small_tokenizer,
)

EVERY = 2
"""Steps between checkpoints."""


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def language_model(**config):
    tokenizer = small_tokenizer()
    return LanguageModel(small_model(tokenizer, **config), tokenizer)


@cache
def _t5():
    made, tokenizer = small_t5()
    tokenizer.chat_template = TEMPLATE
    lm = LanguageModel(CausalT5(as_causal(made.config)).eval(), tokenizer)
    lm.model.load_state_dict(made.state_dict())
    return lm


def t5():
    """An encoder-decoder, whose body is no part of the model."""
    return copy_of(_t5())


@cache
def _taught():
    lm, demonstrated = language_model(), demonstrations(32)
    rows = [encode_prompt(lm.tokenizer, one.prompt) + encode_response(lm.tokenizer, one.response)
            for one in demonstrated]
    optimizer = torch.optim.Adam(lm.model.parameters(), 5e-3)
    for row in rows:
        ids = torch.tensor([row])
        lm.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return lm


def taught():
    """A model whose answers often end, made by each process alone."""
    return copy_of(_taught())


def sft(report, folder):
    """Batches of 5 rows, those over from an epoch with the next: of two ranks one has 3, the other 2."""
    lm = language_model()
    params = sft_params(epochs=2, batch_size=5, micro_batch_size=2, max_length=24, checkpoint_every=EVERY)
    return train_sft(lm, demonstrations(42), demonstrations(7, seed=2), params, 0, report, folder), lm.model


def fresh_reward_model(folder, made=None, seed=0):
    """With a head of its own, on a body as `made` has it."""
    (made or taught)().save(folder / "start")
    reward = RewardModel.from_policy(folder / "start", 64, seed)
    world().together(lambda: None)  # nobody writes the folder anew while another rank still reads it
    return reward


def reward_model(report, folder, **changed):
    """Batches of 5 comparisons; the last of an epoch has one. It is centred on answers that were there before."""
    answers = answers_to_centre_on(taught(), PROMPTS, ppo_params(), 17, seed=0)
    reward = fresh_reward_model(folder)
    params = reward_params(epochs=2, batch_size=5, micro_batch_size=2, learning_rate=1e-3, checkpoint_every=EVERY,
                           **changed)
    metrics = train_reward_model(reward, prefers_red(16), prefers_red(7, seed=1), params, 0, report, folder)
    return metrics | centre(reward, answers), reward.model


def direct(method, report, folder):
    """By pairs, in batches of 5; the last of an epoch has one."""
    lm = taught()
    params = direct_params(method, epochs=2, batch_size=5, micro_batch_size=2, checkpoint_every=EVERY)
    found = train_direct(lm, lm.model, prefers_red(16), prefers_red(7, seed=1), method, params, 0, report, folder)
    return found, lm.model


def rejection(report, folder):
    """On answers to each of the prompts, several times over, which are sampled before the first step."""
    lm = taught()
    params = RejectionParams(**sft_params(
        epochs=3, batch_size=5, micro_batch_size=2, max_length=24, learning_rate=1e-3,
        checkpoint_every=EVERY).model_dump(), samples=8, prompts=12, temperature=1.0, max_response=6, engine="own",
        rewards={"reward": 1.0}, combine="sum", length_penalty=0.1, length_free=2, repetition_penalty=0.0)
    reward = make_rewards(fresh_reward_model(folder), lm, PROMPTS, params, folder, "fp32", [])
    metrics = train_rejection(lm, lambda: reward, own_engine(lm), PROMPTS * 3, demonstrations(7, seed=2), params, 0,
                              report, folder)
    return metrics, lm.model


def online(method, report, folder, judged=False, made=taught, **changed):
    """Minibatches of 5 responses in micro-batches of 2: of two ranks one has 3, the other 2, in 2 passes or 1."""
    lm, reward = made(), fresh_reward_model(folder, made)
    torch.manual_seed(100 + world().rank)  # nothing may be drawn from what a process happens to start with
    judge = RewardModel.from_policy(folder / "start", 64, seed=1).sharded() if judged else None
    params = online_params(method, updates=4, batch_size=10, micro_batch_size=2, minibatches=2, epochs=2,
                           value_warmup=1, evaluate_every=2, checkpoint_every=EVERY, **changed)
    validation = prepared(made(), fresh_reward_model(folder, made), judge, PROMPTS, params, 0)
    metrics = train_policy(lm, made().model, fresh_reward_model(folder, made).model, reward, PROMPTS, params, 0, report,
                           folder, validation, method, demonstrations(8))
    return metrics, lm.model


def sampled(folder):
    """Return the prompts and responses of a PPO training that were sampled here, in batches of 10."""
    lm = taught()
    params = online_params("ppo", updates=4, batch_size=10, micro_batch_size=2, value_warmup=0, learning_rate=1e-2)
    engine = RecordedEngine(own_engine(lm))
    train_policy(lm, taught().model, fresh_reward_model(folder).model, fresh_reward_model(folder), PROMPTS, params, 0,
                 silent, folder, engine=engine)
    return [(prompt, response.ids) for prompt, response in engine.sampled]


TRAININGS = {
    "sft": sft, "reward model": reward_model, "reward model, top layers": partial(reward_model, top_layers=1),
    "dpo": partial(direct, "dpo"), "kto": partial(direct, "kto"), "ilql": partial(direct, "ilql"),
    "rejection": rejection,
    "ppo": partial(online, "ppo", ptx_coef=0.1), "rloo": partial(online, "rloo", answers_per_prompt=2),
    "ppo, top layers": partial(online, "ppo", trainable="top", critic="shared"),
    "ppo, encoder-decoder": partial(online, "ppo", made=t5),
    "ppo, adapters": partial(online, "ppo", trainable="lora", critic="shared"),
    "nlpo": partial(online, "nlpo", judged=True, mask_every=1)}

RESUMED = ("sft", "rejection", "ppo")
"""Those that are killed and resumed, too: the others keep their state by the same code."""


def run(name, folder, killed_after=None):
    """Return the figures reported, the metrics and the weights; the latter two None if it is killed after a step."""
    reports = []

    def report(step, total, metrics=None, what=""):
        if metrics is not None:  # as of answers that are sampled before the first step
            reports.append((what, step, metrics))
        if step == killed_after and not what:
            raise Killed

    try:
        metrics, model = TRAININGS[name](report, folder)
    except Killed:
        return reports, None, None
    return reports, metrics, {key: weight.clone() for key, weight in model.state_dict().items()}
