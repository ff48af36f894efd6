"""The web application: every page, behind one set of headers and checks."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import plumbline.web.pages
from plumbline.project.home import Home
from plumbline.web.guard import Guard
from plumbline.web.problems import add_error_pages
from plumbline.web.security import open_keys, own_names
from plumbline.web.site import STATIC, new_site
from plumbline.web.updates import updating

ABOUT = ("What Plumbline has recorded, as JSON. What changes something needs the token, as `Authorization: "
         "Bearer TOKEN`; reading does where the pages are open to other machines.")


def create_app(home: Home, names: Sequence[str] = (), private: bool = False) -> FastAPI:
    """Return the application of a project, which answers to the host names `names` besides this machine's
    own.

    Where it is `private`, reading needs the token as well.
    """
    site = new_site(home)
    site.templates.globals.update(private=private)
    app = FastAPI(title="Plumbline", description=ABOUT, docs_url=None, redoc_url=None,
                  openapi_url="/api/openapi.json", lifespan=updating(site))
    app.state.site = site
    keys, _ = open_keys(home)
    app.add_middleware(Guard, keys=keys, names=own_names(*names), private=private)
    add_error_pages(app)
    for router in routers():
        app.include_router(router)
    app.mount("/static", StaticWithHash(directory=STATIC), name="static")
    return app


def routers() -> Iterator[APIRouter]:
    """Yield the `router` of every module in `plumbline/web/pages`."""
    for module in sorted(pkgutil.iter_modules(plumbline.web.pages.__path__), key=lambda module: module.name):
        router = importlib.import_module(f"plumbline.web.pages.{module.name}").router
        assert isinstance(router, APIRouter)
        yield router


class StaticWithHash(StaticFiles):
    """Files with an ETag; one that was asked for by its content's hash never changes."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file's answer."""
        response = await super().get_response(path, scope)
        if scope["query_string"].startswith(b"v="):
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response
