"""What every page needs: the project, its history, and the way to render a template."""

from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from plumbline.lineage.history import History
from plumbline.lineage.home import Home

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Site:
    """One running server: `request.app.state.site`."""

    home: Home
    history: History
    """Kept up to date in the background; a page only reads it."""
    templates: Environment

    def page(self, template: str, status: int = 200, **context: object) -> HTMLResponse:
        """Render a template of `plumbline/web/templates`. Everything in it is escaped."""
        return HTMLResponse(self.templates.get_template(template).render(**context), status_code=status)


def new_site(home: Home) -> Site:
    """The site of a project."""
    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    return Site(home, History(home), templates)


def site_of(request: Request) -> Site:
    """The site that a request came to."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site
