"""The pictures of the data report, as SVG that stands inside the page.

Colours are CSS variables of the page, so that they follow its light and dark mode; names are untrusted and
escaped. The drawings are 420 units wide, which a phone shows without shrinking the letters beyond reading.
"""

from collections.abc import Mapping, Sequence
from html import escape

from plumbline.preferences.report.agreement import PairOfAnnotators
from plumbline.preferences.report.census import Histogram
from plumbline.preferences.report.intervals import Estimate

WIDTH = 420
LEFT, RIGHT = 116, 62  # room for names, and for numbers
ROW = 22
NAME_CHARACTERS = 15
FEW_RESPONSES = 0.002


def bars(rows: Mapping[str, Mapping[str, int]], parts: Sequence[str], title: str, whole: bool = False) -> str:
    """Draw one bar a row, its parts in colours, the sum at its end.

    With `whole` all bars have the same length.
    """
    filled = {part for row in rows.values() for part, n in row.items() if n}
    used = [part for part in parts if part in filled]
    longest = max(sum(row.values()) for row in rows.values())
    drawn, y = [], 4
    for name, row in rows.items():
        total = sum(row.values())
        scale, x = (WIDTH - LEFT - RIGHT) / ((total if whole else longest) or 1), float(LEFT)
        drawn.append(_name(name, y))
        for part in used:
            if width := row.get(part, 0) * scale:
                drawn.append(f'<rect class="s{used.index(part)}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
                             f'height="{ROW - 6}"><title>{text(part)}: {row[part]:,}</title></rect>')
            x += width
        drawn.append(f'<text x="{x + 5:.1f}" y="{y + 12}">{total:,}</text>')
        y += ROW
    return _svg(drawn + _legend(used, y + 4), y + 26, title)


def histograms(found: Mapping[str, Histogram], title: str) -> str:
    """Draw one or two distributions over each other in shares; the axis is logarithmic."""
    edges = max((one["upto"] for one in found.values()), key=len)
    shares = {name: _shares(one["counts"]) for name, one in found.items()}
    first = min(_first_above(FEW_RESPONSES, one) for one in shares.values())
    step, highest, base = (WIDTH - 20) / (len(edges) - first), max(map(max, shares.values())), 120
    drawn = []
    for series, (name, one) in enumerate(shares.items()):
        for i, share in enumerate(one[first:], start=first):
            height = 110 * share / highest
            above = edges[i - 1] if i else -1
            drawn.append(f'<rect class="s{series} over" x="{10 + (i - first) * step:.1f}" '
                         f'y="{base - height:.1f}" width="{step - 1:.1f}" '
                         f'height="{height:.1f}"><title>{text(name)}: {100 * share:.1f} % have {above + 1:,} '
                         f'to {edges[i]:,} characters</title></rect>')
    for i in range(first, len(edges), max(1, (len(edges) - first) // 6)):
        drawn.append(f'<text class="mid" x="{10 + (i - first + 1) * step:.1f}" '
                     f'y="{base + 14}">{edges[i]:,}</text>')
    drawn.append(f'<line class="axis" x1="10" y1="{base}" x2="{WIDTH - 10}" y2="{base}"/>')
    return _svg([*drawn, *_legend(list(found), base + 24)], base + 46, title)


def intervals(rows: Mapping[str, Estimate], title: str) -> str:
    """Draw a point with its interval for each row, and a line at one half, which is fair."""
    low = min(0.45, *(row["low"] for row in rows.values()))
    high = max(0.55, *(row["high"] for row in rows.values()))
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    height = ROW * len(rows) + 6

    def at(share: float) -> str:
        return f"{LEFT + (share - low) * scale:.1f}"

    drawn = [f'<line class="fair" x1="{at(0.5)}" y1="0" x2="{at(0.5)}" y2="{height}"/>',
             f'<text class="mid" x="{at(0.5)}" y="{height + 14}">50 %</text>']
    for i, (name, row) in enumerate(rows.items()):
        y = 4 + i * ROW
        drawn += [_name(name, y),
                  f'<line class="reach" x1="{at(row["low"])}" y1="{y + 8}" x2="{at(row["high"])}" '
                  f'y2="{y + 8}"/>',
                  f'<circle class="s0" cx="{at(row["share"])}" cy="{y + 8}" r="4"><title>{text(name)}: '
                  f'{100 * row["share"]:.1f} % of {row["n"]:,}, 95 % interval {100 * row["low"]:.1f} to '
                  f'{100 * row["high"]:.1f}</title></circle>',
                  f'<text x="{WIDTH - RIGHT + 8}" y="{y + 12}">{100 * row["share"]:.1f} %</text>']
    return _svg(drawn, height + 20, title)


def matrix(names: Sequence[str], pairs: Sequence[PairOfAnnotators], title: str) -> str:
    """Draw the share of equal judgements of each two annotators: the darker, the more above one half."""
    size = min(34.0, (WIDTH - LEFT) / len(names))
    drawn = []
    for i, name in enumerate(names):
        drawn.append(_name(name, round(20 + i * size + size / 2 - 8)))
        drawn.append(f'<text class="mid" x="{LEFT + (i + 0.5) * size:.1f}" y="14"><title>{text(name)}</title>'
                     f'{text(name[: int(size / 7)])}</text>')
    for pair in pairs:
        if not set(pair["annotators"]) <= set(names):
            continue
        i, j = (names.index(name) for name in pair["annotators"])
        alpha = f', alpha {pair["alpha"]["value"]:.2f}' if "alpha" in pair else ""
        shade = max(0.0, 2 * pair["share"] - 1)
        for x, y in ((i, j), (j, i)):
            drawn.append(
                f'<rect class="s0" fill-opacity="{0.08 + 0.62 * shade:.2f}" x="{LEFT + x * size:.1f}" '
                f'y="{20 + y * size:.1f}" width="{size - 1:.1f}" height="{size - 1:.1f}"><title>'
                f'{text(" and ".join(pair["annotators"]))}: {100 * pair["share"]:.1f} % of '
                f'{pair["n"]:,}{alpha}</title></rect><text class="mid" x="{LEFT + (x + 0.5) * size:.1f}" '
                f'y="{20 + (y + 0.5) * size + 4:.1f}">{100 * pair["share"]:.0f}</text>')
    return _svg(drawn, round(24 + len(names) * size), title)


def text(untrusted: str) -> str:
    """Return a text as the content of an element, escaped, control characters replaced."""
    return escape("".join(character if character >= " " or character in "\n\t" else "\ufffd"
                          for character in untrusted))


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [n / total for n in counts]


def _first_above(limit: float, shares: Sequence[float]) -> int:
    return next(i for i, share in enumerate(shares) if share > limit)


def _name(name: str, y: int) -> str:
    cut = name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
    return f'<text class="end" x="{LEFT - 6}" y="{y + 12}"><title>{text(name)}</title>{text(cut)}</text>'


def _legend(parts: Sequence[str], y: int) -> list[str]:
    drawn, x = [], 10
    for i, part in enumerate(parts):
        drawn.append(f'<rect class="s{i}" x="{x}" y="{y}" width="10" height="10"/>'
                     f'<text x="{x + 14}" y="{y + 9}">{text(part)}</text>')
        x += 26 + 7 * len(part)
    return drawn


def _svg(drawn: Sequence[str], height: int, title: str) -> str:
    return (f'<figure><figcaption>{text(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{text(title)}">{"".join(drawn)}</svg></figure>')
