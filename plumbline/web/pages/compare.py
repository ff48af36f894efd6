"""The compare page: two policies prompt by prompt, and what differs in their parameters, data and code."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plumbline.history.history import History
from plumbline.history.reports import Reports
from plumbline.web.drawing.charts import intervals
from plumbline.web.site import NotFound, site_of
from plumbline.web.views.compare import SORTS, Side, arranged, batches, match, side, stages
from plumbline.web.views.home import champion_of, differences, win_rates

SECTION = "Compare"
PAGE = 15
CHOICES = 100
FIGURES = (("preference_eval", "win_rate_vs_sft", "win rate against SFT"),
           ("preference_eval", "kl_policy", "KL to SFT, nats"),
           ("preference_eval", "characters_policy", "characters a response"),
           ("preference_eval", "stopped_policy", "responses that stop"),
           ("reward_eval", "accuracy", "reward model, held-out accuracy"),
           ("preference_eval", "preference_accuracy_policy", "preferred response more likely"))

router = APIRouter(include_in_schema=False)


@router.get("/compare")
def compare(request: Request, a: str = "", b: str = "", view: str = "answers", sort: str = "difference",
            better: str = "", q: str = "", at: int = 0) -> HTMLResponse:
    """Show two policies side by side; without names the newest version and the champion."""
    site = site_of(request)
    left, right = _sides(site.history, a, b)
    choices = _choices(site.history)
    if left is None or right is None:
        return site.page("compare.html", section=SECTION, a=left, b=right, choices=choices, view=view)
    query = {"sort": sort if sort in SORTS else "difference", "better": better, "q": q.strip()}
    found = match(Reports(site.history), left, right)
    pairs, at = arranged(found, query["sort"], query["better"], query["q"]), max(at, 0)
    rate = found.rate()
    return site.page(
        "compare.html", section=SECTION, a=left, b=right, choices=choices, sorts=SORTS, query=query,
        found=found, view=view if view in ("answers", "settings") else "answers", pairs=pairs[at:at + PAGE],
        at=at, size=PAGE, all=len(pairs), rate=intervals([rate], "A against B") if rate else None,
        figures=_figures(left, right), rates=(win_rates(left.run), win_rates(right.run)),
        params=differences(left.run.params, right.run.params), stages=stages(left.run, right.run),
        batches=batches(left.run, right.run))


def _sides(history: History, a: str, b: str) -> tuple[Side | None, Side | None]:
    """Return the two policies. Raises NotFound for a name that is given and not known."""
    champion = champion_of(history)
    newest = next(iter(history.versions.values()), None)
    first = a or (str(newest.number) if newest else "")
    others = [champion.version.number] if champion else []
    others += history.versions
    names = (first, b or next((str(number) for number in others if str(number) != first), first))
    found = tuple(side(history, name) if name else None for name in names)
    for name, given, one in zip(names, (a, b), found, strict=True):
        if given and one is None:
            raise NotFound(f"There is no policy {name!r:.80} to compare: expected a version's number or "
                           "alias, or a run's id, whose records are still there.")
    return found[0], found[1]


def _choices(history: History) -> list[tuple[str, str]]:
    """Return versions to choose from with their labels, the newest first."""
    return [(str(one.number),
             f"version {one.number}" + (f" ({', '.join(one.aliases)})" if one.aliases else "")
             + f", {one.created[:10]}") for one in list(history.versions.values())[:CHOICES]]


def _figures(a: Side, b: Side) -> list[tuple[str, float | None, float | None]]:
    """Return the label of each figure that one of them has, with both values."""
    found = []
    for stage, name, label in FIGURES:
        values = [step.metrics.get(name) if (step := one.run.steps.get(stage)) else None for one in (a, b)]
        if values != [None, None]:
            found.append((label, values[0], values[1]))
    return found
