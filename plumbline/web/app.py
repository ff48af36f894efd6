"""The web application: every page, behind one set of headers and checks."""

from fastapi import FastAPI

from plumbline.lineage.home import Home
from plumbline.web.site import new_site


def create_app(home: Home) -> FastAPI:
    """The application of a project."""
    app = FastAPI(title="Plumbline")
    app.state.site = new_site(home)
    return app
