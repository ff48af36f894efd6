"""What every page needs: the project, its history, and the way to render a template."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from plumbline.errors import UserError
from plumbline.history.history import History
from plumbline.history.reports import Reports
from plumbline.project.home import Home
from plumbline.retraining.due import Due
from plumbline.web import security
from plumbline.web.drawing import charts, words
from plumbline.web.views.run import strip, took

HERE = Path(__file__).parent
STATIC = HERE / "static"
COUNTING = "The new comparisons are being counted; look again in a few seconds."


class NotFound(UserError):
    """An address names something that does not exist; the answer has status 404."""

    status = 404


@contextmanager
def not_found() -> Iterator[None]:
    """Around a search by what an address names: raise NotFound for a UserError."""
    try:
        yield
    except UserError as error:
        raise NotFound(str(error)) from error


@dataclass
class Freshness:
    """What the background has found out lately."""

    problem: str = ""
    """Why the history could not be read."""
    due: Due | str = COUNTING
    """The state of the next retraining, or why that is not known."""


@dataclass(frozen=True)
class Site:
    """One running server: `request.app.state.site`."""

    home: Home
    history: History
    """Kept up to date in the background; a page only reads it."""
    templates: Environment
    reports: Reports
    """What stages left to be read: reports, curves, samples."""
    freshness: Freshness

    def page(self, template: str, status: int = 200, script: bool = False, **context: object) -> HTMLResponse:
        """Render a template of `plumbline/web/templates`. Everything in it is escaped.

        Only a page that says `script` may load scripts (files of `static/`) and fetch from this server.
        """
        text = self.templates.get_template(template).render(**context)
        headers = {"content-security-policy": security.SCRIPT_POLICY} if script else {}
        return HTMLResponse(text, status, headers)


def new_site(home: Home) -> Site:
    """Return the site of a project."""
    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True,
                            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.globals.update(url=url, static=static, charts=charts, signed_in=security.signed_in,
                             form_token=security.form_token, form_value=security.form_value)
    templates.filters.update(words.FILTERS, took=took, stages=strip)
    history, freshness = History(home), Freshness()
    templates.globals.update(freshness=freshness, private=False)
    return Site(home, history, templates, Reports(history), freshness)


def site_of(request: Request) -> Site:
    """Return the site that a request came to."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


def url(*parts: object, **query: object) -> str:
    """Return an address on this site, every part quoted: url("runs", id), url("lineage", kind, id, depth=2).

    Query values that are None are left out; a trailing underscore in a name is dropped (from_ -> from).
    """
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    given = [(name.removesuffix("_"), value) for name, value in query.items() if value is not None]
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


@cache
def static(name: str) -> str:
    """Return the address of a file of `static/`, with its content's hash, so that browsers may keep it for
    good.
    """
    content = (STATIC / name).read_bytes()
    return f"/static/{quote(name)}?v={hashlib.sha256(content).hexdigest()[:12]}"
