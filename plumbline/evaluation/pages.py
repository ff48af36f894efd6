"""Small parts of the reports: tables, quoted texts, pictures.

Prompts and responses are untrusted: they stand in reports as indented code, where nothing is markup. Pictures have the
same bytes for the same figures: no times, no software version.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plumbline.preferences.types import Prompt
from plumbline.statistics import Interval

BLUE, ORANGE, GREY = "#3b6ea8", "#d98032", "#b8bec6"
DOTS_PER_INCH = 110


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with an empty one at the end; none without rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines, ""] if lines else []


def quoted(text: str, characters: int = 1500) -> list[str]:
    """The lines of a text as indented code, cut where it gets long."""
    cut = text if len(text) <= characters else text[:characters] + " ..."
    return [*("    " + line for line in cut.splitlines() or ["(empty)"]), ""]


def conversation(prompt: Prompt) -> str:
    """A prompt as text: its one request, or its turns with their roles."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def percent(interval: Interval) -> str:
    """`71.3 % [68.0, 74.5]`, for a share."""
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with panels side by side, on white, without boxes."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GREY)
        panel.tick_params(color=GREY, labelsize=9)
        panel.grid(color=GREY, alpha=0.3, linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, file: Path) -> None:
    """Write the picture, with the same bytes each time."""
    figure.savefig(file, metadata={"Software": None})
