"""Train a reward model on comparisons and rankings, which are sets of K responses to one prompt.

All K(K-1)/2 pairs of a ranking are one element of a batch and share its weight (Ouyang et al. 2022, arXiv
2203.02155, equation 1): shuffled apart, each response would pass K-1 times an epoch and the model overfits.

    loss of an element = mean over its pairs of -log sigmoid(r_better - r_worse - margin)

which for K = 2 is the Bradley-Terry loss (Christiano et al. 2017, arXiv 1706.03741, equation 1), computed as
softplus so that it stays finite. A tie counts as half a win for each side. Nothing is cut to fit: a stop
token after half an answer would teach that an answer may end there, so what does not fit is dropped and
counted, and so are pairs of the same tokens, which teach nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch.nn.functional import softplus

from plumbline.alignment.reward import RewardModel, last_scores
from plumbline.config import PpoParams, RewardModelParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.optim import ReportStep, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.sampling import sample_all
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Comparison, Preference, Prompt, label_of

STRETCH = 8
"""Batches that are sorted by length together."""
CENTERING_BATCH = 64
"""Answers that are sampled together."""
SUMS = ("loss", "right", "decided")
"""Sums over micro-batches: the elements' losses, the pairs that were right, the pairs that are no ties."""
FIRST_WINS = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class TokenizedPair:
    """Two conversations of an element, by their places, and how often the first wins: 1, 0, or 0.5 for a
    tie."""

    first: int
    second: int
    first_wins: float
    strength: float
    """From 0 to 1; the margin is this times `reward_model.margin_scale`."""


@dataclass(frozen=True)
class TokenizedPreference:
    """K conversations as ids, which differ in the response alone, and the pairs that were judged of them."""

    rows: list[list[int]]
    pairs: list[TokenizedPair]
    best_first: list[int] | None
    """The places of all conversations in order; None if two of them are equally good or the same."""


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preferences as ids, and the pairs that are left out."""

    elements: list[TokenizedPreference]
    too_long: int
    """Pairs of which a side does not fit `max_length`."""
    identical: int
    """Pairs whose sides are the same tokens."""

    @property
    def pairs(self) -> int:
        """Return the number of pairs that are learnt from."""
        return sum(len(element.pairs) for element in self.elements)


def train_reward_model(
    reward: RewardModel, train: Sequence[Preference], validation: Sequence[Preference],
    params: RewardModelParams, seed: int, report: ReportStep,
) -> dict[str, float]:
    """Train `reward` in place.

    Returns validation loss (nats a comparison, without margin and smoothing) and accuracy, the steps, and the
    pairs used and dropped; the accuracy is left out if every validation pair is a tie. Raises UserError if no
    pair is left to learn from, and if the training diverges.
    """
    torch.manual_seed(seed)
    taught, held = encode(reward, train), encode(reward, validation)
    if not taught.elements:
        raise UserError(f"None of the pairs in {len(train)} comparisons and rankings can be learnt from: of "
                        f"{taught.too_long} a side is longer than reward_model.max_length = "
                        f"{params.max_length} tokens, and {taught.identical} have two equal sides. Raise "
                        "reward_model.max_length, or add shorter responses.")
    metrics: dict[str, float] = {"pairs": taught.pairs, "dropped_too_long": taught.too_long,
                                 "dropped_identical": taught.identical}
    if moved := rearranged(reward.tokenizer, [row.prompt for row in train]):
        metrics["system_before_user"] = moved

    model = reward.model.eval()  # no dropout: a reward model compares, and noise on either side only blurs it
    optimizer = adamw(model.parameters(), params.learning_rate)
    batches_an_epoch = -(-len(taught.elements) // params.batch_size)
    steps = max(1, round(params.epochs * batches_an_epoch))
    generator = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    for step in range(steps):
        # A new epoch: shuffle again.
        batches = batches or shuffled_batches(taught.elements, params.batch_size, generator)
        batch = [taught.elements[i] for i in batches.pop()]
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        measured = accumulate_gradient(reward, batch, params)
        measured["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        require_finite(measured, "reward_model", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps, measured)

    if held.elements:
        found = evaluate(reward, held.elements, params)
        metrics |= {f"validation_{name}": value for name, value in found.items()}
        require_finite(metrics, "reward_model", "the end")
    return metrics | {"steps": steps}


def centre(
    reward: RewardModel, sft: LanguageModel, prompts: Sequence[Prompt], answering: PpoParams, samples: int,
    seed: int,
) -> dict[str, float]:
    """Centre `reward` on `samples` answers of `sft`, to random prompts, sampled as PPO will sample.

    If the prompts are fewer, each is asked again. Only answers that end count: PPO gives the others no score.
    Returns `offset`, `std`, and the answers that were finished. Raises UserError if no prompt fits
    `ppo.max_prompt`, and if too few answers end.
    """
    generator = torch.Generator().manual_seed(seed)
    encoded = [ids for prompt in prompts
               if len(ids := encode_prompt(sft.tokenizer, prompt)) <= answering.max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {answering.max_prompt} "
                        "tokens. Raise it.")
    order = torch.randperm(len(encoded), generator=generator).tolist()
    asked = [encoded[order[i % len(order)]] for i in range(samples)]
    answers = sample_all(sft.model, asked, max_response=answering.max_response,
                         stop=stop_tokens(sft.tokenizer, sft.model), temperature=answering.temperature,
                         generator=generator, batch_size=CENTERING_BATCH)
    finished = [prompt + answer.ids for prompt, answer in zip(asked, answers, strict=True) if answer.stopped]
    reward.centre(finished)
    return {"offset": reward.model.config.reward_offset, "std": reward.std,
            "centering_finished": len(finished)}


def encode(reward: RewardModel, preferences: Sequence[Preference]) -> TokenizedPreferences:
    """Encode comparisons and rankings whole.

    A response that does not fit `max_length` leaves its ranking, and with it its pairs; see the class for
    what is counted.
    """
    elements, too_long, identical = [], 0, 0
    strengths = relative_strengths(preferences)
    for preference, strength in zip(preferences, strengths, strict=True):
        rows = [reward.whole(preference.prompt, response) for response in preference.responses]
        kept = [place for place, row in enumerate(rows) if len(row) <= reward.max_length]
        too_long += (len(rows) * (len(rows) - 1) - len(kept) * (len(kept) - 1)) // 2
        ranks = _ranks(preference)
        element = _element([rows[place] for place in kept], [ranks[place] for place in kept], strength)
        identical += len(kept) * (len(kept) - 1) // 2 - len(element.pairs)
        if element.pairs:
            elements.append(element)
    return TokenizedPreferences(elements, too_long, identical)


def _ranks(preference: Preference) -> Sequence[int]:
    """Return the rank of each response; equal ranks are a tie."""
    if isinstance(preference, Comparison):
        return {"A": (1, 2), "B": (2, 1), "tie": (1, 1)}[preference.label]
    return preference.ranks


def _element(rows: list[list[int]], ranks: Sequence[int], strength: float) -> TokenizedPreference:
    pairs = [TokenizedPair(i, j, FIRST_WINS[label_of(ranks[j], ranks[i])], strength)
             for i, j in combinations(range(len(rows)), 2) if rows[i] != rows[j]]
    in_order = len(set(ranks)) == len(rows) and len(pairs) == len(rows) * (len(rows) - 1) // 2
    best_first = sorted(range(len(rows)), key=lambda place: ranks[place]) if in_order else None
    return TokenizedPreference(rows, pairs, best_first)


def relative_strengths(preferences: Sequence[Preference]) -> list[float]:
    """Return of each preference the share of its source's strengths that are smaller; 0 if it has none.

    Each source has a scale of its own, and only the order of its strengths is to be believed. Three equally
    frequent grades become 0, 1/3 and 2/3, as Llama 2's smaller margins (Touvron et al. 2023, arXiv
    2307.09288, table 27).
    """
    strengths = [abs(row.strength) if isinstance(row, Comparison) and row.strength is not None else None
                 for row in preferences]
    known: dict[str, list[float]] = defaultdict(list)
    for row, strength in zip(preferences, strengths, strict=True):
        if strength is not None:
            known[row.origin.source].append(strength)
    for of_source in known.values():
        of_source.sort()
    found = []
    for row, strength in zip(preferences, strengths, strict=True):
        of_source = known[row.origin.source]
        found.append(0.0 if strength is None else bisect_left(of_source, strength) / len(of_source))
    return found


def shuffled_batches(
    elements: Sequence[TokenizedPreference], size: int, generator: torch.Generator
) -> list[list[int]]:
    """Divide the indices of all elements into random batches of at most `size` elements of similar length.

    They are sorted by length within random stretches of `STRETCH` batches, which halves the padding, and the
    batches are shuffled again.
    """
    def longest(i: int) -> int:
        return max(map(len, elements[i].rows))

    order = torch.randperm(len(elements), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), STRETCH * size):
        stretch = sorted(order[start : start + STRETCH * size], key=longest)
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def bradley_terry(
    difference_B: torch.Tensor, first_wins_B: torch.Tensor, margin_B: torch.Tensor | float = 0.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy [B], in nats, between observed outcome and sigmoid(difference of rewards).

    The better side must be ahead by `margin_B`, in units of reward (Touvron et al. 2023, equation 2); a tie
    has no better side. With `smoothing` each label is taken to be wrong with that probability.
    """
    difference_B = difference_B - margin_B * (2 * first_wins_B - 1)
    first_wins_B = first_wins_B * (1 - 2 * smoothing) + smoothing
    return first_wins_B * softplus(-difference_B) + (1 - first_wins_B) * softplus(difference_B)


def plackett_luce(scores_K: torch.Tensor) -> torch.Tensor:
    """Return the mean, in nats a choice, of -log P(best of those that are left), the best score first.

    P(i) = exp(r_i) / sum of exp(r_j) over i and all that are ranked below it; K responses are K-1 choices
    (Plackett 1975; Luce 1959). For K = 2 it is the Bradley-Terry loss.
    """
    left_K = scores_K.flip(0).logcumsumexp(0).flip(0)
    return (left_K - scores_K)[:-1].mean()


@torch.no_grad()
def evaluate(
    reward: RewardModel, elements: Sequence[TokenizedPreference], params: RewardModelParams
) -> dict[str, float]:
    """Return mean Bradley-Terry `loss` of an element, and `accuracy` over pairs.

    The accuracy leaves ties out, and equal scores count half.
    """
    plain = params.model_copy(update={"ranking_loss": "pairs", "margin_scale": 0.0, "label_smoothing": 0.0})
    sums = dict.fromkeys(SUMS, 0.0)
    for part in micro_batches(elements, params.micro_batch_size):
        _loss_sum(reward, part, plain, sums)
    return _means(sums, len(elements))


def accumulate_gradient(
    reward: RewardModel, batch: Sequence[TokenizedPreference], params: RewardModelParams
) -> dict[str, float]:
    """Add the gradient of the batch's mean loss, however it is split. Return `loss` and `accuracy`."""
    sums = dict.fromkeys(SUMS, 0.0)
    for part in micro_batches(batch, params.micro_batch_size):
        loss = _loss_sum(reward, part, params, sums)
        (loss / len(batch)).backward()
    return _means(sums, len(batch))


def micro_batches(
    elements: Sequence[TokenizedPreference], comparisons: int
) -> Iterator[list[TokenizedPreference]]:
    """Yield parts with at most as many conversations as so many comparisons have, but no ranking is split."""
    part: list[TokenizedPreference] = []
    rows = 0
    for element in elements:
        if part and rows + len(element.rows) > 2 * comparisons:
            yield part
            part, rows = [], 0
        part.append(element)
        rows += len(element.rows)
    if part:
        yield part


def _means(sums: dict[str, float], elements: int) -> dict[str, float]:
    """Return the mean loss of so many elements, and the accuracy unless all their pairs are ties."""
    means = {"loss": sums["loss"] / elements}
    if sums["decided"]:
        means["accuracy"] = sums["right"] / sums["decided"]
    return means


def _loss_sum(
    reward: RewardModel, batch: Sequence[TokenizedPreference], params: RewardModelParams,
    sums: dict[str, float],
) -> torch.Tensor:
    """Return the sum of the losses of a micro-batch, with its graph. Adds its figures to `sums`."""
    # All conversations of all elements in one pass.
    rows = [row for element in batch for row in element.rows]
    with autocast(params.precision):
        scores_N = last_scores(reward.model, rows)

    loss = scores_N.new_zeros(())
    sizes = [len(element.rows) for element in batch]
    for element, scores_K in zip(batch, scores_N.split(sizes), strict=True):
        first_P, second_P = [pair.first for pair in element.pairs], [pair.second for pair in element.pairs]
        difference_P = scores_K[first_P] - scores_K[second_P]
        wins_P = scores_K.new_tensor([pair.first_wins for pair in element.pairs])
        if params.ranking_loss == "plackett_luce" and len(scores_K) > 2 and element.best_first:
            loss = loss + plackett_luce(scores_K[element.best_first])
        else:
            margin_P = scores_K.new_tensor([pair.strength for pair in element.pairs]) * params.margin_scale
            loss = loss + bradley_terry(difference_P, wins_P, margin_P, params.label_smoothing).mean()

        decided_P = wins_P != 0.5
        right_P = torch.where(difference_P == 0, 0.5, ((difference_P > 0) == (wins_P == 1)).float())
        sums["right"] += float(right_P[decided_P].sum())
        sums["decided"] += float(decided_P.sum())
    sums["loss"] += float(loss.detach())
    return loss
