"""MLflow's pages as `plumbline up` serves them: one process, on tables that are surely there."""

from typing import TYPE_CHECKING

from plumbline.lineage import tracking
from plumbline.lineage.home import find_home

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app() -> "FastAPI":
    """MLflow's application."""
    tracking.connect(find_home())
    from mlflow.server.fastapi_app import app

    served: FastAPI = app
    return served
