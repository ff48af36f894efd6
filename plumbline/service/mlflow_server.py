"""MLflow's pages as `plumbline up` serves them: one process, on tables that are surely there."""

from typing import TYPE_CHECKING

from plumbline.project.home import find_home
from plumbline.tracking.store import connect, require_store

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app() -> "FastAPI":
    """Return MLflow's application. Raises StoreGone if a store that runs were recorded in has vanished."""
    home = find_home()
    if home.artifacts.exists():
        require_store(home)
    connect(home)
    from mlflow.server.fastapi_app import app

    served: FastAPI = app
    return served
