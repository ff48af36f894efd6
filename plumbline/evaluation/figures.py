"""Figures of the reports: plain axes on white, with the same bytes for the same data (no times, no
version)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b6ea8", "#d98032", "#b8bec6"
DOTS_PER_INCH = 110


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` by `height` inches and its `panels` axes, side by side."""
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
    """Write `figure` as PNG to `file`, without the metadata that would differ between versions."""
    figure.savefig(file, metadata={"Software": None})
