"""Files of any supported packing are read whole, and what is wrong in them is named with its line."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.preferences.reading import file_records, json_array
from plumbline.preferences.reading.file_records import LINE_LIMIT
from plumbline.preferences.reading.formats import RECOGNISED
from plumbline.preferences.reading.parquet_limits import ALWAYS, MOST_TIMES
from plumbline.preferences.reading.read import Reading, import_records, read_file
from plumbline.preferences.reading.results import Quarantined, Unread

pyarrow = pytest.importorskip("pyarrow")

GOOD = [{"prompt": f"Question {i}", "chosen": "yes", "rejected": "no"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in GOOD)
CSV = b"prompt,chosen,rejected\r\n" + b"".join(b"Question %d,yes,no\r\n" % i for i in range(3))
PACKED = {
    "data.jsonl": LINES.encode(),
    "blank lines.jsonl": LINES.replace("\n", "\r\n\n").encode(),
    "byte order mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "array.json": json.dumps(GOOD, indent=2).encode(),
    "array in one line.json": b" \n " + json.dumps(GOOD).encode() + b"\n",
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed without saying so.json": gzip.compress(json.dumps(GOOD).encode()),
    "packed.jsonl.bz2": bz2.compress(LINES.encode()),
    "packed.jsonl.xz": lzma.compress(LINES.encode()),
    "packed.jsonl.zst": pyarrow.compress(LINES.encode(), codec="zstd", asbytes=True),
    "table.csv": CSV,
    "table.csv.gz": gzip.compress(CSV),
    "table.tsv": CSV.replace(b",", b"\t"),
    "TABLE.CSV": CSV,
    "table.Tsv.GZ": gzip.compress(CSV.replace(b",", b"\t")),
    "PACKED.JSONL.GZ": gzip.compress(LINES.encode()),
}


def read(file, content, name=None, how=RECOGNISED):
    """Rows and quarantine of a file with this content."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return split(read_file(file, name or file.name, how))


def split(found):
    found = list(found)
    quarantined = [row for row in found if isinstance(row, Quarantined)]
    return [row for row in found if not isinstance(row, Quarantined | Unread)], quarantined


@pytest.mark.parametrize("name", PACKED)
def test_the_same_rows_come_out_of_every_packing(tmp_path, name):
    rows, quarantined = read(tmp_path / name, PACKED[name])
    assert [row.prompt[0].content for row in rows] == ["Question 0", "Question 1", "Question 2"]
    assert {row.origin.source for row in rows} == {name.split(".")[0]}
    assert not quarantined


def parquet(tmp_path, records):
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "made.parquet", row_group_size=1000)
    return (tmp_path / "made.parquet").read_bytes()


def test_parquet_gives_the_same_rows(tmp_path):
    assert len(read(tmp_path / "data.parquet", parquet(tmp_path, GOOD))[0]) == 3


def test_parquet_cut_short_is_refused_and_damaged_parquet_is_read_as_far_as_it_goes(tmp_path):
    many = [{"prompt": f"Question {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(5000)]
    content = parquet(tmp_path, many)
    with pytest.raises(UserError, match="not valid Parquet"):
        read(tmp_path / "cut.parquet", content[:-100])
    middle = len(content) // 2
    rows, quarantined = read(tmp_path / "holed.parquet", content[:middle] + b"\xff" * 4000 + content[middle + 4000:])
    assert 1000 <= len(rows) < 5000
    assert "not valid Parquet from here on" in quarantined[-1].reason


def test_bad_lines_are_quarantined_with_their_number_and_the_good_ones_go_on(tmp_path):
    content = LINES.encode() + b'{"prompt": \n' + b'{"prompt": "\xff"}\n' + b"[1, 2]\n" + LINES.encode()
    rows, quarantined = read(tmp_path / "mixed.jsonl", content, "given/mixed.jsonl")
    assert len(rows) == 6
    assert [(row.file, row.line) for row in quarantined] == [("given/mixed.jsonl", line) for line in (4, 5, 6)]
    assert [row.reason.split(":")[0].split(",")[0] for row in quarantined] == [
        "not valid JSON", "not UTF-8", "expected an object with named fields"]


def test_a_broken_element_of_an_array_is_quarantined_and_the_others_go_on(tmp_path):
    good = [json.dumps(row) for row in GOOD]
    broken = ('{"prompt": nothing}', '{"prompt": "open', '{"prompt": "\xff", "chosen": "a", "rejected": "b"}', "7")
    content = f"[{','.join([good[0], broken[0], good[1], broken[2], broken[3], good[2]])}]".encode("latin-1")
    rows, quarantined = read(tmp_path / "array.json", content)
    assert len(rows) == 3
    assert [(row.line, row.reason.split(":")[0].split(" at")[0]) for row in quarantined] == [
        (2, "not valid JSON"), (4, "not UTF-8"), (5, "expected an object with named fields, found int")]


CHATS = [{"prompt": [{"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": "Which?"},
                     {"role": "user", "content": "This."}],
          "chosen": [{"role": "assistant", "content": "yes"}],
          "rejected": [{"role": "assistant", "content": f"no {i}"}]}
         for i in range(1000)]
BREAKS = {
    # What is broken, what stands there instead, and how many records are set aside.
    "an invalid escape": ('"Question 500"', r'"Question \x500"', 1), "a comma": ('"no 500"', '"no 500",', 1),
    "quotes in a text": ('"no 500"', '"no, "500" it is"', 1), "a line break": ('"no 500"', '"no\n500"', 1),
    # Where the brackets say nothing, what is left of the record's lists is set aside piece by piece.
    "one quotation mark": ('"no 500"', '"no, 5" 00"', 4), "no quotation mark": ('"no 500"', '"no 500', 4),
    "a bracket missing": ('"no 500"}]', '"no 500"}', 4)}


@pytest.mark.parametrize("chunk", [7, 2**16])
@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_record_with_lists_of_its_own_costs_the_array_no_other(tmp_path, monkeypatch, what, chunk):
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    whole, broken, aside = BREAKS[what]
    text = json.dumps(CHATS)
    assert text.count(whole) == 1
    rows, quarantined = read(tmp_path / "chats.json", text.replace(whole, broken))
    assert [row.prompt[0].content for row in rows] == [f"Question {i}" for i in range(1000) if i != 500]
    assert [row.line for row in quarantined] == list(range(501, 501 + aside))


def test_two_missing_quotation_marks_do_not_hide_what_is_between_them(tmp_path):
    text = json.dumps(CHATS).replace('"no 500"', '"no, 5" 00"').replace('"no 700"', '"no, 7" 00"')
    assert len(read(tmp_path / "chats.json", text)[0]) == 998


def test_arrays_after_each_other_are_read_to_the_last_and_told(tmp_path):
    rows, quarantined = read(tmp_path / "arrays.json", json.dumps(GOOD) + "\n" + json.dumps(GOOD[:2]))
    assert len(rows) == 5
    assert [(row.line, row.reason) for row in quarantined] == [
        (4, "not valid JSON: there is more after the end of the array")]


@pytest.mark.parametrize(("end", "says"), [
    ("", "ends within its array"), (', {"prompt": "op', "nothing after it could be read"),
    ("] []", "more after the end of the array")])
def test_an_array_that_does_not_end_well_keeps_what_came_before(tmp_path, end, says):
    rows, quarantined = read(tmp_path / "array.json", "[" + ", ".join(map(json.dumps, GOOD)) + end)
    assert len(rows) == 3
    assert [row.line for row in quarantined] == [4]
    assert says in quarantined[0].reason


def test_an_array_larger_than_what_is_read_at_once_loses_nothing(tmp_path):
    many = [{"prompt": f"Question {i}", "chosen": "ü" * (i * 37 % 5000), "rejected": "no"} for i in range(1, 300)]
    rows, quarantined = read(tmp_path / "large.json", json.dumps(many, ensure_ascii=False))
    assert [row.chosen for row in rows] == [record["chosen"] for record in many]
    assert not quarantined


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress,
                                  lambda text: pyarrow.compress(text, codec="zstd", asbytes=True)])
def test_a_cut_off_packed_file_keeps_what_came_before_the_cut(tmp_path, pack):
    import random
    noise = random.Random(0)
    many = "".join(json.dumps(row | {"chosen": f"{noise.random()}"}) + "\n" for _ in range(12_000) for row in GOOD)
    rows, quarantined = read(tmp_path / "cut.jsonl", (packed := pack(many.encode()))[:len(packed) * 3 // 4])
    assert 100 < len(rows) < 36_000
    assert "the compressed file is not read from here on" in quarantined[-1].reason
    assert quarantined[-1].line > len(rows)


def test_a_ragged_csv_line_is_quarantined(tmp_path):
    rows, quarantined = read(tmp_path / "ragged.csv", "prompt,chosen,rejected\nQ,yes,no\nQ,yes\nQ,yes,no,more\n\n")
    assert (len(rows), [row.line for row in quarantined]) == (1, [3, 4])
    assert quarantined[0].reason == "expected 3 cells as in the header, found 2"


def test_csv_cells_stay_texts_where_texts_are_meant_and_spell_numbers_and_lists_elsewhere(tmp_path):
    rows, quarantined = read(tmp_path / "cells.csv", "prompt,chosen,rejected,strength,annotator\n"
                             '42,7,"[1, 2]",3.5,\n')
    assert not quarantined
    assert (rows[0].prompt[0].content, rows[0].responses, rows[0].strength) == ("42", ("7", "[1, 2]"), 3.5)
    rows, _ = read(tmp_path / "lists.csv", ',prompt,responses,ranks\n0,Q,"[""a"", ""b""]","[2, 1]"\n')
    assert (rows[0].responses, rows[0].ranks) == (("a", "b"), (2, 1))
    turns = '"[{""role"": ""user"", ""content"": ""Why?""}]"'
    rows, _ = read(tmp_path / "turns.csv", f"prompt,chosen,rejected\n{turns},yes,no\n")
    assert rows[0].prompt[0].content == "Why?"


def test_a_csv_line_that_is_not_utf_8_is_quarantined_and_the_numbers_stay_right(tmp_path):
    rows, quarantined = read(tmp_path / "latin.csv", b"prompt,chosen,rejected\nQ,yes,no\nQ,\xff,no\nQ,yes\nQ,yes,no\n")
    assert len(rows) == 2
    assert [row.line for row in quarantined] == [3, 4]


BROKEN_CELL = b'Q1,"First line.\nNever take more than 3 at 37\xb0C.\nThird line.",no\n'
OPENED_BY_IT = b'Q1,"At 37\xb0C\nask ""why"", and wait, or not.\n",no\n'
TWICE_BROKEN = b'Q1,"At 37\xb0C\n and 38\xb0C\n",no\n'
NEVER_CLOSED = b'Q1,"At 37\xb0C'


@pytest.mark.parametrize(("record", "line"), [
    (BROKEN_CELL, 3), (OPENED_BY_IT, 2), (TWICE_BROKEN, 3), (b'Q1,"one\n' + b"x" * 200 + b'\nthree",no\n', 3)])
def test_a_csv_record_with_a_broken_line_is_quarantined_once_and_the_others_are_read(tmp_path, monkeypatch, record,
                                                                                     line):
    monkeypatch.setattr(file_records, "LINE_LIMIT", 100)
    good = b'Q%d,"yes,\nplease",no\n'
    rows, quarantined = read(tmp_path / "cells.csv", b"prompt,chosen,rejected\n" + record + good % 2 + good % 3)
    assert [(row.prompt[0].content, row.chosen) for row in rows] == [("Q2", "yes,\nplease"), ("Q3", "yes,\nplease")]
    assert [row.line for row in quarantined] == [line]


def test_a_csv_cell_with_a_broken_line_that_nothing_closes_is_quarantined_once(tmp_path):
    rows, quarantined = read(tmp_path / "cells.csv", b"prompt,chosen,rejected\nQ,yes,no\n" + NEVER_CLOSED)
    assert (len(rows), [(row.line, row.reason.split(":")[0]) for row in quarantined]) == (1, [(3, "not UTF-8")])


def test_a_deeply_nested_line_is_quarantined_and_not_a_crash(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    assert [row.line for row in read(tmp_path / "deep.jsonl", LINES + deep + "\n")[1]] == [4]
    rows, quarantined = read(tmp_path / "deep.json", f"[{LINES.strip().replace(chr(10), ',')}, {deep}]")
    assert (len(rows), len(quarantined)) == (3, 1)


NESTED = {"lists": ("[", "]"), "objects": ('{"a": ', "}")}


@pytest.mark.parametrize("depth", [300, 450, 700, 1000, 1023])
@pytest.mark.parametrize("field", ["x", "metadata", "prompt", "chosen", "strength", "annotator", "rating"])
@pytest.mark.parametrize("kind", NESTED)
def test_a_deeply_nested_field_spoils_its_own_line_at_the_most(tmp_path, depth, field, kind):
    start, end = NESTED[kind]
    deep = f"{start * depth}1{end * depth}"
    record = json.dumps({name: value for name, value in GOOD[0].items() if name != field})
    line = f'{record[:-1]}, "{field}": {f"[{deep}, {deep}]" if field == "rating" else deep}}}\n'
    rows, quarantined = read(tmp_path / "deep.jsonl", LINES + line + LINES)
    assert len(rows) + len(quarantined) == 7
    assert len(rows) >= 6 and {row.line for row in quarantined} <= {4}


@pytest.mark.parametrize("depth", [300, 1020])
def test_so_does_one_of_an_annotation_tool(depth):
    deep = json.loads(f"{'[' * 300}1{']' * 300}")
    for _ in range(depth - 300):
        deep = [deep]
    answer = {"type": "pairwise", "from_name": deep, "to_name": "answer1,answer2", "value": {"selected": "left"}}
    record = {"data": {"prompt": "Q", "answer1": "a", "answer2": "b"}, "annotations": [{"result": [answer]}]}
    rows, quarantined = split(import_records([(1, GOOD[0]), (2, record), (3, GOOD[1])], "file", "file"))
    assert len(rows) + len(quarantined) == 3
    assert {row.reason for row in quarantined} <= {"nested too deep"}


def test_what_is_not_a_number_counts_as_absent(tmp_path):
    line = '{"prompt": "Q", "chosen": "yes", "rejected": "no", "strength": NaN, "annotator": NaN}\n'
    (*_, row), quarantined = read(tmp_path / "numbers.jsonl", LINES + line)
    assert (row.strength, row.origin.annotator, quarantined) == (None, None, [])


@pytest.mark.parametrize("number", ["Infinity", "1e999", "9" * 400, "9" * 5000])
def test_a_number_that_no_program_agrees_on_spoils_only_what_needs_it(tmp_path, number):
    line = '{"prompt": "Q", "chosen": "yes", "rejected": "no", "%s": %s}\n'
    rows, quarantined = read(tmp_path / "numbers.jsonl", LINES + line % ("strength", number) + line % ("x", number))
    assert len(rows) + len(quarantined) == 5
    assert quarantined[0].line == 4
    assert len(rows) == (3 if len(number) == 5000 else 4)


def test_a_line_of_50_mb_is_skipped_in_bounded_memory(tmp_path):
    import tracemalloc

    file = tmp_path / "long.jsonl"
    with file.open("wb") as opened:
        opened.write(LINES.encode() + b'{"prompt": "')
        for _ in range(50):
            opened.write(b"a" * 2**20)
        opened.write(b'"}\n' + LINES.encode())
    tracemalloc.start()
    rows, quarantined = split(read_file(file, file.name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 6
    assert [(row.line, row.reason) for row in quarantined] == [(4, "the line is longer than 16 MiB")]
    assert peak < 4 * LINE_LIMIT


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_file_in_another_encoding_is_refused_with_its_name(tmp_path, encoding):
    with pytest.raises(UserError, match="UTF-8" if encoding != "utf-16-be" else "Nothing"):
        read(tmp_path / "other.jsonl", LINES.encode(encoding))


@pytest.mark.parametrize(("content", "says"), [
    ("", "is empty"), ("colour,size\nblue,3\n", "found colour, size"), ('{"colour": "blue"}\n', "found colour"),
    ("not json at all\n", "not valid JSON"), ("[", "ends within its array"), ("[]", "is empty")])
def test_a_file_with_nothing_usable_says_what_was_expected_and_found(tmp_path, content, says):
    with pytest.raises(UserError, match="bad") as caught:
        read(tmp_path / ("bad.csv" if content.startswith("colour,") else "bad.json"), content)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["pairs.txt", "pairs", "pairs.jsonl"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_table_without_its_suffix_is_told_what_it_lacks(tmp_path, name, delimiter):
    lines = [delimiter.join(("prompt", "chosen", "rejected")), *[delimiter.join(("1", "yes", "no"))] * 3]
    with pytest.raises(UserError, match=r"4 records read, 4 of them .* a line of a table, which is told by a name that "
                                        r"ends in \.csv \(commas\) or \.tsv .* its columns with --map FIELD=COLUMN"):
        read(tmp_path / name, "\n".join(lines))


def test_json_lines_with_a_first_line_of_another_kind_are_no_table(tmp_path):
    broken = '{"prompt": "Why?", "chosen": \n'
    found = read(tmp_path / "a.jsonl", f"prompt, chosen\n{LINES}{broken}")[1]
    assert [one.line for one in found] == [1, 5]
    with pytest.raises(UserError, match="not valid JSON: Expecting value at character"):
        read(tmp_path / "b.jsonl", f"{broken}prompt, chosen\n{broken}")


def test_a_table_whose_columns_are_not_known_is_told_how_to_name_them(tmp_path):
    with pytest.raises(UserError, match=r"found best, question, worst.* name its columns with --map FIELD=COLUMN"):
        read(tmp_path / "pairs.csv", "question,best,worst\nWhy?,yes,no\n")


def test_the_documents_name_the_limits_of_unpacking():
    text = (Path(__file__).parents[3] / "docs/data-formats.md").read_text(encoding="utf-8")
    assert f"unpacks to more than {MOST_TIMES} times its size ({ALWAYS // 2**20} MiB in any case)" in text


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl cannot be read: No such file"):
        list(read_file(tmp_path / "nowhere.jsonl", "nowhere.jsonl"))


def test_columns_are_mapped_to_our_fields(tmp_path):
    how = Reading(columns={"prompt": "question", "chosen": "best", "rejected": "worst", "annotator": "who"})
    rows, _ = read(tmp_path / "own.csv", "id,question,best,worst,who,chosen\n1,Q,yes,no,ada,odd\n", how=how)
    assert (rows[0].responses, rows[0].origin.annotator) == (("yes", "no"), "ada")


def test_a_mapped_column_may_be_missing_from_the_first_records(tmp_path):
    how = Reading(columns={"annotator": "who"})
    rows, _ = read(tmp_path / "own.jsonl", LINES + json.dumps(GOOD[0] | {"who": "ada"}), how=how)
    assert [row.origin.annotator for row in rows] == [None, None, None, "ada"]


@pytest.mark.parametrize(("first", "rows"), [(999, 3000), (1000, 3000), (1001, None)])
def test_a_mapped_column_that_comes_with_the_thousandth_record_loses_none(tmp_path, first, rows):
    records = [GOOD[0] | ({"who": "ada"} if number >= first else {}) for number in range(1, 3001)]
    content, how = "".join(json.dumps(record) + "\n" for record in records), Reading(columns={"annotator": "who"})
    if rows is None:
        with pytest.raises(UserError, match="no column 'who'"):
            read(tmp_path / "own.jsonl", content, how=how)
    else:
        assert len(read(tmp_path / "own.jsonl", content, how=how)[0]) == rows


@pytest.mark.parametrize("count", [1, 600])
def test_a_mapped_column_that_is_not_there_is_answered_with_the_closest(tmp_path, count):
    with pytest.raises(UserError, match=r"no column .quesion.\. Did you mean .question."):
        read(tmp_path / "own.jsonl", '{"question": "Q", "chosen": "a", "rejected": "b"}\n' * count * 2,
             how=Reading(columns={"prompt": "quesion"}))


def test_several_judgements_of_one_record_share_its_line():
    answers = [{"value": "response_1", "user_id": "ada"}, {"value": 9, "user_id": "ben"}]
    record = {"fields": {"prompt": "Q", "response_1": "a", "response_2": "b"}, "responses": {"better": answers}}
    rows, quarantined = split(import_records([(5, record)], "file.json", "file"))
    assert [row.origin.annotator for row in rows] == ["ada"]
    assert [(row.line, row.field) for row in quarantined] == [(5, "responses.better")]


def test_rows_come_before_the_file_has_been_read():
    def records():
        yield 1, GOOD[0]
        raise AssertionError("read too far")

    assert next(import_records(records(), "file", "file")).chosen == "yes"


@pytest.mark.parametrize(("name", "source"), [
    ("project-7-at-2026-11-21-09-30-2d5b1b7e.json", "project-7"),
    ("project-7-at-2026-11-22-18-05-c451917c (1).json.gz", "project-7"),
    ("project-7-at-2026-11-21.json", "project-7-at-2026-11-21"), ("-at-2026-11-21-09-30-2d5b1b7e.json", None)])
def test_the_source_does_not_hold_the_time_of_an_export_of_label_studio(tmp_path, name, source):
    rows, _ = read(tmp_path / "given.jsonl", LINES, name)
    assert {row.origin.source for row in rows} == {source or name}


@pytest.mark.parametrize(("given", "annotator"), [("12.0", "12"), ("12", "12"), ('"12.0"', "12.0"), ("-3.0", "-3")])
def test_an_annotators_number_that_a_data_frame_made_a_float_is_whole(tmp_path, given, annotator):
    line = f'{{"prompt": "Q", "chosen": "yes", "rejected": "no", "annotator": {given}}}\n'
    (row,), quarantined = read(tmp_path / "frame.jsonl", line)
    assert (row.origin.annotator, quarantined) == (annotator, [])


@pytest.mark.parametrize("given", ["12.5", "1e300", "true"])
def test_an_annotators_number_that_is_none_sets_the_row_aside(tmp_path, given):
    line = f'{{"prompt": "Q", "chosen": "yes", "rejected": "no", "annotator": {given}}}\n'
    _, quarantined = read(tmp_path / "frame.jsonl", LINES + line)
    assert [(row.line, row.field) for row in quarantined] == [(4, "annotator")]
