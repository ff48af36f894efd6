"""The compare pages: two policies prompt by prompt, with what differs in their parameters, data and code; and
the candidates of a run beside its PPO.
"""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from plumbline.history.history import History, Run
from plumbline.web.drawing.charts import Bar, intervals
from plumbline.web.site import NotFound, not_found, site_of, url
from plumbline.web.views.compare import SORTS, arranged, batches, match, stages
from plumbline.web.views.comparison import candidate_rates, kl_bars
from plumbline.web.views.home import differences, win_rates
from plumbline.web.views.sides import POLICY, SFT, Side, choices, side, usual_sides

SECTION = "Compare"
PAGE = 15
COMPARISONS = 5
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
    offered, compared = choices(site.history), _compared(site.history)
    if left is None or right is None:
        return site.page("compare.html", section=SECTION, a=left, b=right, choices=offered, view=view,
                         compared=compared)
    query = {"sort": sort if sort in SORTS else "difference", "better": better, "q": q.strip()}
    found = match(site.reports, left, right)
    pairs, at = arranged(found, query["sort"], query["better"], query["q"]), max(at, 0)
    rate = found.rate()
    return site.page(
        "compare.html", section=SECTION, a=left, b=right, choices=offered, sorts=SORTS, query=query,
        compared=compared, found=found, view=view if view in ("answers", "settings") else "answers",
        pairs=pairs[at:at + PAGE], at=at, size=PAGE, all=len(pairs),
        rate=intervals([rate], "A against B") if rate else None,
        figures=_figures(left, right), rates=(_rates(left), _rates(right)),
        params=differences(left.params, right.params), stages=stages(left.run, right.run),
        batches=batches(left.run, right.run))


@router.get("/runs/{id}/comparison")
def comparison(request: Request, id: str) -> Response:
    """Show the candidates of a run beside its PPO, and lead to their answers."""
    site = site_of(request)
    with not_found():
        run = site.history.run(id)
    if run.id != id:
        return RedirectResponse(url("runs", run.id, "comparison"), status_code=307)
    found = site.reports.comparison(run)
    if found is None:
        raise NotFound(f"Run {run.id} has no comparison of candidates that could be shown: "
                       "`plumbline compare NAME` makes one, at its end.")
    policies = [(run.id, "PPO's policy"), (f"{run.id}:{SFT}", "SFT")]
    policies += [(f"{run.id}:candidate@{name}", name) for name in run.compare]
    return site.page("comparison.html", section=SECTION, run=run, found=found, policies=policies,
                     rates=candidate_rates(found), kl=kl_bars(found), name_of_row=_name_of_row)


def _name_of_row(run: Run, name: str) -> str:
    """Return how addresses name the policy of a row."""
    return f"{run.id}:candidate@{name}" if name in run.compare else run.id


def _compared(history: History) -> list[Run]:
    """Return the newest runs that set candidates beside PPO and came to their end."""
    return [run for run in history.runs.values() if run.compare and run.status == "finished"][:COMPARISONS]


def _rates(one: Side) -> list[Bar]:
    """Return the win rates of what an evaluation is about; none of SFT and of the champion."""
    return win_rates(one.run, one.evaluation) if one.contestant == POLICY else []


def _sides(history: History, a: str, b: str) -> tuple[Side | None, Side | None]:
    """Return the two policies. Raises NotFound for a name that is given and not known."""
    first, second = usual_sides(history)
    first, second = a or first, b or (second if second != a else first)
    names = (first, second)
    found = tuple(side(history, name) if name else None for name in names)
    for name, given, one in zip(names, (a, b), found, strict=True):
        if given and one is None:
            raise NotFound(f"There is no policy {name!r:.80} to compare: expected a version's number or "
                           "alias, or a run's id, alone or with :sft, :champion or :candidate@NAME, whose "
                           "records are still there.")
    return found[0], found[1]


def _figures(a: Side, b: Side) -> list[tuple[str, float | None, float | None]]:
    """Return the label of each figure that one of them has, with both values."""
    found = []
    for stage, name, label in FIGURES:
        values = [one.figure(stage, name) for one in (a, b)]
        if values != [None, None]:
            found.append((label, values[0], values[1]))
    return found
