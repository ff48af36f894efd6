"""The tables of the feedback store, as SQLAlchemy writes to them. `migrations/` makes and changes them.

Times are ISO 8601 in UTC with microseconds, which sort as texts.
"""

from sqlalchemy import JSON, Column, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData()

pairs = Table(
    "pairs", metadata,
    Column("id", String, primary_key=True),
    Column("prompt", JSON, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("size", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("kind", String, nullable=False),
    Column("source", String, nullable=False),
    Column("made", String, nullable=False),
)
"""Pairs offered to people: prompt, answers with models and rewards, reason for the choice. Rows never
change."""

verdicts = Table(
    "verdicts", metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False, unique=True),
    Column("pair", String, ForeignKey("pairs.id"), nullable=False, index=True),
    Column("choice", String, nullable=False),
    Column("ranks", JSON),
    Column("strength", Integer),
    Column("comment", Text, nullable=False),
    Column("annotator", String, nullable=False, index=True),
    Column("session", String, nullable=False, index=True),
    Column("shown", JSON, nullable=False),
    Column("time", String, nullable=False),
    Column("undone", String),
)
"""Verdicts on pairs. Only `undone`, the time at which a verdict was taken back or replaced, ever changes."""

collections = Table(
    "collections", metadata,
    Column("id", Integer, primary_key=True),
    Column("action", String, nullable=False),
    Column("planned", String, nullable=False),
    Column("batch", String),
    Column("finished", String),
)
"""Batches of verdicts: `action` is add or remove; `batch` is the digest, once it has arrived."""

collected = Table(
    "collected", metadata,
    Column("verdict", Integer, ForeignKey("verdicts.id"), primary_key=True),
    Column("action", String, primary_key=True),
    Column("collection", Integer, ForeignKey("collections.id"), nullable=False, index=True),
    Column("lines", Text, nullable=False),
)
"""Verdicts by batch, with the lines that they became. A verdict is added at most once, and removed at most
once."""
