"""The data report: what a snapshot's rows are like, before anything is trained on them.

Two shares tell a reader what a reward model could learn for the wrong reason: how often the longer response wins, and
how often the one shown first does. Agreement is the share of pairs of judgements, by different annotators about the
same two responses, that say the same: no reward model can do much better on such labels than their annotators do.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypedDict

from plumbline.preferences.types import Comparison, Demonstration, Ranking, Row, comparisons_of, to_json

EXAMPLE_CHARACTERS = 600
REASONS_SHOWN = 10
UNKNOWN = "unknown"


class Share(TypedDict):
    """A share, and of how many."""

    share: float
    n: int


class Lengths(TypedDict):
    """Lengths in characters."""

    median: int
    p95: int
    longest: int


class Judgements(TypedDict, total=False):
    """What the labels say; a share that cannot be measured is absent."""

    pairs: int
    ties: Share
    longer_wins: Share
    first_shown_wins: Share


class Agreement(TypedDict):
    """How far those who judged the same two responses agree."""

    pairs_judged_again: int
    contradictions: int
    overall: Share | None
    by_annotator: dict[str, Share]


class Report(TypedDict):
    """Everything in report.json."""

    snapshot: str
    counts: dict[str, int]
    splits: dict[str, dict[str, int]]
    by_kind: dict[str, int]
    by_source: dict[str, int]
    by_annotator: dict[str, int]
    characters: dict[str, Lengths]
    judgements: Judgements
    agreement: Agreement
    quarantine: dict[str, int]
    examples: list[dict[str, object]]


def describe(
    snapshot: str,
    counts: dict[str, int],
    splits: dict[str, dict[str, int]],
    rows: Sequence[tuple[Row, str]],
    quarantined: Sequence[Mapping[str, object]],
) -> Report:
    """The report on `rows`, each with the key of its prompt."""
    examples: dict[str, dict[str, object]] = {}
    for row, _ in rows:
        examples.setdefault(type(row).__name__, to_json(row))
    return {
        "snapshot": snapshot,
        "counts": counts,
        "splits": splits,
        "by_kind": _count(type(row).__name__.lower() for row, _ in rows),
        "by_source": _count(row.origin.source for row, _ in rows),
        "by_annotator": _count(row.origin.annotator or UNKNOWN for row, _ in rows
                               if not isinstance(row, Demonstration)),
        "characters": _characters(rows),
        "judgements": _judgements([row for row, _ in rows if not isinstance(row, Demonstration)]),
        "agreement": _agreement(rows),
        "quarantine": _count(f"{row['field']}: {row['reason']}" for row in quarantined),
        "examples": list(examples.values()),
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    """Most frequent first; names break ties, so that the order is always the same."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _characters(rows: Sequence[tuple[Row, str]]) -> dict[str, Lengths]:
    prompts = [sum(len(message.content) for message in row.prompt) for row, _ in rows]
    responses = [len(response) for row, _ in rows
                 for response in ([row.response] if isinstance(row, Demonstration) else row.responses)]
    return {name: _lengths(sorted(lengths)) for name, lengths in (("prompt", prompts), ("response", responses))}


def _lengths(ordered: Sequence[int]) -> Lengths:
    return {"median": ordered[len(ordered) // 2], "p95": ordered[int(0.95 * (len(ordered) - 1))],
            "longest": ordered[-1]}


def _judgements(preferences: Sequence[Comparison | Ranking]) -> Judgements:
    pairs = [pair for preference in preferences for pair in comparisons_of(preference)]
    decided = [pair for pair in pairs if pair.label != "tie"]
    unequal = [pair for pair in decided if len(pair.chosen) != len(pair.rejected)]
    shown = _shown_in_some_order([row for row in preferences if isinstance(row, Comparison)])
    found: Judgements = {"pairs": len(pairs)}
    if pairs:
        found["ties"] = _share(len(pairs) - len(decided), len(pairs))
    if unequal:
        found["longer_wins"] = _share(sum(len(pair.chosen) > len(pair.rejected) for pair in unequal), len(unequal))
    if shown:
        found["first_shown_wins"] = _share(sum(pair.label == "A" for pair in shown), len(shown))
    return found


def _shown_in_some_order(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Decided comparisons of sources where either can win: formats with `chosen` and `rejected` record no order."""
    labels: dict[str, set[str]] = defaultdict(set)
    for pair in comparisons:
        labels[pair.origin.source].add(pair.label)
    return [pair for pair in comparisons if pair.label != "tie" and {"A", "B"} <= labels[pair.origin.source]]


def _agreement(rows: Sequence[tuple[Row, str]]) -> Agreement:
    """Judgements of the same two responses, put into one order, rankings included."""
    judged: dict[tuple[str, str, str], list[tuple[str | None, str]]] = defaultdict(list)
    for row, key in rows:
        if not isinstance(row, Demonstration):
            for pair in comparisons_of(row):
                ordered = pair if pair.responses[0] <= pair.responses[1] else pair.swap()
                judged[key, *ordered.responses].append((row.origin.annotator, ordered.label))
    again = [judgements for judgements in judged.values() if len(judgements) > 1]
    same: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for judgements in again:
        for (one, label), (other, other_label) in combinations(judgements, 2):
            if one != other and one is not None and other is not None:
                for name in (one, other):
                    met[name] += 1
                    same[name] += label == other_label
    total = sum(met.values()) // 2
    return {
        "pairs_judged_again": len(again),
        "contradictions": sum({"A", "B"} <= {label for _, label in judgements} for judgements in again),
        "overall": _share(sum(same.values()) // 2, total) if total else None,
        "by_annotator": {name: _share(same[name], met[name]) for name in sorted(met)},
    }


def _share(part: int, whole: int) -> Share:
    return {"share": part / whole, "n": whole}


def markdown(report: Report) -> str:
    """The report for a person."""
    counts = report["counts"]
    lines = [
        "# Data report", "",
        f"Snapshot `{report['snapshot']}`.", "",
        f"{counts['rows_read']} rows read = {counts['rows_accepted']} accepted + {counts['duplicates']} duplicates "
        f"+ {counts['quarantined']} quarantined.", "",
        "| | train | validation | held-out |", "|---|---|---|---|",
        *(f"| {part} | {sizes['train']} | {sizes['validation']} | {sizes['heldout']} |"
          for part, sizes in report["splits"].items()), "",
        *_table("Kind", report["by_kind"]), *_table("Source", report["by_source"]),
        *_table("Annotator", report["by_annotator"]),
        "| Characters | median | 95th percentile | longest |", "|---|---|---|---|",
        *(f"| {name} | {sizes['median']} | {sizes['p95']} | {sizes['longest']} |"
          for name, sizes in report["characters"].items()), "",
        "## Judgements", "", *_judgement_lines(report["judgements"], report["agreement"]),
    ]
    if report["quarantine"]:
        lines += ["## Quarantined", "", "Each row with its file and line is in quarantine.jsonl.", "",
                  *_table("Reason", dict(list(report["quarantine"].items())[:REASONS_SHOWN]))]
    return "\n".join([*lines, "## Examples", "", *_examples(report["examples"])])


def _table(title: str, counts: Mapping[str, int]) -> list[str]:
    cells = ((name.replace("|", "\\|").replace("\n", " "), n) for name, n in counts.items())
    return [f"| {title} | rows |", "|---|---|", *(f"| {name} | {n} |" for name, n in cells), ""] if counts else []


def _judgement_lines(judgements: Judgements, agreement: Agreement) -> list[str]:
    lines = [f"- {judgements['pairs']} pairs judged, those within rankings included"]
    if "ties" in judgements:
        lines.append(f"- ties: {_percent(judgements['ties'])}")
    if "longer_wins" in judgements:
        lines.append(f"- the longer response wins: {_percent(judgements['longer_wins'])}")
    if "first_shown_wins" in judgements:
        lines.append(f"- the response shown first wins: {_percent(judgements['first_shown_wins'])}")
    lines.append(f"- pairs judged more than once: {agreement['pairs_judged_again']}, "
                 f"{agreement['contradictions']} of them with both labels")
    if agreement["overall"] is not None:
        lines.append(f"- two annotators agree: {_percent(agreement['overall'])}")
        lines += [f"  - {name}, with the others: {_percent(share)}"
                  for name, share in agreement["by_annotator"].items()]
    return [*lines, ""]


def _percent(share: Share) -> str:
    return f"{100 * share['share']:.1f} % of {share['n']}"


def _examples(examples: Iterable[Mapping[str, object]]) -> list[str]:
    """One row of each kind, indented, so that nothing in it is taken for markup."""
    lines = []
    for row in examples:
        for name, value in row.items():
            text = f"{name}: {value}"[:EXAMPLE_CHARACTERS]
            lines += ["    " + line for line in text.splitlines()]
        lines.append("")
    return lines
