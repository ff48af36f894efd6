"""Two versions of the data side by side: added, removed, judged anew, with the rate of flipped labels."""

import numpy as np
import pytest

from plumbline.preferences.batches.index import COLUMNS, NAMES, ROW_COLUMNS, index_of, make_index
from plumbline.preferences.jsonl import file_sha256
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating, row_id, to_json
from plumbline.preferences.versions.compare import DataVersion, chosen_rows, compare, describe, rows_of
from testing.preference_files import write_jsonl


def judged(number, label="A", annotator="ada", source="house", responses=("one", "two")):
    prompt = (Message("user", f"Question {number}"),)
    return to_json(Comparison(prompt, responses, label, Origin(source, annotator)))


@pytest.fixture
def version(tmp_path):
    def make(name, *records):
        file = write_jsonl(tmp_path / f"{name}.jsonl", records)
        return DataVersion(name, ((file, file_sha256(file)),))

    return make


def test_what_came_went_and_was_judged_anew(tmp_path, version):
    before = version("before", *[judged(n) for n in range(8)], judged(8, annotator="ben"))
    after = version("after", *[judged(n) for n in range(4)], judged(4, "B"), judged(5, "tie"), judged(8, "B", "cleo"))
    found = compare(before, after, tmp_path / "index")
    assert found.unchanged == 4
    assert (found.added.rows, found.added.by_annotator) == (1, {"cleo": 1})
    assert (found.removed.rows, found.removed.by_annotator) == (3, {"ada": 2, "ben": 1})
    assert found.relabelled.rows == 2
    # Ada judged six of the same pairs in both, and two of them otherwise.
    assert (found.relabelled.flip_rate, found.relabelled.comparisons) == (2 / 6, 6)
    assert [(one["before"]["label"], one["after"]["label"]) for one in found.relabelled.examples] in (
        [("A", "B"), ("A", "tie")], [("A", "tie"), ("A", "B")])


def test_the_same_judgement_with_the_responses_shown_in_the_other_order_is_no_new_label(tmp_path, version):
    before, after = version("before", judged(1)), version("after", judged(1, "B", responses=("two", "one")))
    assert compare(before, after, tmp_path / "index").relabelled.rows == 0


def test_a_ranking_in_another_order_is_judged_anew(tmp_path, version):
    prompt = (Message("user", "Rank"),)
    ranked = [to_json(Ranking(prompt, ("a", "b", "c"), ranks, Origin("house"))) for ranks in ((1, 2, 3), (1, 3, 2))]
    found = compare(version("before", ranked[0]), version("after", ranked[1]), tmp_path / "index")
    assert (found.relabelled.rows, found.relabelled.flip_rate) == (1, None)


def test_rankings_with_other_numbers_in_the_same_order_agree(tmp_path):
    prompt = (Message("user", "Rank"),)
    file = write_jsonl(tmp_path / "a.jsonl", [
        to_json(Ranking(prompt, ("a", "b", "c"), ranks, Origin("house")))
        for ranks in ((1, 1, 3), (1, 1, 2), (2, 2, 3), (1, 2, 3), (1, 2, 2))])
    same = make_index(file, file_sha256(file)).verdict.tolist()
    assert same[0] == same[1] == same[2]
    assert len(set(same)) == 3


def test_a_comparison_and_a_ranking_of_two_are_the_same_judgement(tmp_path, version):
    two = [to_json(Ranking((Message("user", f"Question {n}"),), ("two", "one"), ranks, Origin("house", "ada")))
           for n, ranks in enumerate([(2, 1), (1, 2), (4, 4)])]
    before, after = version("before", *map(judged, range(3))), version("after", *two)
    found = compare(before, after, tmp_path / "index")
    assert (found.relabelled.rows, found.relabelled.flip_rate) == (2, 2 / 3)


def test_a_demonstration_is_not_judged_anew_by_a_rating_of_its_response(tmp_path, version):
    prompt, origin = (Message("user", "Question"),), Origin("house", "ada")
    shown, rated = Demonstration(prompt, "one", origin), Rating(prompt, "one", 1.0, origin)
    found = compare(version("before", to_json(shown)), version("after", to_json(rated)), tmp_path / "index")
    assert (found.added.rows, found.removed.rows, found.relabelled.rows) == (1, 1, 0)


@pytest.mark.parametrize("marks", [{}, {"version_2": np.zeros(0, bool)}, {"version_3": np.zeros(0, bool)}])
def test_an_index_that_was_kept_before_verdicts_changed_is_made_again_under_its_name(tmp_path, marks):
    file = write_jsonl(tmp_path / "a.jsonl", [judged(1), judged(2)])
    digest = file_sha256(file)
    fresh, store = make_index(file, digest), tmp_path / "index"
    store.mkdir()
    columns = {name: getattr(fresh, name) for name in ROW_COLUMNS}
    columns |= {name: getattr(fresh, name).astype(np.str_) for name in NAMES}
    np.savez(store / f"{digest}.npz", **columns | {"verdict": fresh.verdict + 1} | marks)
    assert index_of(file, digest, store).verdict.tolist() == fresh.verdict.tolist()
    assert [kept.name for kept in store.iterdir()] == [f"{digest}.npz"]  # gc knows the digest from the name
    written = (store / f"{digest}.npz").stat().st_mtime_ns
    again = index_of(file, digest, store)
    assert (store / f"{digest}.npz").stat().st_mtime_ns == written
    assert all(np.array_equal(getattr(again, name), getattr(fresh, name)) for name in COLUMNS)


def test_a_small_index_is_read_once_and_nobody_changes_it(tmp_path, monkeypatch):
    file, large = (write_jsonl(tmp_path / name, rows) for name, rows in (
        ("a.jsonl", [judged(1), judged(2)]), ("b.jsonl", [judged(n) for n in range(1000)])))
    store, opened, load = tmp_path / "index", [], np.load
    made = [index_of(one, file_sha256(one), store) for one in (file, large)]
    monkeypatch.setattr(np, "load", lambda place, **more: (opened.append(place.stem), load(place, **more))[1])
    for _ in range(3):
        again = [index_of(one, file_sha256(one), store) for one in (file, large)]
    assert opened == [file_sha256(file), *[file_sha256(large)] * 3]
    assert all(np.array_equal(getattr(one, name), getattr(other, name))
               for one, other in zip(made, again, strict=True) for name in COLUMNS)
    with pytest.raises(ValueError, match="read-only"):
        again[0].row.sort()
    (store / f"{file_sha256(file)}.npz").unlink()
    assert index_of(file, file_sha256(file), store).row.tolist() == made[0].row.tolist()
    assert (store / f"{file_sha256(file)}.npz").exists()


def test_a_version_is_described_with_each_row_once(tmp_path, version):
    one = version("one", judged(1), judged(2))
    both = DataVersion("both", (*one.files, *version("two", judged(2), judged(3, source="street")).files))
    found = describe(both, tmp_path / "index")
    assert (found.rows, found.prompts, found.by_kind) == (3, 3, {"comparison": 3})
    assert found.by_source == {"house": 2, "street": 1}


def test_rows_are_read_once_though_two_batches_hold_them_and_without_those_left_out(version):
    one = version("one", judged(1), judged(2), judged(2), judged(4))
    left_out = int(row_id(one.files[0][0].read_bytes().splitlines(keepends=True)[3]), 16)
    both = DataVersion("both", (*one.files, *version("two", judged(2), judged(3), judged(4)).files), (left_out,))
    assert [row.prompt[0].content for row in rows_of(both)] == ["Question 1", "Question 2", "Question 3"]


def test_an_annotator_called_unknown_is_counted_with_those_without_a_name(tmp_path, version):
    found = describe(version("one", judged(1, annotator="unknown"), *(judged(n, annotator=None) for n in (2, 3)),
                             judged(4)), tmp_path / "index")
    assert found.by_annotator == {"unknown": 3, "ada": 1}


def test_an_index_names_rows_as_their_lines_do_and_chooses_by_source_and_annotator(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [judged(1), judged(2, annotator="ben"), judged(3, source="street")])
    index = make_index(file, file_sha256(file))
    assert [f"{row:016x}" for row in index.row.tolist()] == [row_id(line) for line in file.read_bytes().splitlines()]
    assert chosen_rows(index, "house", None).tolist() == [True, True, False]
    assert chosen_rows(index, None, "ben").tolist() == [False, True, False]
    assert chosen_rows(index, "street", "ben").tolist() == [False, False, False]


def test_an_empty_version_differs_by_everything(tmp_path, version):
    found = compare(version("none"), version("some", judged(1)), tmp_path / "index")
    assert (found.unchanged, found.added.rows, found.removed.rows) == (0, 1, 0)


@pytest.mark.parametrize("field", ["source", "annotator"])
def test_one_long_name_does_not_make_all_names_as_long(tmp_path, field):
    long = "x" * 50_000
    rows = [judged(n, **{field: long if n == 500 else f"é{n}"}) for n in range(1000)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    digest, store = file_sha256(file), tmp_path / "index"
    made = index_of(file, digest, store)
    assert (store / f"{digest}.npz").stat().st_size < 1_000_000
    kept = index_of(tmp_path / "nowhere", digest, store)
    for index in (made, kept):
        names, codes = (index.sources, index.source) if field == "source" else (index.annotators, index.annotator)
        assert names[codes].tolist() == [row[field] for row in rows]
        assert np.flatnonzero(chosen_rows(index, **{"source": None, "annotator": None, field: long})).tolist() == [500]
