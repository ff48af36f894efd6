"""The home page: the champion, what is running, what has changed, what comes next, and how the versions
developed.

Beside it the page where a person gives the token; `plumbline.web.guard` checks what that page posts.
"""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from plumbline.history.history import History, RegisteredVersion, Run
from plumbline.project.home import Home
from plumbline.tracking.registry import AWAITING, CHALLENGER
from plumbline.web.security import SIGN_IN
from plumbline.web.site import site_of
from plumbline.web.views.home import (
    Champion,
    champion_of,
    changed_code,
    changed_parameters,
    trends,
    win_rates,
)
from plumbline.web.views.live import stage_progress
from plumbline.web.views.sides import comparable

router = APIRouter(include_in_schema=False)
LATEST = 8


@router.get("/")
def home_page(request: Request, reload: bool = True) -> HTMLResponse:
    """Show the state of the project; the page reloads itself while something runs."""
    site = site_of(request)
    history = site.history
    champion = champion_of(history)
    changed = SinceChampion(site.home, champion.run) if champion and champion.run else None
    running = [run for run in history.runs.values() if run.status == "running"]
    return site.page("home.html", champion=champion, challenger=challenger_of(history, champion),
                     awaiting=history.version(AWAITING),
                     running=[(run, stage_progress(run)) for run in running], reload=reload and bool(running),
                     runs=history.runs, comparable=comparable(history),
                     latest=list(history.runs.values())[:LATEST], total=len(history.runs),
                     win_rates=win_rates, due=site.freshness.due,
                     changed=changed, trends=trends(history))


@router.get(SIGN_IN)
def sign_in(request: Request) -> HTMLResponse:
    """Show the form for the token."""
    return site_of(request).page("sign_in.html")


def challenger_of(history: History, champion: Champion | None) -> RegisteredVersion | None:
    """Return the newest version if it is not the champion."""
    found = history.version(CHALLENGER)
    return found if found and (champion is None or found.number != champion.version.number) else None


class SinceChampion:
    """What is not as it was when the champion was made."""

    def __init__(self, home: Home, run: Run) -> None:
        self.run = run
        self.params = changed_parameters(home, run)
        code = changed_code(home, run)
        self.code: Sequence[str] = code or ()
        self.code_known = code is not None
