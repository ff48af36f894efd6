"""Who waits for whom at gc's lock, and that the one who waits says so."""

import threading
from pathlib import Path

import pytest

from plumbline.project.locks import GC_LOCK, gc_waits, others_wait, try_lock


def test_a_pull_keeps_gc_waiting_and_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = threading.Event()

    def take() -> None:
        with gc_waits(tmp_path):
            taken.set()

    with gc_waits(tmp_path):
        threading.Thread(target=take, daemon=True).start()
        assert taken.wait(5)
        with try_lock(tmp_path / GC_LOCK) as free:
            assert not free
    assert capsys.readouterr().err == ""


def test_who_waits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for holding, waiting, words in ((others_wait, gc_waits, "Waiting for `plumbline gc` to end.\n"),
                                    (gc_waits, others_wait, "Waiting for a pull, a restore or another gc to end, or "
                                                            "for a run to begin.\n"),
                                    (others_wait, others_wait, "Waiting for a pull, a restore or another gc to end, or "
                                                               "for a run to begin.\n")):
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with holding(tmp_path):  # noqa: B023 - it ends within the loop's pass
                held.set()  # noqa: B023
                done.wait(0.2)  # noqa: B023

        other = threading.Thread(target=hold)
        other.start()
        assert held.wait(5)
        with waiting(tmp_path):
            assert capsys.readouterr().err == words
        done.set()
        other.join()
