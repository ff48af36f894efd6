"""Files of any supported packing are read whole, and what is wrong in them is named with its line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.preferences.batches import Quarantined
from plumbline.preferences.reading import import_records, read_file

GOOD = [{"prompt": f"Question {i}", "chosen": "yes", "rejected": "no"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in GOOD)
PACKED = {
    "data.jsonl": LINES.encode(),
    "blank lines.jsonl": LINES.replace("\n", "\r\n\n").encode(),
    "byte order mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "array.json": json.dumps(GOOD, indent=2).encode(),
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed without saying so.json": gzip.compress(json.dumps(GOOD).encode()),
    "table.csv": b"prompt,chosen,rejected\r\n" + b"".join(b"Question %d,yes,no\r\n" % i for i in range(3)),
}


@pytest.mark.parametrize("name", PACKED)
def test_the_same_rows_come_out_of_every_packing(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    found = read_file(tmp_path / name, name)
    assert [row.prompt[0].content for row in found.rows] == ["Question 0", "Question 1", "Question 2"]
    assert {row.origin.source for row in found.rows} == {name.split(".")[0]}
    assert not found.quarantined


def test_parquet_gives_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "data.parquet")
    assert len(read_file(tmp_path / "data.parquet", "data.parquet").rows) == 3


def test_bad_lines_are_quarantined_with_their_number_and_the_good_ones_go_on(tmp_path):
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(LINES.encode() + b'{"prompt": \n' + b'{"prompt": "\xff"}\n' + b"[1, 2]\n" + LINES.encode())
    found = read_file(file, "given/mixed.jsonl")
    assert len(found.rows) == 6
    assert [(row.file, row.line) for row in found.quarantined] == [("given/mixed.jsonl", line) for line in (4, 5, 6)]
    assert [row.reason.split(":")[0].split(",")[0] for row in found.quarantined] == [
        "not valid JSON", "not UTF-8", "expected an object with named fields"]


def test_a_cut_off_gzip_keeps_what_came_before_the_cut(tmp_path):
    many = "".join(json.dumps(row | {"prompt": f"{row['prompt']} {i}"}) + "\n" for i in range(3000) for row in GOOD)
    file = tmp_path / "cut.jsonl.gz"
    file.write_bytes(gzip.compress(many.encode())[:-2000])
    found = read_file(file, "cut.jsonl.gz")
    assert 100 < len(found.rows) < 9000
    assert "damaged from here on" in found.quarantined[-1].reason


def test_a_ragged_csv_line_is_quarantined(tmp_path):
    file = tmp_path / "ragged.csv"
    file.write_text("prompt,chosen,rejected\nQ,yes,no\nQ,yes\nQ,yes,no,more\n", encoding="utf-8")
    found = read_file(file, "ragged.csv")
    assert (len(found.rows), [row.line for row in found.quarantined]) == (1, [3, 4])


def test_a_deeply_nested_line_is_quarantined_and_not_a_crash(tmp_path):
    file = tmp_path / "deep.jsonl"
    file.write_text(LINES + "[" * 100_000 + "]" * 100_000 + "\n", encoding="utf-8")
    assert [row.line for row in read_file(file, "deep.jsonl").quarantined] == [4]


@pytest.mark.parametrize(("content", "says"), [
    ("", "is empty"), ("colour,size\nblue,3\n", "found colour, size"), ('{"colour": "blue"}\n', "found colour"),
    ("not json at all\n", "not valid JSON"), ("[1, 2", "not valid JSON"), ("[]", "is empty")])
def test_a_file_with_nothing_usable_says_what_was_expected_and_found(tmp_path, content, says):
    file = tmp_path / ("bad.csv" if content.startswith("colour,") else "bad.json")
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="bad") as caught:
        read_file(file, file.name)
    assert says in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["kind", "prompt", "chosen", "rejected", "messages", "role", "content", "from",
                                       "value", "instruction", "output", "output_1", "output_2", "preference",
                                       "conversations", "responses", "ranks", "label"]), inner, max_size=6),
    max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(json_values, max_size=8))
def test_whatever_the_records_hold_none_is_lost_and_nothing_crashes(values):
    records = [*enumerate(values, start=1), (len(values) + 1, GOOD[0])]
    found = import_records(records, "file.jsonl", "file")
    assert len(found.rows) + len(found.quarantined) == len(records)
    assert all(isinstance(row, Quarantined) and row.reason for row in found.quarantined)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_the_file_is_read_or_refused_politely(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("bytes") / "any.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError):
        read_file(file, file.name)
