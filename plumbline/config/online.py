"""What the online methods ask of their parameters.

It needs no torch, so that values which contradict each other are found before a run, and not by the training,
hours into it.
"""

from plumbline.config.blocks import PpoParams
from plumbline.config.methods import NlpoParams
from plumbline.errors import UserError

WITH_CRITIC = frozenset({"ppo", "a2c", "nlpo", "trpo"})
COMPARING_ANSWERS = frozenset({"rloo", "grpo"})
"""The methods that compare an answer with others to its prompt."""


def require_usable(method: str, params: PpoParams, ranks: int = 1, block: str = "ppo") -> None:
    """Raise UserError for values that contradict the online method, each other, or the number of processes.

    `block` says where the values stand in params.yaml.
    """
    if params.minibatches > params.batch_size:
        raise UserError(f"{block}.minibatches = {params.minibatches} leaves some without a response: "
                        f"{block}.batch_size is {params.batch_size}. Lower the one or raise the other.")
    if params.batch_size // params.minibatches < ranks:
        raise UserError(f"{block}.batch_size = {params.batch_size} in {block}.minibatches = "
                        f"{params.minibatches} leaves some of {ranks} processes without a response. Raise "
                        "the one, or lower the other or the number of processes.")
    if params.batch_size % params.answers_per_prompt:
        raise UserError(f"{block}.batch_size = {params.batch_size} responses cannot be divided into groups "
                        f"of {block}.answers_per_prompt = {params.answers_per_prompt}. Change either.")
    if params.kl_target is not None and params.kl_coef == 0:
        raise UserError(f"{block}.kl_target steers the weight of the KL by factors, which never move it from "
                        f"{block}.kl_coef = 0. Set that to 0.05, say, or {block}.kl_target to null.")
    if params.kl_in == "loss" and params.kl_estimator == "k1":
        raise UserError(f"{block}.kl_in: loss needs an estimator whose gradient is a KL's, which k1's is "
                        f"not: its mean is 0. Set {block}.kl_estimator to k2 or k3.")
    if method in WITH_CRITIC and params.critic == "shared" and params.trainable == "all":
        raise UserError(f"{block}.critic: shared needs weights that the policy does not change, but "
                        f"{block}.trainable is all. Set {block}.trainable to top or lora, or {block}.critic "
                        "to separate.")
    if method in COMPARING_ANSWERS and params.answers_per_prompt == 1:
        raise UserError(f"{method} compares the answers to one prompt, so {block}.answers_per_prompt must "
                        "be at least 2; found 1. Set it to 4, say.")
    if method == "a2c" and params.epochs > 1:
        raise UserError("a2c may look at each batch once only, because its loss ignores how far the policy "
                        f"has moved, but {block}.epochs is {params.epochs}. Set it to 1.")
    if method == "trpo" and params.ptx_coef:
        raise UserError("trpo makes one step on its own objective, to which nothing can be added. Set "
                        f"{block}.ptx_coef to 0.")
    if method == "trpo" and params.kl_in == "loss":
        raise UserError("trpo makes one step on its own objective, to which no KL can be added, so with "
                        f"{block}.kl_in: loss nothing would hold it near SFT. Set {block}.kl_in to reward.")
    if method == "trpo" and ranks > 1:
        raise UserError("trpo makes its step on all weights at once, which none of several processes has, "
                        f"and here are {ranks}. Give this stage one process, or choose another method.")
    if isinstance(params, NlpoParams) and params.engine != "own":
        raise UserError("nlpo samples what an older policy finds likely, which no server does. Set "
                        f"{block}.engine to own.")
