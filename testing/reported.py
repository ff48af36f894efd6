"""Rows for the tests of the data report, and the report on them."""

from plumbline.preferences.report.build import Reporter
from plumbline.preferences.splits import prompt_key, split_of
from plumbline.preferences.types import Comparison, Message, Origin

COUNTS = {"rows_read": 10, "rows_accepted": 10, "duplicates": 0, "quarantined": 0}


def prompt(text="Question"):
    return (Message("user", text),)


def judged(label, annotator="ada", responses=("one", "two"), of="Question", source="house", machine=None):
    return Comparison(prompt(of), responses, label, Origin(source, annotator, machine=machine))


def reported(rows, derived=(), counts=COUNTS, sizes=None, quarantined=(), batches=()):
    reporter = Reporter()
    for row in rows:
        key = prompt_key(row.prompt)
        reporter.add(row, key, split_of(key, 0.1, 0.3))
    for preference in derived:
        reporter.derived(preference, prompt_key(preference.prompt))
    return reporter.report("digest", counts, sizes or {}, quarantined, batches)
