"""Markdown of the reports: tables, quoted texts, shares.

Prompts and responses are untrusted: they are written as indented code, where nothing is markup.
"""

from collections.abc import Iterable, Sequence

from plumbline.statistics import Interval


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table and an empty line after it; no lines if there are no rows."""
    lines = [_row(row) for row in rows]
    if not lines:
        return []
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines, ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def quoted(text: str, characters: int = 1500) -> list[str]:
    """Return the lines of `text` as indented code, cut after `characters`, and an empty line after them."""
    cut = text if len(text) <= characters else text[:characters] + " ..."
    return [*("    " + line for line in cut.splitlines() or ["(empty)"]), ""]


def percent(interval: Interval) -> str:
    """Return a share and its interval as text: `71.3 % [68.0, 74.5]`."""
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
