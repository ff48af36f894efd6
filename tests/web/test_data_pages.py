"""The data pages say what there is, find rows, and lead from each row to the models that learned from it."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome

from plumbline.data.changes import add, remove, supersede
from plumbline.data.named_versions import KnownData
from plumbline.errors import UserError
from plumbline.history.history import Run
from plumbline.preferences.batches.arrivals import NO_ROWS, Arrival, arrival_index, arrivals, draft, folder_of, publish
from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.reading.read import read_file
from plumbline.project.home import Home
from plumbline.runs.workspace import init_dvc
from testing.hostile import MARK, TEXTS, active_in
from testing.made_up import fill, run, workspace
from testing.sites import emulate, problems_in, site_behind, visit

ROW = re.compile(r'href="/data/rows/([0-9a-f]{16})"')


def judged(prompt: str, label: str, annotator: str, source: str = "web") -> dict[str, object]:
    return {"kind": "comparison", "prompt": [{"role": "user", "content": prompt}], "responses": ["Yes.", "No, sorry."],
            "label": label, "source": source, "annotator": annotator}


def write(home: Home, name: str, rows: list[dict[str, object]]) -> str:
    (home.root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def learn_from_added(home: Home) -> None:
    text = (home.root / "params.yaml").read_text().replace("sources: [simulated, added]", "sources: [added]")
    (home.root / "params.yaml").write_text(text)


def arrive(home: Home, name: str, rows: list[dict[str, object]], reason: str = "", takes_away: bool = False) -> Arrival:
    """A batch as `plumbline data add` makes it, without DVC, which takes seconds; or one that replaces all before."""
    write(home, name, rows)
    gone = [arrival_index(home.preferences, one).row for one in arrivals(home.preferences)] if takes_away else []
    with draft(home.preferences, name, read_file(home.root / name, name)) as drafted:
        return publish(home.preferences, drafted, "supersede" if takes_away else "add",
                       datetime.now(UTC).isoformat(), name, np.concatenate([NO_ROWS, *gone]), reason)


@pytest.fixture
def arrived(empty: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project to which a batch came, then a correction, then a removal; nothing has been run."""
    monkeypatch.chdir(empty.root)  # names of files start in the current folder, as for the command
    init_dvc(empty.root, empty)
    learn_from_added(empty)
    rows = [judged(f"Question {i}", "A", "ada") for i in range(40)] + [judged("Question 1", "B", "ben")]
    add(empty, write(empty, "first.jsonl", [*rows, {"kind": "comparison", "prompt": []}]), Reading())
    supersede(empty, write(empty, "again.jsonl", [judged("Question 2", "B", "ada")]), Reading(), "was swapped", None)
    remove(empty, [], "ben", None, "withdrew consent", False)
    return empty


@pytest.fixture
def visitor(arrived: Home) -> TestClient:
    return visit(arrived)


def known(client: TestClient) -> KnownData:
    site = site_behind(client)
    return KnownData(site.home, site.history.runs)


def first_row(client: TestClient, address: str) -> str:
    found = ROW.search(client.get(address).text)
    assert found
    return found.group(1)


def test_an_empty_project_says_what_to_do(empty: Home) -> None:
    client = visit(empty)
    page = client.get("/data")
    assert page.status_code == 200
    assert "plumbline data add" in page.text and "plumbline run" in page.text
    assert client.get("/data/diff").status_code == 404


def test_what_arrived_in_its_order_with_the_reasons(visitor: TestClient) -> None:
    page = visitor.get("/data").text
    assert page.index(">removal<") < page.index(">correction<") < page.index("first.jsonl")
    assert "withdrew consent" in page and "was swapped" in page and "41 comparisons" in page


def test_now_is_without_what_was_removed_and_corrected(visitor: TestClient) -> None:
    page = visitor.get("/data/now").text
    assert "<dt>rows</dt><dd>40</dd>" in page
    assert "ben" not in visitor.get("/data/now?view=rows").text


def test_rows_are_found_by_text_and_filters_and_pages_go_on(visitor: TestClient) -> None:
    assert len(ROW.findall(visitor.get("/data/now?view=rows").text)) == 25
    assert "26 to 40 of 40" in visitor.get("/data/now?view=rows&at=25").text
    found = visitor.get("/data/now?view=rows&q=question+17").text
    assert len(ROW.findall(found)) == 1 and "Question 17" in found
    batch = known(visitor).arrivals()[0].digest
    assert len(ROW.findall(visitor.get(f"/data/{batch}?view=rows&agreement=disputed").text)) == 2
    assert len(ROW.findall(visitor.get(f"/data/{batch}?view=rows&annotator=ben").text)) == 1
    assert "No row is like that" in visitor.get("/data/now?view=rows&kind=ranking").text
    assert "Question 39" in visitor.get("/data/now?view=rows&at=-7&q=question+39").text


def test_the_fields_of_a_batch_that_were_not_read_are_listed(arrived: Home) -> None:
    batch = arrive(arrived, "moods.jsonl", [judged("Question 9", "A", "ada") | {"<mood>": "glad"}])
    page = visit(arrived).get(f"/data/{batch.digest}?view=aside").text
    assert "Fields that were not read" in page
    assert "&lt;mood&gt;" in page


def test_what_was_set_aside_has_file_line_and_reason(visitor: TestClient) -> None:
    batch = known(visitor).arrivals()[0].digest
    page = visitor.get(f"/data/{batch}?view=aside").text
    assert "first.jsonl" in page and "42" in page and "prompt" in page


def test_a_difference_shows_relabelled_rows_side_by_side(visitor: TestClient) -> None:
    batch = known(visitor).arrivals()[0].digest
    page = visitor.get(f"/data/diff?a={batch}&b=now").text
    assert "39 rows are the same" in page
    anew = visitor.get(f"/data/diff?a={batch}&b=now&what=relabelled").text
    assert anew.index("Before") < anew.index("After") and anew.count("Question 2") == 2
    assert "2.50 %" in anew  # one of the forty comparisons that the same annotator judged in both
    assert "Question 1<" in visitor.get(f"/data/diff?a={batch}&b=now&what=removed").text


def test_a_row_says_how_it_came_and_that_it_was_taken_away(visitor: TestClient) -> None:
    batch = known(visitor).arrivals()[0].digest
    row = first_row(visitor, f"/data/{batch}?view=rows&annotator=ben")
    page = visitor.get(f"/data/rows/{row}").text
    assert "no later run learns from it" in page and "withdrew consent" in page and "first.jsonl" in page
    assert visitor.get("/data/rows/0123456789abcdef").status_code == 404
    assert visitor.get("/data/rows/nonsense").status_code == 404


@pytest.mark.parametrize("row", ["-000000000000001", "0x00000000000001", "0_0_0_0_0_0_0_01", " 00000000000001 "])
def test_a_number_that_is_no_id_is_not_a_row(empty: Home, row: str) -> None:
    learn_from_added(empty)
    arrive(empty, "first.jsonl", [judged("Question", "A", "ada")])
    page = visit(empty).get(f"/data/rows/{row}")
    assert page.status_code == 404 and "is not a row&#39;s id" in page.text
    with pytest.raises(UserError, match="is not a row's id"):
        remove(empty, [row], None, None, "withdrew consent")


def test_a_row_leads_to_the_models_that_learned_from_it(client: TestClient) -> None:
    history = site_behind(client).history
    row = first_row(client, "/data/latest?view=rows&kind=demonstration")
    page = client.get(f"/data/rows/{row}").text
    latest = next(iter(history.runs.values()))
    assert "Learned from it" in page or "Kept it for evaluation" in page or "Watched training" in page
    assert latest.id in page
    if "Learned from it" in page:
        assert "/models/" in page


def test_a_snapshot_shows_the_report_of_the_run_and_who_learned_from_it(client: TestClient) -> None:
    page = client.get("/data/latest").text
    assert "At a glance" in page and "Agreement" in page and "<svg" in page
    assert next(iter(site_behind(client).history.runs)) in page


def test_data_that_is_elsewhere_is_said_with_the_command_that_brings_it(client: TestClient, tmp_path: Path) -> None:
    gone = run(batches=(Batch("e" * 64, "far.jsonl", 12, {"comparison": 12}, 0, False),))
    fill(site_behind(client).history, [gone])
    page = client.get(f"/data/{gone.id}").text
    assert f"plumbline restore {gone.id}" in page and "12 comparisons" in page
    assert f"plumbline restore {gone.id}" in client.get(f"/data/diff?a={gone.id}&b={gone.id}").text


def took(count: int, first: int = 0) -> list[Run]:
    """Runs that each took a snapshot of their own."""
    return [run(f"20261120-{100000 + i}-aaaaaa", snapshot=f"{i:036x}",
                batches=(Batch(f"{i:064x}", "far.jsonl", 12, {"comparison": 12}, 0, False),))
            for i in range(first, first + count)]


def test_a_page_beyond_the_last_snapshot_does_not_say_that_there_is_none(
        empty: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    one = arrive(empty, "first.jsonl", [judged("Question", "A", "ada")])
    monkeypatch.setattr(KnownData, "arrivals", lambda _: [one] * 250)
    client = visit(empty)
    assert "No run has taken a snapshot yet" in client.get("/data?at=100").text
    fill(site_behind(client).history, runs := took(20))
    page = client.get("/data?at=100").text
    assert "No run has taken a snapshot yet" not in page and "None on this page, 20 in all" in page
    newest = known(client).snapshots()[0]
    assert newest.runs[0].id == runs[-1].id
    assert "Changes since the last run" in page and f"a={newest.digest}" in page


def test_a_page_beyond_the_last_batch_does_not_say_that_nothing_was_added(empty: Home) -> None:
    arrive(empty, "first.jsonl", [judged("Question", "A", "ada")])
    client = visit(empty)
    fill(site_behind(client).history, took(150))
    page = client.get("/data?at=100").text
    assert "Nothing was added yet" not in page and "None on this page, 1 in all" in page
    newest = known(client).snapshots()[0]
    button = re.search(r'href="([^"]*)">Changes since the last run', page)
    assert button and f"a={newest.digest}" in button.group(1)


def test_rows_set_aside_are_read_from_the_first_run_that_holds_them_or_counted(empty: Home, tmp_path: Path) -> None:
    digest = "e" * 64
    batches = (Batch(digest, "far.jsonl", 12, {"comparison": 12}, 1203, False),
               Batch("f" * 64, "near.jsonl", 12, {"comparison": 12}, 0, False))
    gone = [run(f"20261120-{i}-aaaaaa", batches=batches, folder=tmp_path / str(i)) for i in (100000, 100001)]
    client = visit(empty)
    fill(site_behind(client).history, gone)
    page = client.get(f"/data/{gone[0].id}?view=aside").text
    assert "Nothing was set aside" not in page
    assert "1,203 rows were set aside, and are not on this machine" in page
    assert f"plumbline restore {gone[1].id}" in page
    held = json.dumps({"file": "far.jsonl", "line": 7, "field": "prompt", "reason": "is empty"}) + "\n"
    workspace(tmp_path / "100000", {f"data/snapshot/{digest}.quarantine.jsonl": held})
    page = client.get(f"/data/{gone[0].id}?view=aside").text
    assert "is empty" in page and "rows were set aside" not in page


def test_a_snapshot_without_rows_set_aside_says_so(empty: Home) -> None:
    client = visit(empty)
    fill(site_behind(client).history, runs := took(1))
    assert "Nothing was set aside." in client.get(f"/data/{runs[0].id}?view=aside").text


def test_a_batch_that_only_dvc_knows_is_not_hidden(visitor: TestClient, arrived: Home) -> None:
    (arrived.preferences.arrived / "0123456789abcdef.dvc").write_text("outs: []\n")
    assert "0123456789abcdef" in visitor.get("/data").text
    assert "plumbline pull" in visitor.get("/data/0123456789abcdef").text


def test_names_never_become_paths(visitor: TestClient) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "/etc/passwd", "..\\..", "%00", "a" * 3000):
        assert visitor.get(f"/data/{name}").status_code == 404
        assert visitor.get(f"/data/rows/{name}").status_code == 404


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(empty: Home, text: str) -> None:
    learn_from_added(empty)
    row = {"kind": "comparison", "prompt": [{"role": "user", "content": text}], "responses": [text, f"{text} too"],
           "label": "A", "source": text, "annotator": text}
    name = f"{MARK}<b>&'\".jsonl"
    hostile = arrive(empty, name, [row, {"kind": text, "prompt": text}]).digest
    arrive(empty, "second.jsonl", [{**row, "label": "B"}], text, takes_away=True)
    client = visit(empty)
    row_id = first_row(client, f"/data/{hostile}?view=rows")
    for path, params in (("/data", {}), ("/data/now", {}), ("/data/now", {"view": "rows", "source": text}),
                         ("/data/now", {"view": "rows", "q": text, "annotator": text, "kind": text, "agreement": text}),
                         (f"/data/{hostile}", {"view": "aside"}), (f"/data/{hostile}", {"view": text}),
                         ("/data/diff", {"a": hostile, "b": "now", "what": "relabelled"}),
                         ("/data/diff", {"a": text, "b": text}), (f"/data/rows/{row_id}", {})):
        page = client.get(path, params=params)
        assert page.status_code in (200, 404), page.text
        assert active_in(page.text) == []
    assert MARK in client.get("/data").text


@pytest.mark.slow
def test_the_browser_shows_every_page_without_a_complaint(serve, arrived: Home, browser: Chrome) -> None:
    server = serve(arrived.root)
    batch = known(visit(arrived)).arrivals()[0].digest
    row = first_row(visit(arrived), "/data/now?view=rows")
    for width in (1280, 390):
        emulate(browser, width == 390, width, 900)
        for path in ("/data", "/data/now", "/data/now?view=rows", f"/data/{batch}?view=aside",
                     f"/data/diff?a={batch}&b=now", f"/data/rows/{row}"):
            browser.get(server.url + path)
            assert problems_in(browser) == [], path
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path


@pytest.mark.parametrize("spoil", [b"", b'{"digest": ', b"\xff\x00" * 40])
def test_a_damaged_batch_costs_itself_alone(visitor: TestClient, arrived: Home, spoil: bytes) -> None:
    first, *others = arrivals(arrived.preferences)
    file = folder_of(arrived.preferences, first) / "batch.json"
    whole = file.read_bytes()
    file.write_bytes(spoil)
    words = f"{file} is damaged"
    listed = visitor.get("/data")
    assert listed.status_code == 200 and words in listed.text
    assert all(f'href="/data/{other.digest}"' in listed.text for other in others)
    for view in ("about", "rows", "aside"):
        now = visitor.get(f"/data/now?view={view}")  # a snapshot would refuse to leave it out
        assert now.status_code == 200 and words in now.text
    assert visitor.get(f"/data/{others[0].digest}?view=rows").status_code == 200
    assert visitor.get(f"/data/{first.digest[:16]}").status_code == 404
    assert visitor.get("/runs").status_code == visitor.get("/").status_code == 200
    file.write_bytes(whole)
    assert words not in visitor.get("/data").text


@pytest.mark.parametrize("name", ["rows.jsonl", "quarantine.jsonl"])
def test_damaged_rows_are_said_and_never_shown_as_others(visitor: TestClient, arrived: Home, name: str) -> None:
    first = arrivals(arrived.preferences)[0]
    file = folder_of(arrived.preferences, first) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    for index in arrived.preferences.indexes.iterdir():
        index.write_bytes(b"")
    for view in ("rows", "aside"):
        page = visitor.get(f"/data/{first.digest}?view={view}")
        assert page.status_code == 400 and "damaged" in page.text and str(file.parent) in page.text
    assert visitor.get("/data").status_code == 200


def test_the_page_of_a_row_names_a_damaged_batch_and_shows_the_rest(visitor: TestClient, arrived: Home) -> None:
    first, correction, _ = arrivals(arrived.preferences)
    row = first_row(visitor, f"/data/{first.digest}?view=rows&annotator=ada")
    file = folder_of(arrived.preferences, correction) / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:10])
    for index in arrived.preferences.indexes.glob(f"{correction.batch.digest}*"):
        index.unlink()
    page = visitor.get(f"/data/rows/{row}")
    assert page.status_code == 200 and f"{file} is damaged" in page.text
    assert "first.jsonl" in page.text and "Question" in page.text
