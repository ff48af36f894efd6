"""Lines of a snapshot are read wherever they are, from however many files."""

from pathlib import Path

from plumbline.preferences.prepare import ranges


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_lines_are_read_from_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "MOST_OPEN", 3)
    files = [tmp_path / f"{number}.jsonl" for number in range(10)]
    for number, file in enumerate(files):
        file.write_text(f"first of {number}\nsecond of {number}\n")
    places = [(number, position) for position in (0, 11) for number in (*range(10), 8)]
    before, lines, most = open_files(), [], 0
    for line in ranges.lines_at(files, places):
        lines.append(line.decode())
        most = max(most, open_files() - before)
    assert lines == [f"{which} of {number}\n" for which in ("first", "second") for number in (*range(10), 8)]
    assert (most, open_files()) == (3, before)
