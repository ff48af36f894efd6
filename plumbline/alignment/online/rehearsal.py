"""PPO-ptx: demonstrations are learnt beside, so that the policy forgets less of them (Ouyang et al. 2022,
arXiv 2203.02155, equation 2, where they are texts of pretraining).
"""

from collections.abc import Sequence

import torch

from plumbline.alignment.online.learner import Learner, Metrics
from plumbline.alignment.packing import PackedRow, pack
from plumbline.alignment.sft import encode, loss_sum, passes, targets
from plumbline.config import PpoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.ranks.world import world
from plumbline.preferences.types import Demonstration


def rehearsed(
    lm: LanguageModel, demonstrations: Sequence[Demonstration], params: PpoParams
) -> tuple[list[PackedRow], Metrics]:
    """Return the demonstrations as rows, and how many did not fit or were cut; none without `ptx_coef`.

    Raises UserError if some are wanted and there is none that fits.
    """
    if params.ptx_coef == 0:
        return [], {}
    encoded = encode(lm, demonstrations, params.max_prompt + params.max_response)
    if not encoded:
        raise UserError(f"ppo.ptx_coef = {params.ptx_coef} wants demonstrations to learn beside, but none of "
                        f"{len(demonstrations)} has a prompt that fits ppo.max_prompt + ppo.max_response. "
                        "Add some, or set it to 0.")
    counts: Metrics = {"ptx_dropped_too_long": len(demonstrations) - len(encoded),
                       "ptx_cut": sum(one.cut for one in encoded)}
    return pack(encoded, None), counts


def rehearse(learner: Learner, rows: Sequence[PackedRow], count: int, params: PpoParams) -> float:
    """Add the gradient of the mean loss of `count` random rows, weighted by `ptx_coef`.

    Returns the loss in nats a token.
    """
    drawn = torch.randint(len(rows), (count,), generator=learner.generator).tolist()
    chosen = sorted((rows[i] for i in drawn), key=lambda row: len(row.ids))
    tokens, mean = targets(chosen), 0.0
    for part, weight in passes(chosen, params.micro_batch_size):
        loss = weight * loss_sum(learner.policy.model, part, params.precision) / tokens
        (params.ptx_coef * loss).backward()
        mean += float(loss.detach())
    return world().summed({"loss": mean})["loss"]
