"""The data pages: what arrived, what a run learned from, each row, and the difference between any two
versions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from plumbline.data.named_versions import PULL, KnownData, NamedData
from plumbline.data.row_history import row_content, row_history
from plumbline.errors import UserError
from plumbline.history.facts import SNAPSHOT
from plumbline.history.history import History
from plumbline.history.reports import Reports
from plumbline.preferences.batches.arrivals import folder_of
from plumbline.preferences.batches.batch import QUARANTINE
from plumbline.preferences.batches.index import KINDS
from plumbline.preferences.batches.whole_batch import put_back
from plumbline.preferences.jsonl import lines
from plumbline.preferences.report.pictures import bars
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.report.sections import Section, sections
from plumbline.preferences.versions.browse import AGREEMENTS, Browser, Page
from plumbline.preferences.versions.compare import changes, flips
from plumbline.web.site import Site, not_found, site_of
from plumbline.web.views.data import ShownRow, shown, wanted_rows

ROWS_A_PAGE = 25
SEARCH_SECONDS = 1.5
LISTED = 100
"""Batches, snapshots or rows set aside on one page, and names in a list to choose from."""
SECTION = "Data"
View = Literal["about", "rows", "aside"]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Aside:
    """A row that could not be used."""

    file: str
    line: int
    field: str
    reason: str


@router.get("/data")
def data(request: Request, at: int = 0) -> HTMLResponse:
    """Show what arrived, and what runs learned from."""
    site = site_of(request)
    known = _known(site)
    arrived, snapshots, at = known.arrivals()[::-1], known.snapshots(), max(at, 0)
    uses: dict[str, int] = {}
    for snapshot in snapshots:
        for batch in snapshot.batches:
            digest = batch.whole or batch.digest
            uses[digest] = uses.get(digest, 0) + len(snapshot.runs)
    return site.page("data.html", section=SECTION, arrivals=arrived[at:at + LISTED], at=at, listed=LISTED,
                     arrived=len(arrived), uses=uses, snapshots=snapshots[at:at + LISTED],
                     taken=len(snapshots), newest=snapshots[0] if snapshots else None,
                     champion=_champion(site.history), not_here=known.not_here(), pull=PULL,
                     damaged=known.damaged())


@router.get("/data/diff")
def difference(request: Request, a: str = "latest", b: str = "now", what: str = "",
               at: int = 0) -> HTMLResponse:
    """Show the rows that two versions do not share, or judge differently."""
    site = site_of(request)
    known = _known(site)
    with not_found():
        before, after = known.find(a), known.find(b)
    choices = _choices(known)
    if before.version is None or after.version is None:
        return site.page("data_diff.html", section=SECTION, a=before, b=after, parts=None, choices=choices)
    old, new = known.browser(before).columns, known.browser(after).columns
    found, at = changes(old, new), max(at, 0)
    parts = {"added": found.added, "removed": found.removed, "relabelled": found.now}
    what = what if what in parts else next((name for name, rows in parts.items() if len(rows)), "added")
    page = slice(at, at + ROWS_A_PAGE)
    columns = old if what == "removed" else new
    rows = [shown(columns.read(row)) for row in parts[what][page].tolist()]
    previous = [shown(old.read(row)) for row in found.was[page].tolist()] if what == "relabelled" else []
    return site.page("data_diff.html", section=SECTION, a=before, b=after, choices=choices, what=what,
                     rows=rows, previous=previous, parts={name: len(of) for name, of in parts.items()},
                     same=len(found.same), at=at, end=at + len(rows), flips=flips(old, found))


@router.get("/data/rows/{row}")
def one_row(request: Request, row: str) -> HTMLResponse:
    """Show where a row came from, and what became of it."""
    site = site_of(request)
    known = _known(site)
    with not_found():
        found = row_history(known, site.history.versions, row)
        rows, damaged = row_content(known, found)
        if not rows:
            found.require_known()
    found_rows = [shown(one) for one in rows]
    return site.page("data_row.html", section=SECTION, found=found,
                     damaged=dict.fromkeys([*found.damaged, *damaged]),
                     row=found_rows[0] if rows else None, others=found_rows[1:])


@router.get("/data/{name}")
def version(request: Request, name: str, view: str = "", q: str = "", kind: str = "", source: str = "",
            annotator: str = "", agreement: str = "", at: int = 0) -> HTMLResponse:
    """Show what a version holds: the report on it, its rows, or what was set aside."""
    site = site_of(request)
    known = _known(site)
    with not_found():
        data = known.find(name)
    views = ("about", "rows", "aside") if data.version else ("about", "aside")
    shown_view = cast(View, view if view in views else "about")
    query = {"q": q, "kind": kind, "source": source, "annotator": annotator, "agreement": agreement}
    given = {key: value for key, value in query.items() if value}
    context: dict[str, object] = {"data": data, "view": shown_view, "given": given, "query": query}
    if shown_view == "aside":
        files = _aside_files(site.history, data)
        context["aside"] = _set_aside(files or ())
        context["elsewhere"] = files is None
    elif shown_view == "about":
        context["report"] = _report(site.reports, data)
        context["picture"] = None
    if data.version is not None:
        browser = known.browser(data)
        context |= {"rows": len(browser), "counts": browser.counts, "prompts": browser.prompts,
                    "agreements": AGREEMENTS, "listed": LISTED}
        if shown_view == "rows":
            page = browser.find(wanted_rows(**query), max(at, 0), ROWS_A_PAGE, SEARCH_SECONDS)
            context |= {"page": page, "found": _shown(browser, page), "size": ROWS_A_PAGE}
        elif shown_view == "about" and context["report"] is None and len(browser):
            drawn = bars(dict(islice(browser.by_source_and_kind().items(), 15)), KINDS, "Rows by source and "
                                                                                        "kind")
            context["picture"] = picture(drawn)
    return site.page("data_version.html", section=SECTION, champion=_champion(site.history), about=context,
                     picture=picture)


def picture(svg: str) -> Markup:
    """Mark a picture of the data report as safe: report/pictures.py made it, and escaped every name in it."""
    return Markup(svg)


def _known(site: Site) -> KnownData:
    return KnownData(site.home, site.history.runs)


def _shown(browser: Browser, page: Page) -> list[ShownRow]:
    return [shown(browser.columns.read(row), bool(browser.disputed[row])) for row in page.rows]


def _champion(history: History) -> str | None:
    """Return the run whose policy is in use."""
    champion = history.version("champion")
    return champion.run if champion else None


def _choices(known: KnownData) -> list[tuple[str, str]]:
    """Return names to choose from with their labels."""
    snapshots = [(one.digest, f"snapshot {one.digest[:8]} of {one.runs[0].created[:10]}, {one.rows:,} rows")
                 for one in known.snapshots()[:LISTED]]
    batches = [(one.digest, f"{one.action} {one.digest[:8]} of {one.added[:10]}, {one.batch.source:.40}")
               for one in known.arrivals()[::-1][:LISTED]]
    return [("now", "now: what the next run learns from"), *snapshots, *batches]


def _report(reports: Reports, data: NamedData) -> list[Section] | None:
    """Return the report of a run that learned from exactly this data, or None."""
    for run in data.snapshot.runs if data.snapshot else ():
        if found := reports.data_report(run):
            try:
                return sections(cast(DataReport, found))
            except (KeyError, TypeError, ValueError):  # written by another version of Plumbline
                continue
    return None


def _set_aside(files: Sequence[Path]) -> list[Aside]:
    """Return the first LISTED rows that could not be used. Raises UserError for a damaged file."""
    found = (line for file in files if file.is_file() for line in lines(file))
    try:
        return [Aside(**json.loads(line)) for line in islice(found, LISTED)]
    except (ValueError, TypeError):
        raise UserError(f"The rows set aside in {' or '.join(map(str, files))} are damaged. "
                        f"{put_back(files[0].parent)}") from None


def _aside_files(history: History, data: NamedData) -> Sequence[Path] | None:
    """Return the files of rows set aside; None if those of a snapshot are not on this machine."""
    if data.arrival is not None:
        return [folder_of(history.home.preferences, data.arrival) / QUARANTINE]
    if data.snapshot is None:
        return []
    names = [f"{batch.digest}.quarantine.jsonl" for batch in data.snapshot.batches if batch.quarantined]
    folders = (run.folder / SNAPSHOT for run in data.snapshot.runs if run.folder is not None)
    found = ([folder / name for name in names] for folder in folders)
    return next((files for files in found if all(file.is_file() for file in files)), None if names else [])
