"""A small file does not become a large one: not in memory, and not on the disk."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys

import pytest

from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.file_records import LINE_LIMIT, read_records
from plumbline.preferences.reading.parquet_limits import TooLarge, check, pages

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
MEMORY = 1_500_000_000
"""Bytes of address space that a child has, of which Python with pyarrow takes a third."""
READ = """
import resource, sys
from pathlib import Path
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.file_records import read_records
import pyarrow.parquet
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
good = bad = 0
for _, record in read_records(Path(sys.argv[1])):
    if isinstance(record, Unusable):
        bad, last = bad + 1, record.reason
    else:
        good += 1
print(good, bad, last)
"""


def dictionary(text, places):
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array([text]))


def written(table, **how):
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", dictionary_pagesize_limit=2**30, **how)
    return out.getvalue()


def one_text_in_many_cells():
    cells = dictionary("x" * 8 * 2**20, [0] * 1024)
    return pa.table({"prompt": cells, "chosen": cells, "rejected": pa.array(["no"] * 1024)})


def one_text_in_a_long_list():
    turns = pa.StructArray.from_arrays([dictionary("user", [0] * 100_000), dictionary("x" * 2**20, [0] * 100_000)],
                                       ["role", "content"])
    return pa.table({"messages": pa.ListArray.from_arrays([0, 100_000], turns)})


def one_very_long_text():
    return pa.table({"prompt": pa.array(["x" * 70 * 2**20])})


@pytest.mark.parametrize("make", [one_text_in_many_cells, one_text_in_a_long_list, one_very_long_text])
def test_a_table_stays_small(tmp_path, make):
    file = tmp_path / "bomb.parquet"
    file.write_bytes(written(make(), use_dictionary=make is not one_very_long_text))
    assert file.stat().st_size < 50_000
    done = subprocess.run([sys.executable, "-c", READ.format(memory=MEMORY), str(file)], capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    good, bad, reason = done.stdout.split(maxsplit=2)
    assert (good, int(bad) > 0) == ("0", True)
    assert "16 MiB" in reason or "not read from here on: " in reason


def test_rows_are_counted_as_what_they_become(tmp_path):
    """A text of ordinary length, in a million rows of a file of a few kilobytes."""
    file = tmp_path / "many.parquet"
    file.write_bytes(written(pa.table({"prompt": dictionary("x" * 2000, [0] * 1_000_000)})))
    records = [record for _, record in read_records(file)]
    assert isinstance(records[-1], Unusable)
    assert "200 times its size" in records[-1].reason
    assert len(records) < 40_000


def test_the_footer_is_not_believed(monkeypatch):
    monkeypatch.setattr("plumbline.preferences.reading.parquet_limits.LARGEST_PAGE", 2**20)
    content = written(pa.table({"prompt": ["x" * 2 * 2**20]}), use_dictionary=False)
    about = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0)

    class Lying:
        num_row_groups = num_columns = num_values = total_uncompressed_size = 1
        path_in_schema, dictionary_page_offset, data_page_offset = "prompt", None, about.data_page_offset
        total_compressed_size = about.total_compressed_size

        def row_group(self, _):
            return self

        column = row_group

    with pytest.raises(TooLarge, match=r"a page of the column prompt unpacks to 2,097,\d\d\d bytes"):
        check(io.BytesIO(content), Lying(), len(content))


@pytest.mark.parametrize("how", [
    {}, {"data_page_version": "2.0"}, {"compression": "none"}, {"compression": "snappy"}, {"compression": "gzip"},
    {"compression": "brotli"}, {"write_page_checksum": True}, {"write_page_index": True}, {"row_group_size": 7},
    {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}}, {"data_page_size": 100},
    {"write_statistics": True, "version": "1.0"}, {"dictionary_pagesize_limit": 50}], ids=str)
def test_honest_tables_are_read_whole(tmp_path, how):
    rows = [{"prompt": f"Question {number % 40}, größer" * 9, "number": number, "turns": [
        {"role": "user", "content": f"turn {turn}" * turn} for turn in range(number % 5)],
        "known": None if number % 3 else True} for number in range(500)]
    table = pa.Table.from_pylist(rows)
    if "column_encoding" in how:
        table = table.select(["prompt"])
        rows = [{"prompt": row["prompt"]} for row in rows]
    pq.write_table(table, tmp_path / "honest.parquet", **how)
    assert [record for _, record in read_records(tmp_path / "honest.parquet")] == rows


def test_long_lists_that_share_their_texts_are_read(tmp_path, monkeypatch):
    """Where a row group could become too much its rows are measured; those that are as they should be come out."""
    monkeypatch.setattr("plumbline.preferences.reading.parquet_rows.MOST_IN_LISTS", 0)
    rows = [{"turns": [{"role": "user", "content": "x" * 1000 * number}] * number} for number in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    assert [record for _, record in read_records(tmp_path / "lists.parquet")] == rows
    monkeypatch.setattr("plumbline.preferences.reading.parquet_rows.AT_ONCE", 1000)
    assert [record for _, record in read_records(tmp_path / "lists.parquet")] == rows


def test_a_row_that_is_too_long_is_set_aside_and_the_others_are_read(tmp_path):
    texts = ["short", "x" * (LINE_LIMIT + 1), "short too"]
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "long.parquet", compression="none")
    records = [record for _, record in read_records(tmp_path / "long.parquet")]
    assert [isinstance(record, Unusable) for record in records] == [False, True, False]
    assert records[1].reason == "the row is longer than 16 MiB"


@pytest.mark.parametrize("header", [b"", b"\x15", b"\x15\x04\x15", b"\xff" * 40, b"\x1c" * 200, b"\x19\xfc\xff\xff\x7f",
                                    b"\x15\x00\x15\x01\x15\x01\x00", b"\x15\x00\x00"])
def test_pages_that_are_none_end_the_look_at_them(header):
    assert list(pages(io.BytesIO(header), 0, 100)) == []


def test_a_header_with_more_in_it_than_is_known():
    """A map, a list, a number with a point, a struct: fields of a later version are skipped, as readers skip them."""
    sizes, map_, list_ = b"\x15\x00\x15\x14\x15\x0a", b"\x1b\x01\x88\x01a\x01b", b"\x19\x23\x01\x02"
    header = sizes + map_ + list_ + b"\x17" + b"\0" * 8 + b"\x1c\x15\x02\x00" + b"\0"
    [page] = pages(io.BytesIO(header), 0, 1)
    assert (page.kind, page.unpacked, page.packed, page.end) == (0, 10, 5, len(header))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress,
                                  lambda text: pa.compress(text, codec="zstd", asbytes=True)],
                         ids=["gz", "bz2", "xz", "zst"])
def test_what_unpacks_to_far_too_much_is_not_unpacked(tmp_path, monkeypatch, pack):
    monkeypatch.setattr("plumbline.preferences.reading.file_records.ALWAYS", 2**19)
    line = b'{"prompt": "Why?", "chosen": "yes", "rejected": "no"}\n'
    file = tmp_path / "bomb.jsonl"
    file.write_bytes(pack(line * (5 * 2**20 // len(line))))
    *records, last = (record for _, record in read_records(file))
    assert isinstance(last, Unusable)
    assert "it unpacks to more than 200 times its size; unpack it first" in last.reason
    assert len(records) * len(line) <= max(2**19, 200 * file.stat().st_size)


def test_what_shrinks_well_is_still_read(tmp_path):
    """Twenty times is usual; and whatever the rate, 64 MiB are allowed."""
    file = tmp_path / "good.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"prompt": "Why?", "chosen": "yes", "rejected": "no"}\n' * 200_000))
    assert not any(isinstance(record, Unusable) for _, record in read_records(file))
