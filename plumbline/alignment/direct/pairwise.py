"""Learning from pairs of answers: dpo, ipo, kto, simpo and orpo.

    loss of a batch = mean over its elements of (mean over the element's pairs of the loss in losses.py)

Of KTO, too, ties are left out: an answer is either desirable or not. In a ranking an answer in the middle is
desirable beside those below it, and undesirable beside those above.

KTO's zero is the KL of the policy to the reference, estimated by answers that do not belong to their prompts,
as in the paper (section 4.2): each element's answers go with the prompt of another one, always the same, so
that the reference looks at them only once. It is a mean over the batch, however that is divided.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from plumbline.alignment.direct import losses
from plumbline.alignment.direct.decided import DecidedPreference, summed_log_probs
from plumbline.alignment.tokenized import passes
from plumbline.config import DirectParams
from plumbline.config.methods import DpoParams, IpoParams, KtoParams, OrpoParams, SimpoParams
from plumbline.lm.ranks.sharding import fill, sharded
from plumbline.lm.ranks.world import world

Sums = dict[str, float]
"""Over the micro-batches of a batch: `loss` of its elements, `pairs`, and figures of the pairs."""


class Pairwise:
    """A policy that learns from decided pairs by one of the losses."""

    def __init__(self, policy: PreTrainedModel, params: DirectParams) -> None:
        self.policy = policy.eval()  # no dropout, so that the log-ratio of SFT to itself is 0
        self.module = sharded(policy)
        self.params = params

    def accumulate(self, batch: Sequence[DecidedPreference]) -> dict[str, float]:
        """Add the gradient of the batch's mean loss, however it is split. Return the batch's figures."""
        kl, sums = self._kl(batch), defaultdict[str, float](float)
        for part, weight in passes(batch, self.params.micro_batch_size):
            loss = self._loss_sum(part, kl, sums if weight else sums.copy())
            (weight * loss / len(batch)).backward()
        figures = _means(world().summed(sums), len(batch))
        return figures | ({"kl": kl} if isinstance(self.params, KtoParams) else {})

    @torch.no_grad()
    def evaluate(self, elements: Sequence[DecidedPreference]) -> dict[str, float]:
        """Return mean `loss` of an element, and means over pairs.

        `accuracy`: the better response's implicit reward is the larger, equal ones half; `margin`: by how
        much; `better_log_ratio` and `worse_log_ratio`: of the policy to the reference, in nats a response;
        `better_length`: tokens of the better response.
        """
        kl, sums = self._kl(elements), defaultdict[str, float](float)
        for part, weight in passes(elements, self.params.micro_batch_size):
            self._loss_sum(part, kl, sums if weight else sums.copy())
        return _means(world().summed(sums), len(elements))

    def stepped(self) -> None:
        """Do nothing: the policy is all there is to update."""

    def finish(self) -> None:
        """Give the policy what has been learnt."""
        fill(self.policy, self.module)

    @torch.no_grad()
    def _kl(self, batch: Sequence[DecidedPreference]) -> float:
        """Return KTO's estimate of the KL, in nats a response, which is never negative; 0 for the others."""
        if not isinstance(self.params, KtoParams):
            return 0.0
        sums = {"total": 0.0, "answers": 0.0}
        for part, weight in passes(batch, self.params.micro_batch_size):
            policy_N = summed_log_probs(self.module, [one.mismatched for one in part], self.params)
            reference_N = policy_N.new_tensor([value for one in part for value in one.other_reference])
            sums["total"] += weight * float((policy_N - reference_N).sum())
            sums["answers"] += weight * len(policy_N)
        sums = world().summed(sums)
        return max(0.0, sums["total"] / sums["answers"])

    def _loss_sum(self, part: Sequence[DecidedPreference], kl: float, sums: Sums) -> torch.Tensor:
        """Return the sum of the losses of a micro-batch, with its graph. Adds its figures to `sums`."""
        policy_N = summed_log_probs(self.module, part, self.params)
        reference = [value for one in part for value in one.reference]
        reference_N = policy_N.new_tensor(reference) if reference else torch.zeros_like(policy_N)
        tokens_N = policy_N.new_tensor([len(response) for one in part for response in one.responses])
        better, worse, weights, start = [], [], [], 0
        for one in part:
            for above, below in one.places():
                better.append(start + above)
                worse.append(start + below)
                weights.append(1 / len(one.pairs))
            start += len(one.responses)

        loss_P = self._losses(policy_N, reference_N, tokens_N, better, worse, kl)
        loss = (loss_P * loss_P.new_tensor(weights)).sum()
        reward_N = self._implicit_rewards(policy_N.detach(), reference_N, tokens_N)
        margin_P = reward_N[better] - reward_N[worse]
        sums["loss"] += float(loss.detach())
        sums["pairs"] += len(better)
        sums["accuracy"] += float(torch.where(margin_P == 0, 0.5, (margin_P > 0).float()).sum())
        sums["margin"] += float(margin_P.sum())
        if reference:
            ratio_N = policy_N.detach() - reference_N
            sums["better_log_ratio"] += float(ratio_N[better].sum())
            sums["worse_log_ratio"] += float(ratio_N[worse].sum())
            sums["better_length"] += float(tokens_N[better].sum())
        return loss

    def _losses(
        self, policy_N: torch.Tensor, reference_N: torch.Tensor, tokens_N: torch.Tensor, better: list[int],
        worse: list[int], kl: float,
    ) -> torch.Tensor:
        """Return the loss [P] of each pair of places."""
        ratio_N = policy_N - reference_N
        lengths = tokens_N[better], tokens_N[worse]
        match self.params:
            case DpoParams(beta=beta, label_smoothing=smoothing):
                return losses.dpo(ratio_N[better], ratio_N[worse], beta, smoothing)
            case IpoParams(beta=beta):
                return losses.ipo(ratio_N[better], ratio_N[worse], *lengths, beta)
            case KtoParams(beta=beta, desirable_weight=desirable, undesirable_weight=undesirable):
                return losses.kto(ratio_N[better], ratio_N[worse], kl, beta, desirable, undesirable)
            case SimpoParams(beta=beta, target_margin=margin):
                return losses.simpo(policy_N[better], policy_N[worse], *lengths, beta, margin)
            case OrpoParams(odds_ratio_weight=weight):
                return losses.orpo(policy_N[better], policy_N[worse], *lengths, weight)
        raise TypeError(f"{type(self.params).__name__} has no loss of pairs")

    def _implicit_rewards(
        self, policy_N: torch.Tensor, reference_N: torch.Tensor, tokens_N: torch.Tensor
    ) -> torch.Tensor:
        """Return what the loss compares, r(answer) in losses.py, of each response [N]."""
        match self.params:
            case DpoParams(beta=beta) | KtoParams(beta=beta):
                return beta * (policy_N - reference_N)
            case IpoParams():
                return (policy_N - reference_N) / tokens_N
            case SimpoParams(beta=beta):
                return beta * policy_N / tokens_N
        return losses.log_odds(policy_N / tokens_N)


def _means(sums: Sums, elements: int) -> dict[str, float]:
    """Return the mean loss of an element, and the other figures' means over the pairs."""
    return {name: value / (elements if name == "loss" else sums["pairs"])
            for name, value in sums.items() if name != "pairs"}
