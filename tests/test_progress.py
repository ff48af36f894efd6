"""How far a stage is, in a line for a person."""

import pytest

from plumbline.progress import PROGRESS_FILE, Progress


def test_the_time_left_is_told_once_there_is_a_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100.0, 110.0, 120.0))
    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    monkeypatch.setattr("plumbline.progress.time.monotonic", lambda: next(clock))
    report = Progress("ppo")
    for step in (1, 2, 9):
        report(step, 9, {"reward": 0.25}, "training")
    assert capsys.readouterr().out.splitlines() == [
        "ppo training 1/9  reward 0.25", "ppo training 2/9  reward 0.25  (1:10 left)", "ppo training 9/9  reward 0.25"]
