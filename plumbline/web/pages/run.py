"""The pages of runs: a list with filters, and one run with everything that is known about it."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from plumbline.compute.settings import described_host
from plumbline.history.history import Run
from plumbline.lineage.graph import BY_STAGE
from plumbline.web.site import not_found, site_of, url
from plumbline.web.views import run as run_view
from plumbline.web.views.home import champion_of, differences, win_rates
from plumbline.web.views.live import log_tail, logs_of, stage_progress
from plumbline.web.views.people import people_of
from plumbline.web.views.training import trainings

router = APIRouter(include_in_schema=False)
PAGE = 50
STATUSES = ("running", "finished", "failed", "cancelled", "killed")


@router.get("/runs")
def run_list(request: Request, status: str = "", q: str = "", page: int = 1) -> HTMLResponse:
    """Show the runs of a status with a word in their id, trigger, settings or message, newest first."""
    site = site_of(request)
    found = [run for run in site.history.runs.values()
             if (not status or run.status == status) and _mentions(run, q)]
    pages = max(1, -(-len(found) // PAGE))
    page = min(max(1, page), pages)
    return site.page("runs.html", latest=found[(page - 1) * PAGE:page * PAGE], found=len(found),
                     wanted=status, q=q, page=page, pages=pages, statuses=STATUSES,
                     total=len(site.history.runs), win_rates=win_rates)


@router.get("/runs/{id}")
def run_page(request: Request, id: str, against: str = "", log: str = "", reload: bool = True) -> Response:
    """Show one run beside the one before it, or the one that `against` names."""
    site = site_of(request)
    with not_found():
        run = site.history.run(id)
        other = site.history.run(against) if against else run_view.earlier(site.history, run)
    if run.id != id:
        return RedirectResponse(url("runs", run.id), status_code=307)
    champion = champion_of(site.history)
    made = site.history.graph.rows.get(run.id, {})
    lineage = {stage: url("lineage", *made[kind]) for stage, kind in BY_STAGE.items() if kind in made}
    lineage |= {stage: url("lineage", *ref)
                for stage, ref in site.history.graph.candidates.get(run.id, {}).items()}
    versions = [version for version in site.history.versions.values()
                if run.id in (version.registered_by, version.run)]
    logs = logs_of(run)
    log = log if log in logs else _interesting(run, logs)
    return site.page("run.html", run=run, other=other, champion=champion, view=run_view,
                     progress=stage_progress(run), lineage=lineage, versions=versions,
                     made_on=described_host,
                     params=differences(other.params, run.params) if other else [],
                     figures=run_view.measured(run, other), gate=run_view.gate_of(site.reports, run),
                     decision=run_view.decision_of(site.reports, run), logs=logs, log=log,
                     comparison=site.reports.comparison(run) if run.compare else None,
                     people=people_of(site.home, site.reports, run), trainings=trainings(site.reports, run),
                     lines=log_tail(run, log), reload=reload and run.status == "running")


def _mentions(run: Run, word: str) -> bool:
    texts = (run.id, run.trigger, run.message or "", run.params_file or "", *run.settings)
    return any(word.lower() in text.lower() for text in texts)


def _interesting(run: Run, logs: list[str]) -> str:
    """Return the stage whose log is shown first: one that failed or runs, otherwise the last that ran."""
    for status in ("failed", "running", "ran"):
        for step in reversed(list(run.steps.values())):
            if step.status == status and step.stage in logs:
                return step.stage
    return logs[-1] if logs else ""
