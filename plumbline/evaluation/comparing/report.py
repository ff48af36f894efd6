"""The report on candidates beside PPO: the table and who is better, as Markdown and JSON, and one picture."""

import json
from dataclasses import asdict
from pathlib import Path

from plumbline.evaluation.comparing.comparison import JSON, PolicyComparison, title_of
from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.markdown import table

MARKDOWN, PICTURE = "comparison.md", "comparison.png"


def write_comparison_report(folder: Path, found: PolicyComparison) -> None:
    """Write comparison.md, comparison.json and comparison.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN).write_text("\n".join(_markdown(found)), encoding="utf-8")
    (folder / JSON).write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    _draw(folder / PICTURE, found)


def _markdown(found: PolicyComparison) -> list[str]:
    header, *rows = found.cells()
    return ["# Candidates beside PPO", "",
            f"Judge: {found.judge}, on {found.prompts} held-out prompts. Win rates with 95 % intervals; "
            "`over PPO` is the difference of the win rates against SFT, in points, over the same prompts; "
            "`KL` is from SFT, in nats an answer; `characters` are those of an answer, where SFT's has "
            f"{found.sft_characters:.0f}; `seconds` are those of training.", "",
            *table(header, rows), f"![win rates]({PICTURE})", "",
            *(f"- {sentence}" for sentence in found.sentences()), "",
            "Who is better is said where the interval of the paired difference excludes 0, at 95 % for all "
            "pairs together. Intervals are over prompts and say nothing of other seeds: training again would "
            "give other policies.", ""]


def _draw(file: Path, found: PolicyComparison) -> None:
    """Draw the win rates with their intervals, and beside them the KL at which each was reached."""
    figure, (rates, kl) = new_figure(9.0, 1.4 + 0.55 * len(found.rows), panels=2)
    places = range(len(found.rows))
    colours = dict(zip(found.opponents, (BLUE, ORANGE, GREY), strict=False))
    for shift, (opponent, colour) in enumerate(colours.items()):
        for place, row in enumerate(found.rows):
            rate = row.win_rates[opponent]
            rates.errorbar(rate.value, place + 0.2 * (shift - 1), color=colour, fmt="o", capsize=3,
                           markersize=4, xerr=[[rate.value - rate.low], [rate.high - rate.value]],
                           label=title_of(opponent) if place == 0 else None)
    rates.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    rates.set(xlim=(0, 1), yticks=places, xlabel="win rate with 95 % interval")
    rates.set_yticklabels([row.name for row in found.rows])
    kl.barh(places, [row.kl or 0.0 for row in found.rows], color=BLUE, height=0.5)
    kl.set(yticks=places, xlabel="KL from SFT, nats an answer")
    kl.set_yticklabels([])
    for panel in (rates, kl):
        panel.set_ylim(len(found.rows) - 0.5, -0.5)
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper right")
    save_figure(figure, file)
