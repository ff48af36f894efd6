"""The reward model's report can be read, comes out the same each time, and its gate asks for enough evidence."""

import json
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.errors import GateFailed
from plumbline.evaluation.examination import examine, score_comparisons
from plumbline.evaluation.gate import require_passed, write_verdict
from plumbline.evaluation.reward_report import gate, write_report
from plumbline.preferences.simulated import gold_reward, rows
from plumbline.preferences.types import Comparison, Message, Origin, comparisons_of

LIMITS = load_params(Path(__file__).resolve().parents[2]).reward_eval


def asking(least):
    """The limits of the gate with a smallest accuracy, and nothing else."""
    return LIMITS.model_copy(update={"min_accuracy": least, "min_similar_length_accuracy": None,
                                     "beats_length": False, "min_kind_accuracy": None})


@pytest.fixture(scope="module")
def examined():
    pairs = [pair for row in rows(0, 0, 200, 10) for pair in comparisons_of(row)]
    scored = score_comparisons(pairs, lambda texts: [gold_reward(*one) + 0.01 * len(one[1]) for one in texts])
    return scored, examine(scored, gold_reward)


def test_the_report_says_accuracy_ceiling_and_baseline(tmp_path, examined):
    scored, found = examined
    write_report(tmp_path, found, scored, [], LIMITS)
    report = (tmp_path / "report.md").read_text()
    for what in (found.accuracy, found.ceiling, found.longer_baseline):
        assert f"{100 * what.value:.1f} % [" in report
    assert "Gate passed" in report and "| accuracy, lower end at least 65 % |" in report
    assert all(f"| {name} |" in report for name in ("ada", "ben", "finn"))
    assert all(f"| {name} |" in report for name in ("howto", "decline", "unanimous", "split", "much longer", "similar"))
    assert "on pairs of similar length" in report and "preferring the shorter" in report
    assert "## 1. By" in (tmp_path / "worst.md").read_text()
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_examination_gives_the_same_bytes(tmp_path, examined):
    scored, found = examined
    for name in ("one", "two"):
        write_report(tmp_path / name, found, scored, [], LIMITS)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["calibration.png", "report.md", "scores.png", "worst.md"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_the_gate_asks_for_the_lower_end_of_the_interval(tmp_path, examined):
    found = examined[1]
    assert gate(found, [], asking(found.accuracy.low)) == []
    reasons = gate(found, [], asking(found.accuracy.low + 0.001))  # though the accuracy itself is far above
    assert "below reward_eval.min_accuracy" in reasons[0]
    write_verdict(tmp_path / "gate.json", reasons)
    assert json.loads((tmp_path / "gate.json").read_text()) == {"passed": False, "reasons": reasons}
    with pytest.raises(GateFailed, match=r"below reward_eval\.min_accuracy"):
        require_passed(tmp_path / "gate.json")
    write_verdict(tmp_path / "gate.json", [])
    require_passed(tmp_path / "gate.json")


def test_two_lucky_comparisons_do_not_pass(examined):
    found = examine([one for one in examined[0] if one.margin > 0][:2], None)
    assert found.accuracy.value == 1.0
    assert gate(found, [], asking(0.55))


def test_untrusted_text_stays_text(tmp_path):
    pair = Comparison((Message("user", "# q\n<script>"),), ("# one\n| x |", "two\n\n## no"), "A", Origin("a|b\nc"))
    scored = score_comparisons([pair], lambda texts: [float(i) for i in range(len(texts))])  # wrong on purpose
    write_report(tmp_path, examine(scored, None), scored, [], LIMITS)
    lines = [line for file in tmp_path.glob("*.md") for line in file.read_text().splitlines()]
    assert not any(line.startswith(("<script>", "# q", "# one", "## no", "c |")) for line in lines)
    assert any("<script>" in line for line in lines)
