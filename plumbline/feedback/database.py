"""The feedback store's database: SQLite in the home, or the PostgreSQL that PLUMBLINE_FEEDBACK_URL names.

A committed transaction is on the disk (SQLite: write-ahead log with synchronous=FULL). Tables are made and
changed when the store is opened, by one process at a time. One store belongs to one project: it remembers
which verdicts went into which of the project's batches.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.locks import file_lock

FEEDBACK_URL = "PLUMBLINE_FEEDBACK_URL"
REVISION = "1"
"""The newest change in `migrations/`."""
BUSY_SECONDS = 30
CONNECT_SECONDS = 10
POOL = 16
"""Connections that are kept open."""
LOCK_NUMBER = 7_461_202
"""PostgreSQL's advisory lock for changing the tables: any number, used for nothing else."""


def database_url(home: Home) -> URL:
    """Return the store's address. Raises UserError unless it is one of SQLite or PostgreSQL."""
    given = os.environ.get(FEEDBACK_URL)
    if not given:
        return URL.create("sqlite", database=str(home.folder / "feedback.db"))
    try:
        url = make_url(given)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(f"{FEEDBACK_URL} should be the address of a database, such as "
                        f"postgresql://user:password@host/name; it is not: {error}.") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(f"{FEEDBACK_URL} names {url.get_backend_name()}; expected postgresql or sqlite.")
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def is_there(home: Home) -> bool:
    """True if the project has a store; does not make one."""
    url = database_url(home)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def open_database(home: Home) -> Engine:
    """Connect, and bring the tables up to date. Raises UserError if that fails."""
    url = database_url(home)
    home.folder.mkdir(parents=True, exist_ok=True)
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    with unreachable(engine), engine.connect() as connection:
        known = _revision(connection)
    if known != REVISION:
        with unreachable(engine), _alone(home, engine), engine.begin() as connection:
            _migrate(connection)
    return engine


@contextmanager
def unreachable(engine: Engine) -> Iterator[None]:
    """Raise UserError, with one paragraph, for any failure of the database in the block."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise UserError(f"The feedback store {engine.url.render_as_string()} cannot be used: {reason}. "
                        "Verdicts are kept there; check that it is there and may be written to "
                        f"({FEEDBACK_URL} names another one).") from error


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, pool_size=POOL, max_overflow=POOL, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        connection.isolation_level = None  # type: ignore[attr-defined] # BEGIN is ours

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would otherwise fail if another one wrote in
        # between.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(url, pool_size=POOL, pool_pre_ping=True,
                             connect_args={"connect_timeout": CONNECT_SECONDS})
    except ModuleNotFoundError:
        raise UserError(f"{FEEDBACK_URL} names a PostgreSQL database, and its driver is not installed: pip "
                        "install 'plumbline[postgres]'.") from None


@contextmanager
def _alone(home: Home, engine: Engine) -> Iterator[None]:
    """Hold the lock under which the tables are changed."""
    if engine.dialect.name == "sqlite":
        with file_lock(home.folder / "feedback.lock"):
            yield
    else:
        with engine.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({LOCK_NUMBER})"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({LOCK_NUMBER})"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise UserError(f"The feedback store has been changed by another version of Plumbline ({error}). Use "
                        "that version, or a newer one.") from None
