"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "pairs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("answers", sa.JSON, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("made", sa.String, nullable=False),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("pair", sa.String, sa.ForeignKey("pairs.id"), nullable=False, index=True),
        sa.Column("choice", sa.String, nullable=False),
        sa.Column("ranks", sa.JSON),
        sa.Column("strength", sa.Integer),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("annotator", sa.String, nullable=False, index=True),
        sa.Column("session", sa.String, nullable=False, index=True),
        sa.Column("shown", sa.JSON, nullable=False),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("undone", sa.String),
    )
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("planned", sa.String, nullable=False),
        sa.Column("batch", sa.String),
        sa.Column("finished", sa.String),
    )
    op.create_table(
        "collected",
        sa.Column("verdict", sa.Integer, sa.ForeignKey("verdicts.id"), primary_key=True),
        sa.Column("action", sa.String, primary_key=True),
        sa.Column("collection", sa.Integer, sa.ForeignKey("collections.id"), nullable=False, index=True),
        sa.Column("lines", sa.Text, nullable=False),
    )
