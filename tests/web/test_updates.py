"""The history of a running server: read before the first page, kept up to date, whatever goes wrong with it."""

import logging
import os
import time
from collections.abc import Callable

import pytest

from plumbline.errors import UserError
from plumbline.history.history import History
from plumbline.project.home import Home
from plumbline.web.updates import Updates
from testing.made_up import fill, run
from testing.sites import site_behind, visit, wait


class Scripted(History):
    """A history whose refreshes go as they are told."""

    def __init__(self, home: Home, steps: list[Callable[[History], None]]) -> None:
        super().__init__(home)
        self.steps = steps

    def refresh(self) -> None:
        self.steps.pop(0)(self)


def locked(_history: History) -> None:
    raise UserError("MLflow's store cannot be read. Start its server.")


def broken(_history: History) -> None:
    raise ValueError("a secret detail")


def well(history: History) -> None:
    fill(history, [run()])


def test_pages_show_what_was_read_and_say_that_it_is_old(empty: Home, caplog: pytest.LogCaptureFixture) -> None:
    (empty.folder / "mlflow.db").write_text("a store")
    client = visit(empty)
    site = site_behind(client)
    history = Scripted(empty, [well, locked, locked, broken, well])
    updates = Updates(history, site.freshness)
    pages = []
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            updates.refresh()
            pages.append(client.get("/").text)
    assert ["out of date" in page for page in pages] == [False, True, True, True, False]
    assert "Start its server" in pages[1]
    assert "ValueError" in pages[3] and "secret" not in pages[3]
    assert len(history.runs) == 1  # what was read before stays
    assert caplog.text.count("Start its server") == 1
    assert "a secret detail" in caplog.text


def test_only_what_was_written_is_read_and_a_failure_is_tried_again(empty: Home) -> None:
    store = empty.folder / "mlflow.db"
    store.write_text("a store")
    history = Scripted(empty, [well, locked, well, well])
    updates = Updates(history, site_behind(visit(empty)).freshness)

    def left_after_a_look() -> int:
        updates.look()
        return len(history.steps)

    assert [left_after_a_look(), left_after_a_look()] == [3, 3]
    os.utime(store, ns=(1, 1))
    assert [left_after_a_look(), left_after_a_look(), left_after_a_look()] == [2, 1, 1]
    (empty.runs / "20261121-000000-aaaaaa").mkdir(parents=True)
    assert left_after_a_look() == 0


def test_whatever_is_wrong_with_what_is_due_it_is_looked_at_again(
        empty: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    site = site_behind(visit(empty))
    updates = Updates(site.history, site.freshness)
    monkeypatch.setattr("plumbline.web.updates.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("plumbline.web.updates.look_up_due", lambda _home: 1 / 0)
    updates.start()
    assert updates.first.wait(10)
    wait(lambda: "ZeroDivisionError" in str(site.freshness.due))
    time.sleep(0.1)
    assert caplog.text.count("Whether a retraining is due cannot be told") == 1
    monkeypatch.undo()
    wait(lambda: "ZeroDivisionError" not in str(site.freshness.due))
    updates.end()


def test_a_new_project_has_no_problem(empty: Home) -> None:
    site = site_behind(visit(empty))
    updates = Updates(site.history, site.freshness)
    updates.start()
    assert updates.first.wait(10)
    updates.end()
    assert site.freshness.problem == ""


def test_the_first_page_waits_for_the_history(empty: Home) -> None:
    client = visit(empty)
    history = site_behind(client).history
    (empty.folder / "mlflow.db").write_text("a store")

    def slow() -> None:
        time.sleep(0.3)
        fill(history, [run()])

    history.refresh = slow  # type: ignore[method-assign]
    with client:
        assert "Latest runs" in client.get("/").text
