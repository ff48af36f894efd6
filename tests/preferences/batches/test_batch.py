"""A batch is made again when the code that makes its rows has changed, and only then."""

from plumbline.preferences.batches.batch import MAKES_ROWS
from testing.imports import ROOT, file_of, modules_imported

PACKAGE = ROOT / "plumbline" / "preferences"


def test_the_code_that_makes_rows_is_all_that_reading_and_writing_them_imports():
    waiting = [PACKAGE / part for part in MAKES_ROWS if part.endswith(".py")]
    waiting += [file for part in MAKES_ROWS for file in (PACKAGE / part).rglob("*.py")]
    needed = set()
    while waiting:
        file = waiting.pop()
        if file.is_relative_to(PACKAGE) and file not in needed:
            needed.add(file)
            waiting += filter(None, map(file_of, modules_imported(file)))
    named = {file.relative_to(PACKAGE).as_posix() for file in needed}
    assert {name for name in named if not name.startswith(MAKES_ROWS)} == set()
    assert not any(name.startswith(("report/", "versions/", "prepare/")) for name in named)
