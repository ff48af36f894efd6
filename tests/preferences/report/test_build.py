"""The data report: what is known to be in the data is found, nothing is invented, and no row can forge a page."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.report.build import LISTED
from plumbline.preferences.report.pages import markdown, write_report
from plumbline.preferences.simulated import rows as simulated
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating
from testing.reported import COUNTS, judged, prompt, reported

FILES = ("report.json", "report.md", "report.html")
VOID = {"meta", "rect", "line", "circle"}


@pytest.fixture(scope="module")
def world():
    return reported(simulated(0, 200, 3000, 200))


class Page(HTMLParser):
    """Reads a page, and fails on elements that are not closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(report, folder):
    write_report(report, folder)
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES}


def test_the_careless_annotator_and_the_lover_of_length_are_found(world):
    with_others = world["agreement"]["by_annotator"]
    alphas = {name: one["alpha"]["value"] for name, one in with_others.items()}
    assert min(alphas, key=alphas.get) == "finn"
    assert with_others["finn"]["high"] < with_others["ada"]["low"]
    longer = world["bias"]["longer_wins"]["by_annotator"]
    assert max(longer, key=lambda name: longer[name]["share"]) == "dov"


def test_the_simulated_world_has_no_position_bias_and_no_damage(world):
    first = world["judgements"]["first_shown_wins"]
    assert first["low"] < 0.5 < first["high"]
    assert world["texts"]["simulated"]["trouble"] == {}
    assert world["leakage"]["prompts_in_two_splits"] == 0
    assert world["agreement"]["near_chance"]["annotators"] == []
    assert 0.4 < world["agreement"]["alpha"]["value"] < 0.8


def test_rows_are_counted_by_all_that_tells_them_apart():
    demonstration = Demonstration(prompt("Show"), "me", Origin("guide"))
    ranking = Ranking(prompt("Rank"), ("a", "b", "c"), (1, 2, 3), Origin("house", "ben"))
    found = reported([demonstration, judged("A"), judged("B", None), ranking])
    assert found["by_kind"] == {"comparison": 2, "demonstration": 1, "ranking": 1}
    assert found["by_source"] == {"house": 3, "guide": 1}
    assert found["by_annotator"] == {"ada": 1, "ben": 1, "unknown": 1}
    assert found["judgements"]["pairs"] == 5
    by_split = found["strata"]["source_by_split"]
    assert sum(by_split["house"].values()) == 3
    assert found["strata"]["source_by_kind"]["guide"] == {"demonstration": 1, "comparison": 0, "ranking": 0,
                                                          "rating": 0}


def test_an_annotator_who_is_called_unknown_is_unknown():
    found = reported([judged("A", "unknown"), judged("A", None)])
    assert found["by_annotator"] == {"unknown": 2}
    assert found["agreement"]["annotators"] == 0


def test_lengths_are_of_whole_prompts_and_of_each_response():
    turns = (Message("user", "12345"), Message("assistant", "123"), Message("user", "12"))
    found = reported([Comparison(turns, ("1234", "1"), "B", Origin("house"))])["characters"]
    assert found["prompt"]["longest"] == 10
    assert (found["response"]["median"], found["chosen"]["longest"], found["rejected"]["longest"]) == (4, 1, 4)
    assert sum(found["response"]["histogram"]["counts"]) == 2


@pytest.mark.parametrize("size", [0, 1, 2, 100, 10_000_000])
def test_every_length_has_its_place_in_the_histogram(size):
    histogram = reported([Demonstration(prompt(), "x" * size, Origin("house"))])["characters"]["response"]["histogram"]
    assert sum(histogram["counts"]) == histogram["counts"][-1] == 1
    assert histogram["upto"][-1] >= size


def test_what_was_not_measured_is_absent():
    found = reported([Demonstration(prompt(), "response", Origin("house"))])
    assert found["judgements"] == {"pairs": 0}
    assert found["bias"] == {}
    assert not {"ratings", "labellers"} & set(found)
    assert not {"alpha", "overall", "contradicted", "cycles", "near_chance"} & set(found["agreement"])
    assert "share" not in reported([judged("A")])["labellers"]


def test_no_rows_at_all_make_a_report_too(tmp_path):
    assert "0 rows read" in written(reported([], counts=dict.fromkeys(COUNTS, 0)), tmp_path)["report.md"]


def test_labels_by_machines_are_counted_by_labeller():
    rows = [judged("A", "gpt", of=f"Q{i}", machine=True) for i in range(3)]
    found = reported([*rows, judged("A", "ada", machine=False), judged("A", "ben")])["labellers"]
    assert (found["human"], found["machine"], found["unknown"], found["share"]) == (1, 3, 1, 0.6)
    assert found["by_annotator"]["gpt"] == {"human": 0, "machine": 3, "unknown": 0}


def test_ratings_that_say_nothing_are_counted():
    def rating(response, who="ada", of="Question", score=1.0):
        return Rating(prompt(of), response, score, Origin("thumbs", who))

    rows = [rating("one"), rating("two"), rating("one", score=0.0), rating("one", "ben"), rating("one", of="Another")]
    derived = [Comparison(prompt(), ("one", "two"), "B", Origin("thumbs", "ada"))]
    found = reported(rows, derived)
    assert found["ratings"] == {"ratings": 5, "derived": 1, "alone": 2, "replaced": 1}
    assert found["judgements"]["pairs"] == 1
    assert found["by_annotator"] == {"ada": 4, "ben": 1}


def test_quarantine_is_counted_by_reason(tmp_path):
    found = reported([judged("A")], quarantined=[{"field": "prompt", "reason": "missing"}] * 2
                     + [{"field": "label", "reason": "none of A, B, tie"}])
    assert found["quarantine"] == {"prompt: missing": 2, "label: none of A, B, tie": 1}
    assert "quarantine.jsonl" in written(found, tmp_path)["report.md"]


def test_fields_that_were_not_read_are_counted_over_the_batches():
    batches = [Batch("a" * 64, "a.jsonl", 3, {"comparison": 3}, 0, False, unread={"mood": 3}, left_alone={"id": 3}),
               Batch("b" * 64, "b.jsonl", 2, {"comparison": 2}, 0, False, unread={"mood": 1, "room|": 2})]
    report = reported([judged("A")], batches=batches)
    assert (report["unread"], report["left_alone"]) == ({"mood": 4, "room|": 2}, {"id": 3})
    page = markdown(report)
    assert "## Fields that were not read" in page
    assert "| mood | 4 |" in page and "| room\\| | 2 |" in page and "| id | 3 |" in page


def test_the_pages_say_how_every_row_read_was_accounted_for(tmp_path):
    counts = {"rows_read": 1110, "rows_accepted": 1000, "duplicates": 50, "quarantined": 30, "near_heldout": 30,
              "near_duplicate_prompts": 40, "removed": 5}
    pages = written(reported([judged("A")], counts=counts), tmp_path)
    says = ("1,110 rows read = 1,000 accepted + 50 exact duplicates + 30 too near to held-out prompts + 30 quarantined",
            "40 distinct prompts nearly repeat another", "0 of 1 prompts are in more than one split")
    for page in ("report.md", "report.html"):
        assert all(sentence in pages[page] for sentence in says)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    one, two = (written(reported(simulated(1, 20, 200, 20)), tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert json.loads(one["report.json"])["by_kind"]["ranking"] == 20


def test_the_page_stands_alone_and_is_well_formed(world, tmp_path):
    page = Page(written(world, tmp_path)["report.html"])
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert all(link.startswith("#") for link in page.links)
    assert page.elements.count("svg") == 8
    assert "finn" in page.text


HOSTILE = '"><script>alert(1)</script>&lt;b&gt;|[x](http://a) `\n# heading\x1b[2J\u202e</svg></pre><img src=x>'


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_untrusted_text_stays_text(tmp_path, name):
    rows = [judged("AB"[i % 2], HOSTILE + who, (HOSTILE + "1", HOSTILE + "22"), f"{HOSTILE}{i}", HOSTILE, True)
            for i in range(40) for who in ("x", "y")]
    page = written(reported(rows, quarantined=[{"field": HOSTILE, "reason": HOSTILE}]), tmp_path)[name]
    assert "\x1b" not in page
    if name == "report.html":
        assert not {"script", "img", "b"} & set(Page(page).elements)
        assert "<script>" in Page(page).text
    else:
        lines = [line for line in page.splitlines() if not line.startswith("    ")]
        assert not any(re.search(r"(?<!\\)<|^# heading|(?<!\\)\[x", line) for line in lines)
        tables = [line for line in lines if "heading" in line and line.startswith("|")]
        assert tables
        assert all(line.endswith("|") for line in tables)
        assert all(one or other for one, other in pairwise(page.splitlines()))


def test_long_lists_are_cut_and_say_so(tmp_path):
    rows = [judged("A", f"annotator {i}", of=f"Q{i}", source=f"source {i}") for i in range(LISTED + 20)]
    found = reported(rows)
    assert len(found["by_annotator"]) == len(found["by_source"]) == LISTED
    assert found["names"] == {"sources": LISTED + 20, "annotators": LISTED + 20}
    pages = written(found, tmp_path)
    assert "and 1,005 more" in pages["report.md"]
    assert "and 1,005 more" in pages["report.html"]
    assert len(pages["report.html"]) < 100_000


def test_a_long_text_is_cut_in_the_examples(tmp_path):
    found = reported([judged("A", responses=("x" * 100_000, "y"), of="z" * 100_000)])
    assert len(json.dumps(found["examples"])) < 10_000
    assert all(len(page) < 40_000 for page in written(found, tmp_path).values())


def test_a_field_that_an_earlier_version_counted_under_a_name_that_cannot_be_written_does_not_stop_the_report(tmp_path):
    unread = {f"m{chr(half)}": n for half, n in ((0xD83D, 3), (0xD83E, 1))}
    batch = Batch("a" * 64, "a.jsonl", 3, {"comparison": 3}, 0, False, unread=unread, left_alone={"\udc00": 2})
    report = reported([judged("A")], batches=[batch])
    assert (report["unread"], report["left_alone"]) == ({"m\ufffd": 4}, {"\ufffd": 2})
    assert all("\ufffd" in page for page in written(report, tmp_path).values())
