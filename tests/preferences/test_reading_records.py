"""Files that are read although they are written in an unusual way, and files that are something else: named."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import pytest

from plumbline.errors import UserError
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Quarantined, Unread

GOOD = [{"prompt": f"Question {i}", "chosen": "yes", "rejected": "no"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in GOOD)


def read(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = list(read_file(file, file.name))
    quarantined = [row for row in found if isinstance(row, Quarantined)]
    return [row for row in found if not isinstance(row, Quarantined | Unread)], quarantined


def archive(suffix):
    made = io.BytesIO()
    if suffix == "tar":
        with tarfile.open(fileobj=made, mode="w") as packed:
            about = tarfile.TarInfo("preferences.jsonl")
            about.size = len(LINES)
            packed.addfile(about, io.BytesIO(LINES.encode()))
    else:
        with zipfile.ZipFile(made, "w") as packed:
            for name in ("[Content_Types].xml", "xl/workbook.xml") if suffix == "xlsx" else ("preferences.jsonl",):
                packed.writestr(name, LINES)
    return made.getvalue()


def arrow(stream):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc

    table, made = pyarrow.Table.from_pylist(GOOD), io.BytesIO()
    with (ipc.new_stream if stream else ipc.new_file)(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:9a1f0c\nsize 51234\n"
DVC = "outs:\n- md5: 22a1a2931c8370d3aeedd7183606fd7f\n  size: 14445097\n  hash: md5\n  path: preferences.jsonl\n"
ELSE = {
    "lfs.jsonl": (LFS, "Git LFS pointer, .*git lfs pull"), "lfs.csv": (LFS, "git lfs pull"),
    "lfs.parquet": (LFS, "git lfs pull"), "data.jsonl.dvc": (DVC, "dvc pull.* then name preferences.jsonl"),
    "frozen.dvc": ("frozen: true\ndeps:\n- path: x\n" + DVC, "dvc pull"),
    "annex.jsonl": ("/annex/objects/SHA256E-s9--ab.jsonl\n", "git annex get"),
    "page.jsonl": ("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "web page .*resolve"),
    "page.csv": ("<html lang='en'><head></head></html>", "web page"),
    "refused.jsonl": ('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "book.jsonl": (archive("xlsx"), "Excel workbook: save the sheet as CSV"),
    "pack.zip": (archive("zip"), "zip archive"),
    "pack.jsonl": (archive("tar"), "tar archive: unpack it"),
    "pack.tar.gz": (gzip.compress(archive("tar")), "tar archive"),
    "rows.jsonl": (pickle.dumps(GOOD), "pickle, which is not opened"),
    "x.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9, "Excel"),
    "rows.db": (b"SQLite format 3\0" + bytes(100), "SQLite"),
    "rows.yaml": ("- prompt: Why?\n  chosen: a\n  rejected: b\n", "YAML: write it as JSON lines"),
}


@pytest.mark.parametrize("name", ELSE)
def test_what_is_no_preference_data_is_named_with_what_to_do(tmp_path, name):
    content, says = ELSE[name]
    with pytest.raises(UserError, match=says) as caught:
        read(tmp_path / name, content)
    assert str(caught.value).startswith(f"{name} cannot be read. It is ")
    assert "docs/data-formats.md" not in str(caught.value)


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_is_named_with_what_to_do(tmp_path, stream):
    with pytest.raises(UserError, match=r"Arrow file, .*load_from_disk.*to_json"):
        read(tmp_path / "data-00000-of-00001.arrow", arrow(stream))


ONE = json.dumps(GOOD[0], indent=2)
SERVED = [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(GOOD)]
WRITTEN = {
    "one object over lines": (ONE, 1), "one object with CRLF": (ONE.replace("\n", "\r\n"), 1),
    "objects after each other": ("\n".join(json.dumps(row, indent=4) for row in GOOD), 3),
    "objects with commas between": (",\n".join(json.dumps(row, indent=4) for row in GOOD), 3),
    "objects written by hand": ("\n".join(json.dumps(row).replace(', "', ',\n  "') for row in GOOD), 3),
    "data around, over lines": (json.dumps({"version": "1.0", "data": GOOD}, indent=1), 3),
    "rows around, in one line": (json.dumps({"rows": GOOD}) + "\n", 3),
    "the hub's server of rows": (json.dumps({"features": [{"name": "x"}], "rows": SERVED, "num_rows_total": 3}), 3),
    "pandas, orient=table": (json.dumps({"schema": {"fields": [{"name": "x"}]}, "data": GOOD}), 3),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_json_that_is_not_one_record_a_line_is_read(tmp_path, name):
    content, count = WRITTEN[name]
    rows, quarantined = read(tmp_path / "given.json", content)
    assert [row.prompt[0].content for row in rows] == [f"Question {i}" for i in range(count)]
    assert not quarantined


def test_objects_over_lines_are_read_however_little_is_read_at_once(tmp_path, monkeypatch):
    from plumbline.preferences.reading import json_array

    monkeypatch.setattr(json_array, "CHUNK", 7)
    rows, quarantined = read(tmp_path / "given.json", "\n".join(json.dumps(row, indent=2) for row in GOOD * 40))
    assert (len(rows), quarantined) == (120, [])


def test_a_broken_object_over_lines_is_set_aside_and_the_others_go_on(tmp_path):
    objects = [json.dumps(row, indent=2) for row in GOOD]
    objects[1] = objects[1].replace(":", "", 1)
    rows, quarantined = read(tmp_path / "given.json", "\n".join(objects))
    assert (len(rows), [row.line for row in quarantined]) == (2, [2])


def test_a_first_line_that_was_cut_off_does_not_take_the_next_one_with_it(tmp_path):
    for cut in ('{"prompt": "Why?",', '{"messages": [', '{', '{"prompt": {'):
        rows, quarantined = read(tmp_path / "cut.jsonl", f"{cut}\n{LINES}")
        assert (len(rows), [row.line for row in quarantined]) == (3, [1])


def test_a_list_is_not_taken_out_of_an_object_that_says_more(tmp_path):
    with pytest.raises(UserError, match="found data, system_prompt"):
        read(tmp_path / "given.json", json.dumps({"system_prompt": "Be brief.", "data": GOOD}))


@pytest.mark.parametrize("indent", [None, 1])
def test_all_pages_of_a_list_are_opened_and_what_is_none_is_set_aside(tmp_path, indent):
    pages = [{"data": GOOD[:2], "page": 0}, {"data": GOOD[2:], "page": 1}, {"rows": GOOD, "page": 2},
             {"data": [], "page": 3}, {"data": [{"colour": "blue"}, GOOD[0]], "next": None}]
    rows, quarantined = read(tmp_path / "pages.json", "\n".join(json.dumps(page, indent=indent) for page in pages))
    assert [row.prompt[0].content for row in rows] == ["Question 0", "Question 1", "Question 2", "Question 0"]
    assert [row.line for row in quarantined] == [3, 4]


def test_a_row_that_the_hubs_server_cut_is_set_aside(tmp_path):
    rows, quarantined = read(tmp_path / "given.json", json.dumps(
        {"rows": [SERVED[0] | {"truncated_cells": ["chosen"]}, *SERVED[1:]]}))
    assert (len(rows), [(row.line, row.field) for row in quarantined]) == (2, [(1, "truncated_cells")])


@pytest.mark.parametrize("columns", [
    {name: {str(i): row[name] for i, row in enumerate(GOOD)} for name in GOOD[0]},
    {name: [row[name] for row in GOOD] for name in GOOD[0]}])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_table_by_columns_is_named(tmp_path, columns, indent):
    with pytest.raises(UserError, match="holds the table by columns: write it by rows"):
        read(tmp_path / "given.json", json.dumps(columns, indent=indent))


@pytest.mark.parametrize(("line", "says"), [
    ('{"prompt": "Why?", // asked\n', "a comment, which JSON does not have"),
    ("# preferences\n", "a comment"), ("{'prompt': 'Why?', 'chosen': 'a'}\n", "single quotes, as Python prints"),
    ('{"prompt": "Why?", "chosen": None}\n', "None, as Python prints it"),
    ('{"prompt": "Why?", "chosen": "a",}\n', "a comma before the closing bracket"),
    ('{"prompt": "Why?", "list": [1, 2, ]}\n', "a comma before the closing bracket")])
def test_the_usual_mistakes_in_json_are_named(tmp_path, line, says):
    (*_, problem) = read(tmp_path / "given.jsonl", LINES + line)[1]
    assert (problem.line, says in problem.reason) == (4, True)
    array = f"[{json.dumps(GOOD[0])},\n{line}]"
    if line.startswith("{") and "//" not in line:
        assert says in read(tmp_path / "given.json", array)[1][0].reason


def test_a_comment_in_an_object_over_lines_is_named(tmp_path):
    with pytest.raises(UserError, match="a comment, which JSON does not have"):
        read(tmp_path / "given.json", '{\n  // the question\n  "prompt": "Why?"\n}\n')


TABLE = "prompt,chosen,rejected\nWhich day?,Saturday.,Never.\n"


@pytest.mark.parametrize(("name", "content"), [
    ("semicolons.csv", TABLE.replace(",", ";")), ("tabs.csv", TABLE.replace(",", "\t")),
    ("bars.csv", TABLE.replace(",", "|")), ("commas.tsv", TABLE), ("semicolons.tsv", TABLE.replace(",", ";")),
    ("excel.csv", "sep=;\r\n" + TABLE.replace(",", ";")), ("quoted.csv", '"sep=,"\n' + TABLE),
    ("quotes.csv", TABLE.replace(",", ";").replace("chosen", '"chosen"') + '"Which, then?";a;b\n'),
    ("quoted commas.csv", '"id, in the file";' + TABLE.replace(",", ";").replace("\nW", "\n1;W")),
    ("mark.csv", "\ufeff" + TABLE.replace(",", ";")),
    ("commas inside.csv", TABLE.replace(",", ";").replace("day?", "day, then?"))])
def test_the_delimiter_is_found_in_the_header(tmp_path, name, content):
    (row, *_), quarantined = read(tmp_path / name, content)
    assert (row.responses, quarantined) == (("Saturday.", "Never."), [])


def test_a_table_of_one_column_has_no_delimiter(tmp_path):
    with pytest.raises(UserError, match="found text"):
        read(tmp_path / "one.csv", "text\na; b\n")


def test_lines_keep_their_numbers_behind_the_line_that_names_the_delimiter(tmp_path):
    rows, quarantined = read(tmp_path / "excel.csv", "sep=;\n" + TABLE.replace(",", ";") + "one;two\n")
    assert (len(rows), [row.line for row in quarantined]) == (1, [4])


@pytest.mark.parametrize("first", ["Which day?,Saturday.,Never.", "Why is it so?,1,2",
                                   '"Which day is it?\nTell me.","a.","b."'])
def test_a_table_without_a_header_is_named(tmp_path, first):
    with pytest.raises(UserError, match=r"It is a table without a header: .*prompt,chosen,rejected"):
        read(tmp_path / "bare.csv", f"{first}\nWhich month?,May.,June.\n")


def test_a_header_that_names_a_column_twice_is_named(tmp_path):
    with pytest.raises(UserError, match="the column 'chosen' twice"):
        read(tmp_path / "twice.csv", "prompt,chosen,chosen\nQ,a,b\n")


@pytest.mark.parametrize("cell", ["nan", "NaN", "<NA>", "NaT", "None", "null", "NULL", "NA", "\\N"])
def test_a_cell_that_stands_for_no_value_is_no_answer(tmp_path, cell):
    rows, quarantined = read(tmp_path / "frame.csv", f"{TABLE}Which month?,May,{cell}\nWhich year?,{cell},2026\n")
    assert len(rows) == 1
    assert [(row.line, row.field, row.reason) for row in quarantined] == [
        (3, "rejected", "it is missing"), (4, "chosen", "it is missing")]


def test_such_a_cell_counts_as_absent_where_a_value_may_be(tmp_path):
    (row,), _ = read(tmp_path / "frame.csv", "prompt,chosen,rejected,annotator,strength,system\nQ,a,b,NaN,nan,None\n")
    assert (row.origin.annotator, row.strength, len(row.prompt)) == (None, None, 1)


def test_such_a_word_within_an_answer_stays(tmp_path):
    (row,), _ = read(tmp_path / "frame.csv", "prompt,chosen,rejected\nQ,None of them,nan is not a number\n")
    assert row.responses == ("None of them", "nan is not a number")


ASKED, SAID, OTHER = ([{"role": "user", "content": "Hi?"}], [{"role": "assistant", "content": "It's me."}],
                      [{"role": "assistant", "content": "No"}])
CHAT = {"prompt": ASKED, "chosen": SAID, "rejected": OTHER}
CUT = json.dumps([{"role": "user", "content": "Hi? " * 20_000}])[:32_767]


def table(record):
    return "prompt,chosen,rejected\n" + ",".join('"' + str(cell).replace('"', '""') + '"' for cell in record.values())


def lines(record):
    return json.dumps(record)


def parquet(record):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    made = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([record]), made)
    return made.getvalue()


def test_a_data_frame_of_messages_is_not_learnt_as_what_python_prints(tmp_path):
    pandas = pytest.importorskip("pandas")
    content = pandas.DataFrame([CHAT]).to_csv(index=False)
    assert "[{'role': 'user', 'content': 'Hi?'}]" in content
    rows, quarantined = read(tmp_path / "frame.csv", content + "Q,yes,no\n")
    assert [row.prompt[0].content for row in rows] == ["Q"]
    assert [(row.line, row.field, row.reason) for row in quarantined] == [
        (2, "prompt", "it holds messages as Python prints them: write them with json.dumps")]


@pytest.mark.parametrize(("name", "write"), [("c.csv", table), ("c.jsonl", lines), ("c.parquet", parquet)])
@pytest.mark.parametrize("spell", [json.dumps, lambda value: f" {json.dumps(value)}\n",
                                   lambda value: json.dumps(value, indent=2), lambda value: json.dumps(value[0])])
def test_messages_that_a_text_holds_in_json_are_messages(tmp_path, name, write, spell):
    rows, quarantined = read(tmp_path / name, write({side: spell(turns) for side, turns in CHAT.items()}))
    assert [(row.prompt[0].content, row.responses) for row in rows] == [("Hi?", ("It's me.", "No"))]
    assert not quarantined


def test_whole_conversations_that_a_text_holds_are_told_apart_from_their_prompt(tmp_path):
    inside = {side: json.dumps(ASKED + turns) for side, turns in (("chosen", SAID), ("rejected", OTHER))}
    for prompt in ({}, {"prompt": "Hi?"}, {"prompt": json.dumps(ASKED)}):
        (row,), _ = read(tmp_path / "inside.jsonl", json.dumps(prompt | inside))
        assert (row.prompt[0].content, row.responses) == ("Hi?", ("It's me.", "No"))
    (row,), _ = read(tmp_path / "shared.jsonl", json.dumps({"messages": json.dumps(ASKED + SAID)}))
    assert (row.prompt[0].content, row.response) == ("Hi?", "It's me.")
    with pytest.raises(UserError, match="it is not what was asked according to chosen and rejected"):
        read(tmp_path / "other.jsonl", json.dumps({"prompt": "Why?"} | inside))


@pytest.mark.parametrize("side", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("text", [str(SAID), str(SAID[0]), "[{'content': 'Hi', 'role': 'user'}\n {'content': 'a", CUT,
                                  "[{'from': 'human', 'value': \"it's\"}]"])
def test_messages_that_are_no_json_set_the_row_aside(tmp_path, side, text):
    rows, quarantined = read(tmp_path / "mixed.jsonl", LINES + json.dumps(GOOD[0] | {side: text}))
    assert (len(rows), [(row.line, row.field) for row in quarantined]) == (3, [(4, side)])
    assert "json.dumps" in quarantined[0].reason


@pytest.mark.parametrize("record", [
    {"instruction": "Q", "output": json.dumps(SAID)}, {"instruction": "Q", "output": str(SAID)},
    {"instruction": "Q", "output_1": json.dumps(SAID), "output_2": "no", "preference": 1},
    {"prompt": "Q", "system": str(ASKED), "chosen": "yes", "rejected": "no"}])
def test_messages_in_a_field_that_holds_texts_alone_set_the_row_aside(tmp_path, record):
    rows, quarantined = read(tmp_path / "mixed.jsonl", LINES + json.dumps(record))
    assert (len(rows), [row.line for row in quarantined]) == (3, [4])
    assert "messages" in quarantined[0].reason


def test_what_stands_in_messages_beside_role_and_content_is_found_in_a_text_too(tmp_path):
    asked = json.dumps([ASKED[0] | {"tool_calls": ["look"], "mood": "glad"}])
    rows, quarantined = read(tmp_path / "tools.jsonl", LINES + json.dumps(GOOD[0] | {"prompt": asked}))
    assert (len(rows), [(row.line, row.field) for row in quarantined]) == (3, [(4, "prompt[].tool_calls")])


@pytest.mark.parametrize("text", [
    '{"role": "admin", "content": "all"}', '{"role": "user", "rights": ["read"], "content": "none"}',
    '{"from": "USD", "value": 3}', '[{"from": "USD", "value": 3}]', '[{"type": "PERSON", "text": "Ada"}]',
    '{"role": "user", "content": "Hi"} is one message.', '[{"role": "user", "content": "Hi"}]\n\nThis is a list.',
    '{"messages": [{"role": "user", "content": "Hi"}], ...}', "{ role: 'user', content: 'Hi' }", '[1, {"role": 2}]',
    "Write [{'role': 'user', 'content': 'Hi'}]"])
def test_an_answer_that_is_other_json_or_code_stays_a_text(tmp_path, text):
    (row,), quarantined = read(tmp_path / "code.jsonl", json.dumps(GOOD[0] | {"chosen": text}))
    assert (row.chosen, quarantined) == (text, [])


@pytest.mark.parametrize("text", [json.dumps(SAID), str(SAID), "\n\nHuman: Hi?\n\nAssistant: Hello"])
def test_a_response_in_our_own_schema_is_what_it_says(tmp_path, text):
    common = {"prompt": ASKED, "source": "house"}
    rows, quarantined = read(tmp_path / "ours.jsonl", "\n".join(map(json.dumps, (
        common | {"kind": "demonstration", "response": text},
        common | {"kind": "comparison", "responses": [text, "no"], "label": "A"}))))
    assert (rows[0].response, rows[1].chosen, quarantined) == (text, text, [])


@pytest.mark.parametrize(("name", "write"), [("c.jsonl", lines), ("c.parquet", parquet)])
def test_a_spelling_of_messages_that_is_null_is_absent(tmp_path, name, write):
    nulls = {side: [{"from": None, "value": None} | turn for turn in turns] for side, turns in CHAT.items()}
    other = {side: [{"from": {"user": "human"}.get(turn["role"], "gpt"), "value": turn["content"], "role": None,
                     "content": None} for turn in turns] for side, turns in CHAT.items()}
    for record in (nulls, other):
        rows, quarantined = read(tmp_path / name, write(record))
        assert [(row.prompt[0].content, row.responses) for row in rows] == [("Hi?", ("It's me.", "No"))]
        assert not quarantined


def test_an_answer_in_several_text_parts_beside_a_prompt_is_an_answer(tmp_path):
    parts = [{"type": "text", "text": "yes"}, {"type": "text", "text": "please"}]
    (row,), _ = read(tmp_path / "parts.jsonl", json.dumps(GOOD[0] | {"chosen": parts}))
    assert row.chosen == "yes\nplease"


def test_the_type_of_a_text_part_that_is_null_is_absent(tmp_path):
    asked = [{"role": "user", "content": [{"type": None, "text": "Hi?"}]}]
    (row,), _ = read(tmp_path / "parts.jsonl", json.dumps(CHAT | {"prompt": asked}))
    assert row.prompt[0].content == "Hi?"
