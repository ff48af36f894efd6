"""The stages' own reports become blocks; nothing in them is markup."""

from pathlib import Path

from plumbline.config import load_params
from plumbline.evaluation.examination import ScoredComparison, examine
from plumbline.evaluation.markdown import quoted, table
from plumbline.evaluation.reward_report import write_report
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.web.drawing.markdown import ReportBlock as Block
from plumbline.web.drawing.markdown import blocks


def test_every_kind_of_block() -> None:
    text = "\n".join(["# Title", "", "A tie counts.", "", *table(("a", "b"), [("x|y", "1")]), "![wins](wins.png)", "",
                      "- one", "- two: [worst.md](worst.md)", "", "## 1", "", *quoted("First\n\nlast"),
                      "**policy** (kl 2.00)", ""])
    assert blocks(text) == [
        Block("heading", ("Title",), level=1), Block("paragraph", ("A tie counts.",)),
        Block("table", header=("a", "b"), rows=(("x|y", "1"),)), Block("list", ("one", "two: worst.md")),
        Block("heading", ("1",), level=2), Block("quote", ("First", "", "last")), Block("label", ("policy (kl 2.00)",))]


def test_a_quoted_text_cannot_become_markup() -> None:
    found = blocks("\n".join(quoted("# no heading\n| no | table |\n- no list\n<b>")))
    assert found == [Block("quote", ("# no heading", "| no | table |", "- no list", "<b>"))]


def test_broken_reports_do_not_break_the_page() -> None:
    for text in ("", "|", "| a |", "#", "- ", "    ", "**", "![", "| a |\n| b |\n| c"):
        assert isinstance(blocks(text), list)


def test_the_report_of_an_examination(tmp_path) -> None:
    origin = Origin("web", "ada")
    pairs = [ScoredComparison(Comparison((Message("user", f"Q{i}"),), ("a", "bb"), "A", origin), (1.0, i % 2 * 2.0))
             for i in range(40)]
    limits = load_params(Path(__file__).resolve().parents[3]).reward_eval
    write_report(tmp_path, examine(pairs, None), pairs, [], limits)
    found = blocks((tmp_path / "report.md").read_text())
    tables = [block for block in found if block.kind == "table"]
    assert tables[0].rows[0][0] == "the reward model" and "50.0 %" in tables[0].rows[0][1]
    headings = [block.lines[0] for block in found if block.kind == "heading"]
    assert headings[1:] == ["What the gate asks", "By margin", "By source", "By annotator", "By agreement", "By length"]
