"""The stages' reports, which are Markdown for a terminal, as blocks that a template can show.

Only what `plumbline/evaluation/markdown.py` writes is known: headings, tables, lists, indented texts,
paragraphs. All of it stays plain text, which the template escapes; what is not known is a paragraph. Pictures
are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MOST_LINES = 3000
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class ReportBlock:
    """One piece of a report."""

    kind: Literal["heading", "table", "list", "quote", "label", "paragraph"]
    lines: tuple[str, ...] = ()
    """The items of a list, the lines of a text, the one line of a heading or a label."""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    level: int = 0


def blocks(text: str) -> list[ReportBlock]:
    """Return the pieces of a report, in their order."""
    return [block for group in _groups(text.splitlines()[:MOST_LINES]) if (block := _block(group))]


def _groups(lines: list[str]) -> Iterator[list[str]]:
    """Yield lines that belong together; an indented text may hold empty lines, which were written
    indented.
    """
    group: list[str] = []
    for line in lines:
        if group and (not line or _kind(line) != _kind(group[-1]) or _kind(line) in ("heading", "label")):
            yield group
            group = []
        if line:
            group.append(line)
    if group:
        yield group


def _kind(line: str) -> str:
    for start, kind in (("    ", "quote"), ("#", "heading"), ("|", "table"), ("- ", "list"), ("**", "label"),
                        ("![", "picture")):
        if line.startswith(start):
            return kind
    return "paragraph"


def _block(group: list[str]) -> ReportBlock | None:
    match _kind(group[0]):
        case "heading":
            level = len(group[0]) - len(group[0].lstrip("#"))
            return ReportBlock("heading", (group[0][level:].strip(),), level=level)
        case "table" if len(group) > 1:
            header, _, *rows = (_cells(line) for line in group)
            return ReportBlock("table", header=header, rows=tuple(rows))
        case "list":
            return ReportBlock("list", tuple(_plain(line[2:]) for line in group))
        case "quote":
            return ReportBlock("quote", tuple(line[4:] for line in group))
        case "label":
            return ReportBlock("label", (group[0].replace("**", ""),))
        case "picture":
            return None
    return ReportBlock("paragraph", (_plain(" ".join(group)),))


def _cells(line: str) -> tuple[str, ...]:
    cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return tuple(_plain(cell.strip().replace("\\|", "|")) for cell in cells)


def _plain(text: str) -> str:
    return _LINK.sub(r"\1", text).replace("`", "")
