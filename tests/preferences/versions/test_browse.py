"""Rows are found by what they say and by who judged them, a page at a time, however many there are."""

import time

import pytest

from plumbline.preferences.batches.batch import write_batch
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking
from plumbline.preferences.versions.browse import Browser, Wanted, changed
from plumbline.preferences.versions.compare import Columns, DataVersion, changes

YES, NO = "Yes, gladly.", "No."


def prompt(text):
    return (Message("user", text),)


def judged(text, label, annotator, source="web", responses=(YES, NO)):
    return Comparison(prompt(text), responses, label, Origin(source, annotator))


ROWS = [
    Demonstration(prompt("Teach me"), 'Say "hello"\nand\\or smile', Origin("books")),
    judged("One", "A", "ada"), judged("One", "B", "ben"),
    judged("Two", "A", "ada"), judged("Two", "B", "ben", responses=(NO, YES)),  # the same answer preferred
    judged("Three", "tie", "ada"),
    judged("Four", "A", None, "phone"),
    Ranking(prompt("Five"), ("a", "b", "c"), (1, 2, 3), Origin("web", "ben")),
]


@pytest.fixture
def opened(tmp_path):
    """Makes a browser of rows; `left_out` are positions among them."""

    def make(rows=ROWS, name="one", left_out=()):
        folder = tmp_path / name
        folder.mkdir()
        batch = write_batch(folder, name, rows)
        version = DataVersion(name, ((folder / "rows.jsonl", batch.digest),))
        ids = Columns(version, tmp_path / "index").row
        gone = tuple(int(ids[i]) for i in left_out)
        return Browser(Columns(DataVersion(name, version.files, gone), tmp_path / "index"))

    return make


def prompts(browser, page):
    return [browser.columns.read(row)["prompt"][0]["content"] for row in page.rows]


def found(browser, **wanted):
    return prompts(browser, browser.find(Wanted(**wanted), 0, 50, 5.0))


def test_filters_by_kind_source_and_annotator(opened):
    browser = opened()
    assert found(browser, kind="ranking") == ["Five"]
    assert found(browser, source="phone") == ["Four"]
    assert found(browser, annotator="ben") == ["One", "Two", "Five"]
    assert found(browser, annotator="unknown") == ["Teach me", "Four"]
    assert found(browser, kind="comparison", annotator="ben") == ["One", "Two"]
    assert found(browser, kind="nonsense") == found(browser, source="nobody") == []


def test_agreement_is_about_what_others_said_of_the_same_responses(opened):
    browser = opened()
    assert found(browser, agreement="disputed") == ["One", "One"]
    assert found(browser, agreement="agreed") == ["Two", "Two"]
    assert found(browser, agreement="once") == ["Three", "Four", "Five"]
    first = browser.find(Wanted(agreement="disputed"), 0, 1, 1.0).rows[0]
    assert prompts(browser, browser.find(Wanted(), 0, 9, 1.0))[browser.others(first)[0]] == "One"


def test_searching_looks_into_texts_and_nothing_else(opened):
    browser = opened()
    assert found(browser, text="GLADLY") == ["One", "One", "Two", "Two", "Three", "Four"]
    assert found(browser, text='"HELLO"\nand\\or') == ["Teach me"]
    assert found(browser, text="phone") == found(browser, text="comparison") == []
    assert found(browser, text="gladly", annotator="ben") == ["One", "Two"]


def test_pages_go_on_where_the_last_one_ended(opened):
    browser = opened([judged(f"{'even' if i % 2 == 0 else 'odd'} {i}", "A", "ada") for i in range(25)])
    first = browser.find(Wanted(), 0, 10, 1.0)
    last = browser.find(Wanted(), 20, 10, 1.0)
    assert (first.end, first.filtered, first.more) == (10, 25, True)
    assert (len(last.rows), last.end, last.more) == (5, 25, False)
    seen, start = [], 0
    while True:
        page = browser.find(Wanted(text="even"), start, 4, 5.0)
        seen += prompts(browser, page)
        start = page.end
        if not page.more:
            break
    assert seen == [f"even {i}" for i in range(0, 25, 2)]


def test_a_search_whose_time_is_up_says_where_to_go_on(opened):
    browser = opened([judged(f"needle {i}" if i == 2990 else f"hay {i}", "A", "ada") for i in range(3000)])
    page = browser.find(Wanted(text="needle"), 0, 10, 0.0)
    assert page.out_of_time and page.rows == [] and 0 < page.end < 2990
    assert prompts(browser, browser.find(Wanted(text="needle"), page.end, 10, 5.0)) == ["needle 2990"]


def test_counts_say_what_there_is_to_filter_by(opened):
    browser = opened()
    assert browser.counts == {
        "kind": {"comparison": 6, "demonstration": 1, "ranking": 1}, "source": {"web": 6, "books": 1, "phone": 1},
        "annotator": {"ada": 3, "ben": 3, "unknown": 2}, "agreement": {"disputed": 2, "agreed": 2, "once": 3}}
    assert browser.by_source_and_kind()["web"] == {"demonstration": 0, "comparison": 5, "ranking": 1, "rating": 0}
    assert browser.prompts == 6


def test_an_annotator_called_unknown_is_found_with_those_without_a_name(opened):
    browser = opened([judged("One", "A", "unknown"), judged("Two", "A", None), judged("Three", "A", "ada")])
    assert browser.counts["annotator"] == {"unknown": 2, "ada": 1}
    assert found(browser, annotator="unknown") == ["One", "Two"]


def test_rows_left_out_are_not_there(opened):
    browser = opened(left_out=(1, 2))
    assert len(browser) == 6 and "One" not in found(browser)
    assert found(browser, agreement="disputed") == []
    assert browser.place(int(opened(name="two").columns.row[1])) is None


def test_a_difference_row_by_row(opened):
    before = opened([judged("One", "A", "ada"), judged("Two", "A", "ada"), judged("Three", "A", "ada")], "before")
    after = opened([judged("One", "A", "ada"), judged("Two", "B", "ada"), judged("Four", "A", "ada")], "after")
    parts = changes(before.columns, after.columns)
    read = after.columns.read
    assert [read(row)["prompt"][0]["content"] for row in changed(parts, "added")] == ["Four"]
    assert [before.columns.read(row)["prompt"][0]["content"] for row in changed(parts, "removed")] == ["Three"]
    assert [(before.columns.read(a)["label"], read(b)["label"]) for a, b in zip(parts.was, parts.now, strict=True)] == [
        ("A", "B")]


@pytest.mark.slow
def test_two_hundred_thousand_rows_stay_quick(opened):
    browser = opened([judged(f"Question {i}: what about the thing that was said before, at length? " * 3,
                             "AB"[i % 2], f"annotator {i % 50}") for i in range(200_000)])
    clock = time.perf_counter()
    page = browser.find(Wanted(annotator="annotator 7", kind="comparison"), 2000, 50, 1.0)
    texts = [browser.columns.read(row) for row in page.rows]
    assert len(texts) == 50 and time.perf_counter() - clock < 2
    clock = time.perf_counter()
    browser.find(Wanted(text="never said"), 0, 50, 0.5)
    assert time.perf_counter() - clock < 5
