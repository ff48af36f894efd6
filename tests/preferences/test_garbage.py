"""Whatever a file holds, it is read or refused politely, and every record ends as a row or in quarantine."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats import FORMATS, RECOGNISED, Reading, parse
from plumbline.preferences.reading.read import import_records, read_file
from plumbline.preferences.reading.results import Quarantined
from plumbline.preferences.types import Comparison, Demonstration, Ranking, Rating, to_line
from testing.depth import examples
from testing.format_fixtures import EXAMPLES

ROWS = (Comparison, Demonstration, Ranking, Rating)
GOOD = {"prompt": "Question", "chosen": "yes", "rejected": "no"}
SEVERAL = ("argilla", "label-studio", "oasst")
NAMES = sorted({name for known in FORMATS.values() for keys in known.tells for name in keys}
               | {"role", "content", "from", "value", "fields", "q.responses", "user_id", "result", "type", "selected",
                  "completed_by", "ranker", "time", "annotator", "source", "machine", "strength", "text", "axes"})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
    | st.sampled_from(["user", "assistant", "comparison", "rating", "up", "A", "2026-01-01", "9" * 30, "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=12)


def is_judgement(judged):
    """A row that can be written, or what is wrong in words that can be written."""
    if isinstance(judged, Unusable):
        return bool(f"{judged.field}{judged.reason}".encode())
    line = to_line(judged) if isinstance(judged, ROWS) else "NaN"
    return not any(spelt in line for spelt in ("NaN", "Infinity")) and bool(line.encode())


@examples(250)
@given(st.lists(values, max_size=8))
def test_no_record_is_lost(records):
    records = [*enumerate(records, start=1), (len(records) + 1, GOOD)]
    found = list(import_records(records, "file.jsonl", "file"))
    assert {row.line for row in found if isinstance(row, Quarantined)} <= {line for line, _ in records}
    if not any(isinstance(record, dict) and ("annotations" in record or "responses" in record
                                             or "q.responses" in record) for _, record in records):
        assert len(found) == len(records)
    assert len(found) >= len(records)


def mutated(record, path, change):
    """The record with what stands at the place that `path` leads to changed, dropped or replaced."""
    if isinstance(record, dict) and record and path:
        name = sorted(record)[path[0] % len(record)]
        return {other: mutated(value, path[1:], change) if other == name else value
                for other, value in record.items() if other != name or change is not ...}
    if isinstance(record, list) and record and path:
        place = path[0] % len(record)
        return [mutated(value, path[1:], change) if i == place else value for i, value in enumerate(record)]
    return None if change is ... else change


@examples(400)
@given(st.sampled_from(sorted(EXAMPLES)), st.lists(st.integers(0, 20), max_size=6), values | st.just(...),
       st.booleans())
def test_a_valid_record_that_was_damaged_is_a_row_or_quarantined(name, path, change, is_named):
    named, record, _ = EXAMPLES[name]
    judged = parse(mutated(record, path, change), "file", Reading(named) if is_named else RECOGNISED)
    assert judged
    assert all(map(is_judgement, judged))
    if named not in SEVERAL:
        assert len(judged) == 1


@examples(150)
@given(st.sampled_from(sorted(FORMATS)), values)
def test_any_value_in_any_named_format_is_a_row_or_quarantined(named, value):
    judged = parse(value, "file", Reading(named))
    assert judged
    assert all(map(is_judgement, judged))


magic = st.sampled_from([b"", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1", b"[", b"[{",
                         b"\xef\xbb\xbf", b"\xff\xfe", b'{"prompt": "'])


@examples(250)
@given(magic, st.binary(max_size=200), st.sampled_from(["any.jsonl", "any.csv", "any.json"]))
def test_any_bytes_are_refused_politely(tmp_path, start, content, name):
    (tmp_path / name).write_bytes(start + content)
    with pytest.raises(UserError):
        list(read_file(tmp_path / name, name))


@examples(150)
@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")) | st.just(json.dumps(GOOD).encode()),
                max_size=12))
def test_every_line_is_a_row_or_quarantined(tmp_path, lines):
    first = json.dumps(GOOD).encode()
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join([first, *lines]))
    found = list(read_file(tmp_path / "lines.jsonl", "lines.jsonl"))
    assert len(found) == 1 + sum(bool(line.strip(b" \t\r\n\v\f")) for line in lines)


elements = st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
                        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner,
                                                                                    max_size=4), max_leaves=10)


@examples(150)
@given(st.lists(elements, max_size=10), st.sampled_from([None, 2]), st.integers(1, 64), st.booleans())
def test_an_array_read_piece_by_piece_is_the_array(tmp_path, array, indent, chunk, escaped):
    from plumbline.preferences.reading import json_array

    file = tmp_path / "array.json"
    file.write_text(json.dumps(array, indent=indent, ensure_ascii=escaped), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched, file.open("rb") as opened:
        patched.setattr(json_array, "CHUNK", chunk)
        assert [value for _, value in json_array.Elements(opened, 2**20)] == array
