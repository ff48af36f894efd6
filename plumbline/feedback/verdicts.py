"""Pairs of answers (or more) to one prompt that are offered to people, and their verdicts.

A verdict becomes rows of the preference data as follows; a row holds the answers in the order in which they
were shown, so that a preference for the first one can be measured.

| verdict | row |
|---|---|
| A, B | a comparison, with the strength (1 slightly, 2 clearly, 3 far better) where one was given |
| tie | a comparison that is a tie |
| both bad | two ratings of 0, a thumb down each: ingest makes a tie of them, the batch keeps the ratings |
| ranking | a ranking; equal ranks are ties |
| best | a ranking of two for each other answer: nobody compared the others with each other |
| skip | none |

A verdict on a pair whose source is `judge` becomes no row, whatever it is: its prompt is held out, and it is
evidence about a policy (judging.py), not something to learn from.

`Try it` always shows the champion first, so its order cannot show a habit: A, B and tie become a ranking of
two there, because a ranking has no order on the screen, and no strength.

A comment stays in the store: the rows' schema has no place for it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

from plumbline.preferences.types import Comparison, Label, Origin, Prompt, Ranking, Rating, Row, prompt_json

Choice = Literal["A", "B", "tie", "both bad", "ranking", "best", "skip"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Source = Literal["feedback", "try it", "judge"]
JUDGE: Source = "judge"
STRENGTHS = {1: "slightly", 2: "clearly", 3: "far"}


@dataclass(frozen=True)
class OfferedAnswer:
    """One model's answer."""

    text: str
    model: str
    """Such as `champion, version 3`; shown only after the verdict."""
    digest: str
    """DVC's digest of the model."""
    reward: float | None
    """The reward model's score."""


@dataclass(frozen=True)
class OfferedPair:
    """One prompt with two or more different answers, offered to people."""

    prompt: Prompt
    answers: tuple[OfferedAnswer, ...]
    reason: str
    """Why it was chosen; shown after the verdict."""
    kind: str
    """The prompt's kind: kinds with few comparisons are asked first."""
    source: Source
    """`try it`: made on that page, and offered to no other person. `judge`: answers to a held-out prompt, see
    judging.py."""

    @property
    def id(self) -> str:
        """Return a hash of prompt, answers and source, so that the same pair is kept once."""
        texts = json.dumps([prompt_json(self.prompt), [answer.text for answer in self.answers], self.source])
        return hashlib.sha256(texts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Verdict:
    """One person's verdict on a pair."""

    key: str
    """Made by the client: the same verdict sent again, after an answer that got lost, counts once."""
    pair: str
    choice: Choice
    annotator: str
    session: str
    """The browser session; within it a verdict can be undone."""
    shown: tuple[int, ...]
    """Positions of the pair's answers in the order in which they were shown: A is the first of them."""
    time: str
    """ISO 8601, UTC."""
    ranks: tuple[int, ...] | None = None
    """Of a ranking: each shown answer's rank, from 1 for the best. Of best: 1 for that answer, and 2 for all
    others, which is no tie."""
    strength: int | None = None
    """Of A and B: one of STRENGTHS."""
    comment: str = ""

    def problem(self, answers: int) -> str | None:
        """Return why this is no valid verdict on a pair of `answers` answers, or None."""
        if sorted(self.shown) != list(range(answers)):
            return f"`shown` must name each of the {answers} answers once; found {list(self.shown)}"
        if self.choice in ("A", "B", "tie", "both bad") and answers != 2:
            return f"the choice {self.choice!r} is for two answers; here are {answers}: rank them"
        if (self.ranks is not None) != (self.choice in ("ranking", "best")):
            return "a ranking and the choice of the best have ranks, and nothing else has"
        if self.ranks is not None:
            in_range = all(1 <= rank <= answers for rank in self.ranks)
            if len(self.ranks) != answers or not in_range:
                return f"expected {answers} ranks from 1 to {answers}, found {list(self.ranks)}"
            if self.choice == "best" and sorted(self.ranks) != [1] + [2] * (answers - 1):
                return f"expected rank 1 for the best answer and 2 for each other, found {list(self.ranks)}"
        if self.strength is not None and (self.choice not in ("A", "B") or self.strength not in STRENGTHS):
            return f"a strength is 1, 2 or 3 and goes with A or B; found {self.strength}"
        return None


def rows_of(pair: OfferedPair, verdict: Verdict) -> list[Row]:
    """Return the rows of preference data that a verdict becomes."""
    texts = tuple(pair.answers[place].text for place in verdict.shown)
    origin = Origin(pair.source, verdict.annotator, verdict.time, machine=False)
    if verdict.choice == "skip" or pair.source == JUDGE:
        return []
    if verdict.choice == "ranking":
        assert verdict.ranks is not None
        return [Ranking(pair.prompt, texts, verdict.ranks, origin)]
    if verdict.choice == "best":
        assert verdict.ranks is not None
        best = texts[verdict.ranks.index(1)]
        others = [text for text, rank in zip(texts, verdict.ranks, strict=True) if rank > 1]
        return [Ranking(pair.prompt, (best, other), (1, 2), origin) for other in others]
    if verdict.choice == "both bad":
        return [Rating(pair.prompt, text, 0.0, origin) for text in texts]
    if pair.source == "try it":
        ranks = {"A": (1, 2), "B": (2, 1), "tie": (1, 1)}[verdict.choice]
        return [Ranking(pair.prompt, texts, ranks, origin)]
    labels: dict[Choice, Label] = {"A": "A", "B": "B", "tie": "tie"}
    strength = float(verdict.strength) if verdict.strength else None
    return [Comparison(pair.prompt, (texts[0], texts[1]), labels[verdict.choice], origin, strength)]
