"""A feedback store in a project of its own, on SQLite and, where it can be started, on PostgreSQL."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedPair
from plumbline.project.home import Home
from testing.postgres import Cluster, start_cluster
from testing.verdict_makers import pair_number


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL server of this test session's own."""
    started = start_cluster()
    if started is None:
        pytest.skip("No PostgreSQL: install it (initdb, postgres) to run these tests.")
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A project whose feedback store is in either database."""
    for name in [name for name in os.environ if name.startswith(("PLUMBLINE_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        name = f"feedback_{secrets.token_hex(4)}"
        server = create_engine(cluster.url("postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        server.dispose()
        monkeypatch.setenv("PLUMBLINE_FEEDBACK_URL", cluster.url(name, "postgresql"))
    yield Home(tmp_path, tmp_path / ".plumbline")


@pytest.fixture
def store(home: Home) -> Iterator[FeedbackStore]:
    """Its store, open."""
    opened = FeedbackStore.open(home)
    yield opened
    opened.close()


@pytest.fixture
def pair(store: FeedbackStore) -> OfferedPair:
    """A pair that people are asked about."""
    made = pair_number(0)
    store.add_pairs([made])
    return made
