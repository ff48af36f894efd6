"""Rows of preference data as the pages show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.preferences.types import Comparison, Demonstration, Prompt, Ranking, Rating, Row, from_json
from plumbline.preferences.versions.browse import AGREEMENTS, Agreement, Wanted
from plumbline.web.drawing.words import number


@dataclass(frozen=True)
class ShownAnswer:
    """One response of a row, and what was said of it."""

    text: str
    mark: str
    """`preferred`, `tie`, `rank 2`, `score 1`; empty for one that was not preferred, or that teaches by
    itself."""
    best: bool


@dataclass(frozen=True)
class ShownRow:
    """One row."""

    id: str
    kind: str
    prompt: Prompt
    answers: Sequence[ShownAnswer]
    source: str
    annotator: str | None
    time: str | None
    machine: bool | None
    strength: float | None
    disputed: bool = False

    @property
    def verdict(self) -> str:
        """The verdict in a word or two."""
        best = [f"{i}" for i, one in enumerate(self.answers, start=1) if one.best]
        if self.kind == "comparison" and not best:
            return "tie"
        if self.kind == "comparison":
            return "first preferred" if best == ["1"] else "second preferred"
        return ", ".join(one.mark for one in self.answers if one.mark)


def shown(values: Mapping[str, object], disputed: bool = False) -> ShownRow:
    """Return a row, given in our schema with its id, as a page shows it."""
    row = from_json(values)
    origin = row.origin
    strength = row.strength if isinstance(row, Comparison) else None
    return ShownRow(str(values["row"]), type(row).__name__.lower(), row.prompt, _answers(row), origin.source,
                    origin.annotator, origin.time, origin.machine, strength, disputed)


def _answers(row: Row) -> list[ShownAnswer]:
    match row:
        case Demonstration():
            return [ShownAnswer(row.response, "", False)]
        case Rating():
            return [ShownAnswer(row.response, f"score {number(row.score)}", False)]
        case Ranking():
            ranked = sorted(zip(row.ranks, row.responses, strict=True), key=lambda pair: pair[0])
            return [ShownAnswer(text, f"rank {rank}", rank == 1) for rank, text in ranked]
        case Comparison():
            other = "tie" if row.label == "tie" else ""
            return [ShownAnswer(text, "preferred" if row.label == label else other, row.label == label)
                    for label, text in zip("AB", row.responses, strict=True)]


def wanted_rows(q: str, kind: str, source: str, annotator: str, agreement: str) -> Wanted:
    """Return the filters of an address; an empty one takes any row."""
    chosen: Agreement | None = next((name for name in AGREEMENTS if name == agreement), None)
    return Wanted(q.strip(), kind or None, source or None, annotator or None, chosen)
