"""Preferences that programs bring: whole, once, from any number of threads and processes."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plumbline.data import intake
from plumbline.data.arrive import announce_missed
from plumbline.data.dvc_tracking import track, untracked
from plumbline.data.intake import NothingUsable, take_in, take_in_rows
from plumbline.preferences.batches.arrivals import arrivals, folder_of
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.project.home import Home


def pairs(*numbers: int) -> bytes:
    return "".join(json.dumps({"prompt": f"Question {n}", "chosen": "Good", "rejected": "Bad"}) + "\n"
                   for n in numbers).encode()


def stored(home: Home) -> list[str]:
    """The prompts of all batches, one a row."""
    return sorted(json.loads(line)["prompt"][0]["content"] for arrival in arrivals(home.preferences)
                  for line in (folder_of(home.preferences, arrival) / ROWS).read_bytes().splitlines())


def test_what_a_program_brings_is_a_batch_with_its_bad_rows_named(home: Home) -> None:
    taken = take_in(home, pairs(1, 2) + b"not json\n", "argilla.jsonl")
    assert (taken.arrival.batch.rows, taken.arrival.batch.quarantined) == (2, 1)
    assert [(row.line, row.file) for row in taken.quarantined] == [(3, "argilla.jsonl")]
    line = (folder_of(home.preferences, taken.arrival) / ROWS).read_bytes().splitlines()[0]
    assert json.loads(line)["source"] == "argilla"


def test_the_same_content_arrives_once(home: Home) -> None:
    first, second = take_in(home, pairs(1), "api.jsonl"), take_in(home, pairs(1), "api.jsonl")
    assert (first.already_there, second.already_there) == (False, True)
    assert second.arrival == first.arrival
    assert take_in(home, pairs(1).replace(b": ", b":"), "api.jsonl").already_there, "spelt otherwise, the same rows"
    assert stored(home) == ["Question 1"]


def test_the_same_file_under_another_name_is_there_already_with_what_was_wrong_in_it(home: Home) -> None:
    first = take_in(home, pairs(1) + b"not json\n", "monday.jsonl")
    again = take_in(home, pairs(1) + b"not json\n", "tuesday.jsonl")
    assert (again.arrival, again.already_there, again.quarantined) == (first.arrival, True, first.quarantined)
    assert [row.line for row in again.quarantined] == [2]
    read_otherwise = Reading(None, {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"})
    assert not take_in(home, pairs(1) + b"not json\n", "monday.jsonl", read_otherwise).already_there


def test_csv_and_mapped_columns_come_in_like_with_data_add(home: Home) -> None:
    take_in(home, b"question,best,worst\nWhy?,Because,No\n", "table.csv",
            Reading(None, {"prompt": "question", "chosen": "best", "rejected": "worst"}))
    assert stored(home) == ["Why?"]


def test_rows_of_our_own_need_no_parsing(home: Home) -> None:
    row = Comparison((Message("user", "Why?"),), ("Because", "No"), "A", Origin("feedback", "ada"))
    assert take_in_rows(home, [row], "feedback").arrival.batch.kinds == {"comparison": 1}


def test_where_nothing_is_usable_the_error_names_line_field_and_reason_and_nothing_is_kept(home: Home) -> None:
    with pytest.raises(NothingUsable) as raised:
        take_in(home, b'{"prompt": "x", "chosen": "same", "rejected": "same"}\n', "api.jsonl")
    row, = raised.value.quarantined
    assert (row.line, row.field) == (1, "rejected")
    assert list(home.preferences.arrived.iterdir()) == []


def _post(home: Home, first: int) -> None:
    for number in range(first, first + 10):
        take_in(home, pairs(number, number + 1000), f"process{first}.jsonl")


def test_many_threads_and_processes_at_once_lose_and_double_nothing(home: Home) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_post, args=(home, 100 * n)) for n in (1, 2)]
    for other in others:
        other.start()
    with ThreadPoolExecutor(8) as pool:  # every content twice
        taken = list(pool.map(lambda n: take_in(home, pairs(n), "threads.jsonl"), [*range(20), *range(20)]))
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert sum(one.already_there for one in taken) == 20
    expected = [*range(20), *(n + more for first in (100, 200) for n in range(first, first + 10) for more in (0, 1000))]
    assert stored(home) == sorted(f"Question {n}" for n in expected)
    assert not list(home.preferences.arrived.glob(".new-*"))


def test_dvc_learns_of_a_batch_later_and_its_files_stay_in_place(home: Home) -> None:
    (home.root / ".dvc").mkdir()
    (home.root / ".dvc/config").write_text(f"[core]\n    no_scm = true\n[cache]\n    dir = {home.cache}\n")
    folder = folder_of(home.preferences, take_in(home, pairs(1), "api.jsonl").arrival)
    assert untracked(home) == [folder]
    number = (folder / ROWS).stat().st_ino
    assert track(home) is None
    assert untracked(home) == []
    assert (folder / ROWS).stat().st_ino == number
    assert Path(f"{folder}.dvc").exists()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that takes events: its address, and the names of those it was sent."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.extend(event["event"] for event in json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/api", got
    listening.shutdown()
    listening.server_close()


def test_an_event_that_could_not_be_sent_is_sent_later_and_once(home: Home, monkeypatch: pytest.MonkeyPatch,
                                                               server: tuple[str, list[str]]) -> None:
    url, events = server
    assert take_in(home, pairs(1), "api.jsonl").not_announced == "PREFECT_API_URL is not set"
    assert take_in(home, pairs(2), "api.jsonl").not_announced
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert announce_missed(home) is None
    assert announce_missed(home) is None
    assert events == ["plumbline.preferences.added"]
    assert take_in(home, pairs(3), "api.jsonl").not_announced is None
    assert announce_missed(home) is None
    assert len(events) == 2


def test_what_was_killed_before_its_event_is_announced_when_it_comes_again(
        home: Home, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]) -> None:
    url, events = server
    first = take_in(home, pairs(1), "api.jsonl")  # no server: as if the process had been killed before the event
    monkeypatch.setenv("PREFECT_API_URL", url)
    again = take_in(home, pairs(1), "api.jsonl")
    assert (again.arrival, again.already_there, again.not_announced) == (first.arrival, True, None)
    assert take_in(home, pairs(1), "api.jsonl").not_announced is None
    assert events == ["plumbline.preferences.added"]


def test_what_is_hopeless_ends_early(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of a few megabytes must not become gigabytes of reasons; a file with many good rows keeps its bad ones."""
    monkeypatch.setattr(intake, "MOST_UNUSABLE", 50)
    with pytest.raises(NothingUsable, match=r"Of the first 51 rows 51 cannot be used, so none was taken\. .*line 1, "):
        take_in(home, b"1\n" * 1000, "api.jsonl")
    assert list(home.preferences.arrived.glob("*")) == []
    mixed = b"".join(line + b"1\n" * 5 for line in pairs(*range(20)).splitlines(keepends=True))
    taken = take_in(home, mixed, "api.jsonl")
    assert (taken.arrival.batch.rows, taken.arrival.batch.quarantined) == (20, 100)


def test_what_a_killed_service_left_goes_with_the_next_request(home: Home) -> None:
    left, young = (home.preferences.arrived / name for name in (".new-left", ".new-young"))
    for folder in (left, young):
        (folder / "batch").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    os.utime(left, (two_days_ago, two_days_ago))
    take_in(home, pairs(1), "api.jsonl")
    assert not left.exists()
    assert young.exists(), "another process may be writing it"
