"""The policy against its opponents on held-out prompts, as data: win rates by judge, kind and length.

A contestant gives one or several answers to each prompt. Answer j of one meets answer j of the other, and a
single answer meets all of the other's. Answers to one prompt are not independent, so every interval is over
prompts.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from plumbline import statistics
from plumbline.evaluation.judging.judges import Judge, ModelAnswer, NamedJudge, judge_both_orders
from plumbline.evaluation.judging.names import ENDS, LONGEST_LABEL
from plumbline.evaluation.samples import Sample, SampleAnswer
from plumbline.evaluation.slices import SIMILAR_LENGTH
from plumbline.functions import safe_name
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt
from plumbline.statistics import Interval, Z

POLICY, GREEDY = "policy", "_greedy"
BUCKETS = ("shorter", "similar", "longer")
SMALLEST_KIND = 20
"""A kind with fewer prompts is joined with the others that are as small."""
OTHER = "other"
LONGEST_NGRAM = 3
FEWEST_PROMPTS = 30
"""Of a regression on lengths: its interval holds for many prompts only."""


@dataclass(frozen=True)
class Contestant:
    """One model's answers to the prompts, in the order of the prompts, and the figures measured on each."""

    name: str
    """`policy`, `sft`, `champion`, each also with `_greedy`, or `sft_best_of_8`: a part of the metrics'
    names."""
    answers: Sequence[Sequence[ModelAnswer]]
    """By prompt, then by answer: as many to each prompt."""
    measured: Mapping[str, Sequence[Sequence[float]]]
    """Figures of each answer, by name: `reward`, `gold`, `kl` (nats from the reference), if measured."""

    @classmethod
    def of_one(
        cls, name: str, texts: Sequence[str], stopped: Sequence[bool],
        measured: Mapping[str, Sequence[float]] | None = None,
    ) -> "Contestant":
        """Return a contestant that gives one answer to each prompt."""
        answers = [[ModelAnswer(text, ended)] for text, ended in zip(texts, stopped, strict=True)]
        figures = {what: [[value] for value in values] for what, values in (measured or {}).items()}
        return cls(name, answers, figures)

    def sample_answer(self, i: int) -> SampleAnswer:
        """Return the first answer to prompt `i` with the figures measured on it."""
        measured = {name: values[i][0] for name, values in self.measured.items()}
        answer = self.answers[i][0]
        return SampleAnswer(answer.text, answer.stopped, measured)


@dataclass(frozen=True)
class Meeting:
    """One answer of the policy against one of its opponent, to the same prompt."""

    prompt: int
    """Place of the prompt."""
    own: ModelAnswer
    other: ModelAnswer


@dataclass(frozen=True)
class Match:
    """The policy against one opponent, as one judge sees it."""

    name: str
    """Of the opponent, in the metrics' names: `sft`, `sft_greedy`, `champion`, `best_of_8`."""
    own: Contestant
    opponent: Contestant
    meetings: Sequence[Meeting]
    outcomes: Sequence[float]
    """One a meeting: 1 if the policy is better, 0.5 if neither is, 0 if the opponent is."""
    win_rate: Interval
    by_length: Mapping[str, Interval]
    """Win rates where the policy's answer is shorter, similar or longer than the opponent's."""
    by_kind: Mapping[str, Interval]
    """Win rates by kind of prompt; empty where all prompts are of one kind."""
    length_controlled: Interval | None
    contradictions: float | None
    first_shown: float | None
    unjudged: float | None
    """See JudgeOutcomes."""

    def outcome_of(self, prompt: int) -> float | None:
        """Return the outcome between the first answers to a prompt; None if it was not judged."""
        found = (outcome for meeting, outcome in zip(self.meetings, self.outcomes, strict=True)
                 if meeting.prompt == prompt)
        return next(found, None)

    def won(self) -> dict[int, float]:
        """Return the mean of the outcomes on each prompt that was judged, by its place."""
        outcomes: dict[int, list[float]] = defaultdict(list)
        for meeting, outcome in zip(self.meetings, self.outcomes, strict=True):
            outcomes[meeting.prompt].append(outcome)
        return {prompt: sum(found) / len(found) for prompt, found in outcomes.items()}


@dataclass(frozen=True)
class JudgeAgreement:
    """How far two judges agree on the same meetings."""

    judges: tuple[str, str]
    share: Interval
    """Of the meetings that both decide, those that both decide alike."""
    kappa: float | None
    """Cohen's kappa of the same meetings: 1 is perfect, 0 is chance; None where chance alone explains all."""


@dataclass(frozen=True)
class Evaluation:
    """All results that the report shows."""

    prompts: Sequence[Prompt]
    contestants: Sequence[Contestant]
    judged: Mapping[str, Sequence[Match]]
    """Matches by judge, that of the judge who decides first."""
    agreements: Sequence[JudgeAgreement]
    means: Mapping[str, Mapping[str, Interval]]
    """By contestant and measurement: characters, share stopped, share of repeated 4-grams, mean of each of
    `measured`."""
    distinct: Mapping[str, Mapping[str, float]]
    """By contestant: share of distinct n-grams among those of the first answers."""

    @property
    def judge(self) -> str:
        """Return the name of the judge who decides."""
        return next(iter(self.judged))

    @property
    def matches(self) -> Sequence[Match]:
        """Return the matches as the judge who decides sees them."""
        return self.judged[self.judge]

    def samples(self) -> list[Sample]:
        """Return every prompt with the first answer of each contestant, and the judge's outcomes."""
        samples, won = [], {match.opponent.name: match.won() for match in self.matches}
        for i, prompt in enumerate(self.prompts):
            answers = {one.name: one.sample_answer(i) for one in self.contestants}
            outcomes = {match.opponent.name: outcome for match in self.matches
                        if (outcome := match.outcome_of(i)) is not None}
            samples.append(Sample(prompt, answers, outcomes,
                                  {name: shares[i] for name, shares in won.items() if i in shares}))
        return samples

    def metrics(self) -> dict[str, float | str]:
        """Return the figures for metrics.json, such as `win_rate_vs_sft_low` and `kl_policy`."""
        found: dict[str, float | str] = {"judge": self.judge}
        for match in self.matches:
            found |= _match_metrics(match)
        for name, matches in self.judged.items():
            for match in matches:
                found |= match.win_rate.metrics(f"win_rate_vs_{match.name}_by_{name}")
        for one in self.agreements:
            pair = "_".join(one.judges)
            found |= one.share.metrics(f"agreement_{pair}")
            if one.kappa is not None:
                found[f"kappa_{pair}"] = one.kappa
        for name, means in self.means.items():
            found |= {f"{what}_{name}": interval.value for what, interval in means.items()}
            found |= {f"{what}_{name}": value for what, value in self.distinct[name].items()}
        return found


def _match_metrics(match: Match) -> dict[str, float | str]:
    key = f"win_rate_vs_{match.name}"
    found: dict[str, float | str] = {**match.win_rate.metrics(key)}
    if match.length_controlled:
        found |= match.length_controlled.metrics(f"{key}_length_controlled")
    if "similar" in match.by_length:
        found |= match.by_length["similar"].metrics(f"{key}_similar_length")
    for kind, rate in match.by_kind.items():
        found |= rate.metrics(f"{key}_kind_{kind}")
    if match.contradictions is not None and match.first_shown is not None:
        found |= {f"contradictions_vs_{match.name}": match.contradictions,
                  f"first_shown_vs_{match.name}": match.first_shown}
    if match.unjudged is not None:
        found[f"unjudged_vs_{match.name}"] = match.unjudged
    return found


def evaluate(
    prompts: Sequence[Prompt], contestants: Sequence[Contestant], judges: Sequence[NamedJudge],
    kinds: Sequence[str],
) -> Evaluation:
    """Judge the policy against each opponent.

    The first judge sees all matches, the others those against SFT's own answers, sampled and greedy. `kinds`
    names the kind of each prompt. Raises ValueError if a contestant has not answered each prompt.
    """
    for one in contestants:
        sizes = {len(one.answers), *(len(values) for values in one.measured.values())}
        if sizes != {len(prompts)}:
            raise ValueError(f"{one.name} has {sizes} answers and measurements for {len(prompts)} prompts")
    keys = [prompt_key(prompt) for prompt in prompts]
    table = _Table(prompts, keys, joined_kinds(kinds))
    pairs = _pairs(contestants)
    judged = {}
    for place, named in enumerate(judges):
        wanted = pairs if place == 0 else [pair for pair in pairs if pair[0] in ("sft", f"sft{GREEDY}")]
        most = None if named.judge.most_pairs is None else named.judge.most_pairs // max(len(wanted), 1)
        judged[named.name] = [table.match(name, own, other, named.judge, most)
                              for name, own, other in wanted]
    agreements = [found for one, other in combinations(judged, 2)
                  if (found := table.agreement(one, judged[one][0], other, judged[other][0]))]
    return Evaluation(
        prompts, contestants, judged, agreements,
        means={one.name: table.means(one) for one in contestants},
        distinct={one.name: distinct_ngrams([answers[0].text for answers in one.answers])
                  for one in contestants})


def _pairs(contestants: Sequence[Contestant]) -> list[tuple[str, Contestant, Contestant]]:
    """Return (name, policy, opponent) of each match: greedy answers meet greedy ones."""
    by_name = {one.name: one for one in contestants}
    found = []
    for one in contestants:
        if one.name.startswith(POLICY):
            continue
        own = by_name[POLICY + GREEDY] if one.name.endswith(GREEDY) else by_name[POLICY]
        name = one.name.removeprefix("sft_") if "best_of" in one.name else one.name
        found.append((name, own, one))
    return found


def kind_labels(sources: Collection[str]) -> dict[str, str]:
    """Return a label for each source, by name, that a metric's name may have and no other source has.

    One that is too long, ends as a figure beside an interval does, or would be another's, has a digest.
    """
    labels = {source: safe_name(source) for source in sources}
    times = Counter([OTHER, *labels.values()])
    for source, label in labels.items():
        if times[label] > 1 or len(label) > LONGEST_LABEL or label.endswith(ENDS):
            digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
            labels[source] = f"{label[:LONGEST_LABEL]}-{digest[:8]}"
    return labels


def joined_kinds(kinds: Sequence[str]) -> list[str]:
    """Return the kinds, those of fewer than SMALLEST_KIND prompts joined as `other`."""
    counts = Counter(kinds)
    return [kind if counts[kind] >= SMALLEST_KIND else OTHER for kind in kinds]


def meetings_of(own: Contestant, other: Contestant) -> list[Meeting]:
    """Return the meetings of two contestants: the first answers to all prompts, then the second ones."""
    answers = max(len(own.answers[0]), len(other.answers[0])) if own.answers else 0
    found = []
    for j in range(answers):
        for i, (mine, theirs) in enumerate(zip(own.answers, other.answers, strict=True)):
            found.append(Meeting(i, mine[j % len(mine)], theirs[j % len(theirs)]))
    return found


@dataclass(frozen=True)
class _Table:
    """The prompts of an evaluation, and how intervals over them are computed."""

    prompts: Sequence[Prompt]
    keys: Sequence[str]
    kinds: Sequence[str]

    def match(self, name: str, own: Contestant, other: Contestant, judge: Judge, most: int | None) -> Match:
        """Judge at most `most` meetings of two contestants."""
        meetings = meetings_of(own, other)[:most]
        judged = judge_both_orders(judge, [self.prompts[one.prompt] for one in meetings],
                                   [one.own for one in meetings], [one.other for one in meetings])
        outcomes = judged.outcomes
        longer = [float(len(one.own.text) - len(one.other.text)) for one in meetings]
        kinds = [self.kinds[one.prompt] for one in meetings]
        by_kind = self._sliced(meetings, outcomes, kinds) if len(set(kinds)) > 1 else {}
        by_length = self._sliced(meetings, outcomes, [_bucket(one) for one in meetings])
        return Match(
            name, own, other, meetings, outcomes, self._share(meetings, outcomes),
            {bucket: by_length[bucket] for bucket in BUCKETS if bucket in by_length}, by_kind,
            length_controlled(outcomes, longer, [self.keys[one.prompt] for one in meetings]),
            judged.contradictions, judged.first_shown, judged.unjudged)

    def agreement(self, one: str, first: Match, other: str, second: Match) -> JudgeAgreement | None:
        """Compare two judges on the meetings that both decided; None if there are none."""
        # An endpoint may have been asked about fewer meetings, the first ones.
        rows = zip(first.meetings, first.outcomes, second.outcomes, strict=False)
        both = [(meeting, mine > 0.5, theirs > 0.5)
                for meeting, mine, theirs in rows if 0.5 not in (mine, theirs)]
        if not both:
            return None
        share = self._share([meeting for meeting, *_ in both],
                            [float(mine == theirs) for _, mine, theirs in both])
        return JudgeAgreement((one, other), share, cohens_kappa([verdicts for _, *verdicts in both]))

    def means(self, one: Contestant) -> dict[str, Interval]:
        """Return the mean of each figure of a contestant's answers."""
        keys = [key for key, answers in zip(self.keys, one.answers, strict=True) for _ in answers]
        answers = [answer for answers in one.answers for answer in answers]
        characters = [float(len(answer.text)) for answer in answers]
        found = {
            "characters": statistics.mean(characters, keys),
            "stopped": statistics.share([float(answer.stopped) for answer in answers], keys),
            "repeated_4grams": statistics.mean([repeated_ngrams(answer.text, 4) for answer in answers], keys)}
        for what, rows in one.measured.items():
            values = [value for row in rows for value in row]
            found[what] = statistics.mean(values, keys)
        return found

    def _share(self, meetings: Sequence[Meeting], outcomes: Sequence[float]) -> Interval:
        return statistics.share(outcomes, [self.keys[one.prompt] for one in meetings])

    def _sliced(
        self, meetings: Sequence[Meeting], outcomes: Sequence[float], names: Sequence[str]
    ) -> dict[str, Interval]:
        found = {}
        for name in sorted(set(names)):
            rows = [i for i, one in enumerate(names) if one == name]
            found[name] = self._share([meetings[i] for i in rows], [outcomes[i] for i in rows])
        return found


def _bucket(meeting: Meeting) -> str:
    own, other = len(meeting.own.text), len(meeting.other.text)
    if own > SIMILAR_LENGTH * other:
        return "longer"
    return "shorter" if other > SIMILAR_LENGTH * own else "similar"


def cohens_kappa(verdicts: Sequence[Sequence[bool]]) -> float | None:
    """Return (p_o - p_e) / (1 - p_e) of two judges' verdicts (Cohen 1960); None if p_e is 1."""
    n = len(verdicts)
    first, second = (sum(side) / n for side in zip(*verdicts, strict=True))
    expected = first * second + (1 - first) * (1 - second)
    observed = sum(one == other for one, other in verdicts) / n
    return None if expected == 1 else (observed - expected) / (1 - expected)


def length_controlled(
    outcomes: Sequence[float], longer: Sequence[float], prompts: Sequence[str]
) -> Interval | None:
    """Return the win rate that a logistic regression gives two answers of equal length.

    As in AlpacaEval 2 LC (Dubois et al. 2024, arXiv 2404.04475, section 3, without its terms of the prompt
    and of the model): logit P(win) = a + b tanh(d / std(d)), d the policy's length minus its opponent's in
    characters, and sigmoid(a) is the result. b has a N(0, 1) prior, which only matters where length explains
    everything. The interval is a's, from the sandwich estimate of its variance with clusters (Liang & Zeger
    1986). None for fewer than FEWEST_PROMPTS prompts, or if all outcomes are the same.
    """
    groups = sorted(set(prompts))
    if len(groups) < FEWEST_PROMPTS or len(set(outcomes)) == 1:
        return None
    y_N, d_N = np.array(outcomes), np.array(longer)
    scale = d_N.std() or 1.0
    x_N2 = np.stack([np.ones(len(d_N)), np.tanh(d_N / scale)], 1)
    prior = np.diag([0.0, 1.0])
    w_2 = np.zeros(2)
    for _ in range(100):  # Newton's method: the log-likelihood is concave
        p_N = 1 / (1 + np.exp(-x_N2 @ w_2))
        curvature = (x_N2 * (p_N * (1 - p_N))[:, None]).T @ x_N2 + prior
        step_2 = np.linalg.solve(curvature, x_N2.T @ (y_N - p_N) - prior @ w_2)
        w_2 += step_2
        if np.abs(step_2).max() < 1e-10:
            break
    index = {name: i for i, name in enumerate(groups)}
    sums_G2 = np.zeros((len(groups), 2))
    np.add.at(sums_G2, [index[name] for name in prompts], x_N2 * (y_N - p_N)[:, None])
    bread = np.linalg.inv(curvature)
    variance = bread @ (sums_G2.T @ sums_G2) @ bread * len(groups) / (len(groups) - 1)
    error = float(np.sqrt(variance[0, 0]))
    value, low, high = (1 / (1 + np.exp(-(w_2[0] + shift))) for shift in (0.0, -Z * error, Z * error))
    return Interval(float(value), float(low), float(high), len(y_N), len(groups))


def distinct_ngrams(texts: Sequence[str]) -> dict[str, float]:
    """Return distinct-1, -2 and -3 of all texts together: different n-grams of words over all n-grams.

    Li et al. 2016, arXiv 1510.03055, section 5.2. More texts give a lower share, so it may only be compared
    between as many texts. 0 where no text is long enough.
    """
    found = {}
    for n in range(1, LONGEST_NGRAM + 1):
        every = [gram for text in texts for gram in _ngrams(text, n)]
        found[f"distinct_{n}"] = len(set(every)) / len(every) if every else 0.0
    return found


def repeated_ngrams(text: str, n: int) -> float:
    """Return the share of a text's n-grams of words that stand in it before; 0 for a text without one."""
    every = _ngrams(text, n)
    return 1 - len(set(every)) / len(every) if every else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
