"""Real preference files import as they are. They lie beside the checkout; where they do not, this is skipped."""

from pathlib import Path

import pytest

from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Quarantined, Unread
from plumbline.preferences.types import Comparison, Demonstration

FILES = Path(__file__).parents[2] / "../shared/data"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="the real files are not here")


def read(name):
    found = list(read_file(FILES / name, name))
    quarantined = [row for row in found if isinstance(row, Quarantined)]
    return [row for row in found if not isinstance(row, Quarantined | Unread)], quarantined


def test_alpaca_eval_annotations():
    found, quarantined = read("alpaca_eval_annotations.jsonl.gz")
    assert len(found) + len(quarantined) == 8050
    assert {row.reason for row in quarantined} == {"it is the same text as output_1"}  # 24 ties of equal outputs
    assert len(quarantined) == 24
    rows = [row for row in found if isinstance(row, Comparison)]
    assert {(row.origin.annotator, row.origin.machine) for row in rows} == {("weighted_alpaca_eval_gpt4_turbo", True)}
    assert len({row.origin.source for row in rows}) == 5
    assert len({row.prompt for row in rows}) == 805
    assert sum(row.label == "tie" for row in rows) == 2


def test_sharegpt_pairs():
    rows, quarantined = read("dpo_sharegpt.json.gz")
    assert (len(rows), len(quarantined)) == (300, 0)
    assert sum(row.prompt[0].role == "system" for row in rows) == 80
    assert max(len(row.prompt) for row in rows) == 13


def test_alpaca_instructions():
    rows, quarantined = read("alpaca_instructions.json.gz")
    assert (len(rows), len(quarantined)) == (999, 0)
    assert all(isinstance(row, Demonstration) for row in rows)
    assert rows[0].prompt[0].content == "Describe a process of making crepes."
