"""Implicit language Q-learning (Snell et al. 2022, arXiv 2206.11871): what each token is worth.

Three kinds of heads learn on the policy's last hidden states, with the policy below them: two heads of action
values Q, one value for each token of the vocabulary, and one of state values V. One token is one action.

    target     = reward + gamma * V(next state), 0 after the last token
    Q loss     = (Q1 - target)^2 + (Q2 - target)^2, at the token that was taken
    V loss     = expectile loss of min(Q1', Q2') - V: V learns the value of the better tokens  (equation 4)
    CQL loss   = cross-entropy of softmax(Q1) and of softmax(Q2) with the tokens taken: unseen ones stay low
    likelihood = cross-entropy of the policy with the tokens taken
    loss       = mean over tokens of Q + V + conservatism * CQL + likelihood_weight * likelihood

Q' are target heads, which follow Q slowly. Afterwards the policy is steered by the values (section 4.3):

    p(token) ~ policy(token) * exp(steering * (Q'(token) - V))

V is the same for all tokens of a state and drops out. Q' is linear in the hidden state, as the policy's
logits are, so that the steering becomes part of the output layer: `finish` folds it in, and the result is
saved and sampled as any language model. The paper steers by the smaller of the two Q'; a minimum is not
linear, so their mean is taken.

A preference says which answer is better, not by how much and not at which token. So the last token of the
better answer gets the reward +1, that of the worse -1, and every other token 0: what the others are worth, Q
learns from the states that follow. An answer of a ranking gets the mean over its pairs, and each answer is
one sequence of actions, however many pairs it is in; ties are left out.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from plumbline.alignment.direct import losses
from plumbline.alignment.direct.decided import DecidedPreference
from plumbline.alignment.sequences import join
from plumbline.alignment.tokenized import passes
from plumbline.config.methods import IlqlParams
from plumbline.errors import UserError
from plumbline.lm.hidden import hidden_states
from plumbline.lm.optim import autocast
from plumbline.lm.ranks.sharding import fill, inside, sharded
from plumbline.lm.ranks.world import world

INITIAL_STD = 0.002
"""Of the weights of Q, which must differ, or both heads would learn the same. It is small, because what they
say of tokens that nobody took steers, too. V begins at 0."""


class ActionValues(torch.nn.Module):
    """A policy with its heads: two of Q, two that follow them, and V."""

    def __init__(self, policy: PreTrainedModel, seed: int) -> None:
        super().__init__()
        self.policy = policy
        self.value = torch.nn.Linear(policy.get_output_embeddings().in_features, 1)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)
        generator = torch.Generator().manual_seed(seed)
        shape = policy.get_output_embeddings().weight.shape
        fresh = [torch.randn(shape, generator=generator) * INITIAL_STD for _ in range(2)]
        self.q = torch.nn.ParameterList(torch.nn.Parameter(weight) for weight in fresh)
        self.target = torch.nn.ParameterList(
            torch.nn.Parameter(weight.clone(), requires_grad=False) for weight in fresh)
        self.to(policy.device)


class Ilql:
    """A policy that learns the values of tokens beside their likelihood."""

    def __init__(self, policy: PreTrainedModel, params: IlqlParams, seed: int) -> None:
        """Put heads on the policy. Raises UserError if its output layer is not all there is above them."""
        _require_linear_output(policy)
        self.whole = ActionValues(policy.eval(), seed)
        self.module = sharded(self.whole)
        self.params = params

    def accumulate(self, batch: Sequence[DecidedPreference]) -> dict[str, float]:
        """Add the gradient of the batch's mean loss a token, however it is split. Return the figures."""
        tokens, sums = _tokens(batch), defaultdict[str, float](float)
        for part, weight in passes(batch, self.params.micro_batch_size):
            loss = self._loss_sum(part, sums if weight else sums.copy())
            (weight * loss / tokens).backward()
        return _means(world().summed(sums), tokens)

    @torch.no_grad()
    def evaluate(self, elements: Sequence[DecidedPreference]) -> dict[str, float]:
        """Return the losses, means over tokens, and of the pairs `accuracy` and `margin`.

        These compare what Q says of the answers' last tokens: how often the better answer's is larger, equal
        ones half, and by how much.
        """
        sums = defaultdict[str, float](float)
        for part, weight in passes(elements, self.params.micro_batch_size):
            self._loss_sum(part, sums if weight else sums.copy())
        return _means(world().summed(sums), _tokens(elements))

    @torch.no_grad()
    def stepped(self) -> None:
        """Move the target heads towards Q (Polyak averaging)."""
        for target, q in zip(self.module.target, self.module.q, strict=True):
            target.lerp_(q, self.params.target_rate)

    @torch.no_grad()
    def finish(self) -> None:
        """Fold the steering into an output layer of the policy's own, shared with no embedding."""
        target_VD = inside(self.module, lambda: torch.stack(list(self.module.target)).mean(0))
        fill(self.whole, self.module)
        policy = self.whole.policy
        old = policy.get_output_embeddings()
        folded = torch.nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        folded.weight.copy_(old.weight + self.params.steering * target_VD)
        if old.bias is not None:
            folded.bias.copy_(old.bias)
        policy.set_output_embeddings(folded.to(old.weight.device))
        for config in (policy.config, policy.config.get_text_config()):  # a multi-modal model has two
            config.tie_word_embeddings = False

    def _loss_sum(self, part: Sequence[DecidedPreference], sums: dict[str, float]) -> torch.Tensor:
        """Return the sum of the losses over the tokens of a micro-batch, with its graph. Adds to `sums`."""
        return inside(self.module, lambda: self._whole_loss_sum(part, sums))

    def _whole_loss_sum(self, part: Sequence[DecidedPreference], sums: dict[str, float]) -> torch.Tensor:
        params, module = self.params, self.module
        sequences = join([one.prompt for one in part for _ in one.responses],
                         [response for one in part for response in one.responses], module.policy.device)
        reward_B = torch.tensor([reward for one in part for reward in rewards(one)])
        mask_BR, taken_N = sequences.mask_BR.bool(), sequences.response_BR[sequences.mask_BR.bool()]
        with autocast(params.precision):
            hidden_BTD = hidden_states(module.policy.base_model, sequences.ids_BT, sequences.mask_BT)
            # A token is chosen in the state of the token before it.
            state_BRD = hidden_BTD[:, -mask_BR.shape[1] - 1 : -1]
            logits_NV = module.policy.get_output_embeddings()(state_BRD[mask_BR])

        value_BR, state_ND = module.value(state_BRD.float())[..., 0], state_BRD[mask_BR].float()
        last_BR = mask_BR & ~torch.nn.functional.pad(mask_BR[:, 1:], (0, 1))
        next_BR = torch.nn.functional.pad(value_BR[:, 1:], (0, 1)).masked_fill(last_BR, 0.0)
        reward_BR = torch.where(last_BR, reward_B.to(value_BR)[:, None], 0.0)
        q_NV = [state_ND @ weight.T for weight in module.q]
        q_N = [one.gather(1, taken_N[:, None])[:, 0] for one in q_NV]
        with torch.no_grad():
            target_N = torch.stack([(state_ND * weight[taken_N]).sum(-1) for weight in module.target])
        totals = {
            "q_loss": losses.bellman(q_N, reward_BR[mask_BR], next_BR[mask_BR], params.gamma).sum(),
            "value_loss": losses.expectile(target_N.amin(0), value_BR[mask_BR], params.expectile).sum(),
            "cql_loss": sum((cross_entropy(one, taken_N, reduction="sum") for one in q_NV),
                            start=q_NV[0].new_zeros(())),
            "likelihood_loss": cross_entropy(logits_NV.float(), taken_N, reduction="sum")}
        loss = (totals["q_loss"] + totals["value_loss"] + params.conservatism * totals["cql_loss"]
                + params.likelihood_weight * totals["likelihood_loss"])
        for name, total in (("loss", loss), *totals.items()):
            sums[name] += float(total.detach())
        _add_pairs(part, (q_N[0].detach() + q_N[1].detach())[last_BR[mask_BR]] / 2, sums)
        return loss


def rewards(element: DecidedPreference) -> list[float]:
    """Return the reward of each response: the mean over its pairs of +1 where better, -1 where worse."""
    found: list[list[float]] = [[] for _ in element.responses]
    for better, worse in element.places():
        found[better].append(1.0)
        found[worse].append(-1.0)
    return [sum(of_one) / max(1, len(of_one)) for of_one in found]


def _add_pairs(part: Sequence[DecidedPreference], last_B: torch.Tensor, sums: dict[str, float]) -> None:
    """Add the figures of the pairs to `sums`, from what Q says of each response's last token."""
    start = 0
    for one in part:
        for better, worse in one.places():
            margin = float(last_B[start + better] - last_B[start + worse])
            sums["accuracy"] += 0.5 if margin == 0 else float(margin > 0)
            sums["margin"] += margin
            sums["pairs"] += 1
        start += len(one.responses)


def _means(sums: dict[str, float], tokens: int) -> dict[str, float]:
    """Return the means of the losses over the tokens, and of the other figures over the pairs."""
    return {name: value / (tokens if name.endswith("loss") else sums["pairs"])
            for name, value in sums.items() if name != "pairs"}


def _tokens(elements: Sequence[DecidedPreference]) -> int:
    return sum(len(response) for one in elements for response in one.responses)


@torch.no_grad()
def _require_linear_output(policy: PreTrainedModel) -> None:
    """Raise UserError unless the logits are what the output layer gives of the last hidden states."""
    ids = torch.arange(4, device=policy.device)[None]
    hidden_BTD = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.allclose(policy.get_output_embeddings()(hidden_BTD),
                          policy(input_ids=ids, use_cache=False).logits, rtol=1e-3, atol=1e-3):
        raise UserError("ILQL becomes part of the output layer, but in a model of type "
                        f"{policy.config.model_type} the logits are not what that layer gives. Choose "
                        "another method, or another base model.")
