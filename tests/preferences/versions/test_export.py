"""What is exported imports as the same rows, and what a form cannot say is counted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating, comparisons_of
from plumbline.preferences.versions.export import FORMS, write_export
from testing.depth import examples
from testing.format_fixtures import ASK, EXAMPLES, LONGER, TURNS

pytest.importorskip("pyarrow")

NEAR = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(NEAR, min_size=1, max_size=12).filter(lambda text: not text.isspace()) | st.sampled_from(
    ["Human: hi", "a\n\nHuman: b", "\n\nAssistant:", "b\n", " c", "[1]", '{"a": 1}', "NaN"])
times = st.sampled_from([None, "2026-01-01T00:00:00Z", "2026-01-01"])
origins = st.builds(Origin, texts, st.none() | texts, times, st.none() | st.booleans())


@st.composite
def prompts(draw):
    count = 2 * draw(st.integers(0, 2)) + 1
    turns = [Message("user" if i % 2 == 0 else "assistant", draw(texts)) for i in range(count)]
    return (*([Message("system", draw(texts))] if draw(st.booleans()) else []), *turns)


@st.composite
def rankings(draw):
    responses = draw(st.lists(texts, min_size=2, max_size=4, unique=True))
    ranks = draw(st.lists(st.integers(1, len(responses)), min_size=len(responses), max_size=len(responses)))
    return Ranking(draw(prompts()), tuple(responses), tuple(ranks), draw(origins))


numbers = st.floats(allow_nan=False, allow_infinity=False)
pairs = st.builds(Comparison, prompts(), st.tuples(texts, texts).filter(lambda both: both[0] != both[1]),
                  st.sampled_from(["A", "B", "tie"]), origins, st.none() | numbers)
rows = pairs | rankings() | st.builds(Demonstration, prompts(), texts, origins) \
    | st.builds(Rating, prompts(), texts, numbers, origins)


def back(exported):
    return list(read_file(exported.file, exported.file.name)) if exported.written else []


def as_pairs(exported_rows):
    """The decided pairs of the rows: what the forms of pairs hold."""
    decided = [pair for row in exported_rows if isinstance(row, Comparison | Ranking) for pair in comparisons_of(row)]
    return [pair for pair in decided if pair.label != "tie"]


@examples(150)
@given(st.lists(rows, max_size=5), st.sampled_from(["jsonl", "parquet"]))
def test_our_own_forms_lose_nothing(tmp_path, given_rows, form):
    exported = write_export(given_rows, form, tmp_path / f"out.{form}")
    assert back(exported) == given_rows
    assert (exported.written, exported.left_out) == (len(given_rows), {})


@examples(150)
@given(st.lists(rows, max_size=5), st.sampled_from(["trl", "hh"]))
def test_the_forms_of_pairs_give_back_the_pairs_that_they_can_say(tmp_path, given_rows, form):
    exported = write_export(given_rows, form, tmp_path / f"{form}.jsonl")
    wanted, found = as_pairs(given_rows), back(exported)
    assert exported.written == len(found)
    if form == "trl":
        assert found == wanted
    else:
        remaining = iter(wanted)
        assert all(row in remaining for row in found)  # the same pairs in the same order, with some left out
    every = sum(len(comparisons_of(row)) if isinstance(row, Ranking) else 1 for row in given_rows)
    assert exported.written + sum(exported.left_out.values()) == every


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_every_format_holds_survives_import_and_export(tmp_path, name, form):
    _, _, expected = EXAMPLES[name]
    exported = write_export(expected, form, tmp_path / "file.jsonl")
    assert back(exported) == (expected if form in ("jsonl", "parquet") else
                              [pair for pair in as_pairs(expected) if form == "trl" or pair.prompt[0].role == "user"])


def test_trl_is_what_trl_takes_and_says_what_was_shown_first(tmp_path):
    row = Comparison(ASK, ("Paint.", "Scattering."), "B", Origin("house", "ada", None, False), 2.0)
    exported = write_export([row], "trl", tmp_path / "trl.jsonl")
    assert json.loads(exported.file.read_text()) == {
        "prompt": TURNS, "chosen": [{"role": "assistant", "content": "Scattering."}],
        "rejected": [{"role": "assistant", "content": "Paint."}], "shown_first": "rejected", "strength": 2.0,
        "source": "house", "annotator": "ada", "machine": False}


def test_what_hh_cannot_say_is_left_out_and_counted(tmp_path):
    def pair(prompt, better="yes", label="A"):
        return Comparison(prompt, (better, "no"), label, Origin("house"))

    kept = pair(ASK)
    exported = write_export([kept, pair(LONGER), pair(ASK, label="tie"), pair(ASK, "a\n\nHuman: b"), pair(ASK, "yes "),
                             Demonstration(ASK, "yes", Origin("house")), Rating(ASK, "yes", 1.0, Origin("house")),
                             Ranking(ASK, ("a", "b", "c"), (1, 2, 2), Origin("house"))], "hh", tmp_path / "hh.jsonl")
    assert back(exported)[0] == kept
    assert exported.written == 3
    assert exported.left_out == {
        "a transcript has no place for a system message": 1, "a tie has no chosen side": 2,
        "a text holds `\\n\\nHuman:` or `\\n\\nAssistant:`, which starts a turn of a transcript": 1,
        "a text starts or ends with white space, which a transcript does not keep": 1,
        "a demonstration is no pair": 1, "a rating is no pair": 1}


@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path, form):
    def failing():
        yield Comparison(ASK, ("yes", "no"), "A", Origin("house"))
        raise RuntimeError("power cut")

    (tmp_path / "out").write_text("before")
    with pytest.raises(RuntimeError):
        write_export(failing(), form, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "before"


def test_an_export_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_export([], "jsonl", tmp_path / "file" / "out.jsonl")


@pytest.mark.parametrize("out", [".", "/", "folder", "folder/.."])
def test_an_export_into_a_folder_is_refused_before_a_row_is_read(tmp_path, monkeypatch, out):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which is a folder: name a file in it"):
        write_export((pytest.fail("read") for _ in range(1)), "jsonl", Path(out))
