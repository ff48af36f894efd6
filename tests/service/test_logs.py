"""Logs of parts that go on for months do not fill the disk."""

import os
from pathlib import Path

import pytest

from plumbline.service import supervisor


def test_a_log_that_has_grown_is_set_aside_while_its_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:
    monkeypatch.setattr(supervisor, "LARGEST_LOG", 1000)
    log = tmp_path / "pages.log"
    supervisor._rotate(log)  # there is none yet
    with open(log, "ab", buffering=0, opener=lambda file, flags: os.open(file, flags, 0o600)) as part:
        for number in range(10):
            part.write(f"{number}\n".encode() * 300)
            supervisor._rotate(log)
            assert log.stat().st_size <= 1000
        part.write(b"the last word\n")
    before = tmp_path / "pages.log.1"
    assert log.read_text().endswith("the last word\n")
    assert set(before.read_text().split()) <= set(map(str, range(10)))
    assert before.stat().st_size < 3000
    assert {file.stat().st_mode & 0o777 for file in (log, before)} == {0o600}
