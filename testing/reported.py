"""Rows for the tests of the data report, and the report on them."""

import tempfile
from pathlib import Path

from plumbline.preferences.report.build import ReportBuilder
from plumbline.preferences.report.reporter import Reporter
from plumbline.preferences.splits import prompt_key, split_of
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.workers import Workers

COUNTS = {"rows_read": 10, "rows_accepted": 10, "duplicates": 0, "quarantined": 0}


def prompt(text="Question"):
    return (Message("user", text),)


def judged(label, annotator="ada", responses=("one", "two"), of="Question", source="house", machine=None):
    return Comparison(prompt(of), responses, label, Origin(source, annotator, machine=machine))


def reported(rows, derived=(), counts=COUNTS, sizes=None, quarantined=(), batches=(), parts=1):
    """The report on rows that are seen in so many parts."""
    with tempfile.TemporaryDirectory() as folder:
        builder = ReportBuilder(Path(folder), len(rows))
        for part in range(parts):
            reporter = Reporter()
            for row in rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]:
                key = prompt_key(row.prompt)
                reporter.add(row, int(key[:16], 16), split_of(key, 0.1, 0.3))
            builder.take(reporter)
        reporter = Reporter()
        for preference in derived:
            reporter.derived(preference, int(prompt_key(preference.prompt)[:16], 16))
        builder.take(reporter)
        return builder.report("digest", counts, sizes or {}, quarantined, batches, Workers(1))
