"""Rows of tokens on the disk: the same as were put in, in their order, however many files they are in."""

import pytest

from plumbline.alignment import token_store
from plumbline.alignment.packing import TokenizedDemonstration, pack
from plumbline.alignment.token_store import Encoded, Flat, stored
from plumbline.alignment.tokenized import encode
from plumbline.preferences.types import Comparison, Origin, Ranking
from testing.tiny_models import PROMPTS, copy_of


def encoded(number):
    """Every third row is left out; the others have as many tokens as their number."""
    if number % 3 == 2:
        return Encoded(None, {"left out": 1})
    return Encoded(Flat(list(range(number)), [number, -number], number / 3), {"kept": 1, "left out": 0})


def as_it_is(row):
    return row


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_what_was_stored_is_read_in_its_order(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(token_store, "CHUNK", chunk)
    rows = stored(tmp_path / "rows", range(20), encoded, as_it_is)
    expected = [encoded(number).row for number in range(20) if number % 3 != 2]
    assert list(rows) == expected
    assert len(rows) == 14
    assert (rows[3], rows[-1], rows[2:5]) == (expected[3], expected[-1], expected[2:5])
    assert rows.lengths().tolist() == [len(row.ids) for row in expected]
    assert rows.counts == {"kept": 14, "left out": 6}
    with pytest.raises(IndexError):
        rows[14]


def test_nothing_is_no_trouble(tmp_path):
    rows = stored(tmp_path / "rows", [], encoded, as_it_is)
    assert (list(rows), len(rows), rows.lengths().tolist(), rows.counts) == ([], 0, [], {})


def test_the_digest_is_that_of_the_rows(tmp_path):
    digests = [stored(tmp_path / str(i), sources, encoded, as_it_is).digest
               for i, sources in enumerate([range(9), range(9), range(8), [*range(8), 10], [1, 0, *range(2, 9)]])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_rows_that_were_read_stay_when_others_are_stored_in_their_place(tmp_path):
    rows = stored(tmp_path / "rows", range(9), encoded, as_it_is)
    stored(tmp_path / "rows", range(50, 59), encoded, as_it_is)
    assert list(rows) == [encoded(number).row for number in range(9) if number % 3 != 2]


def test_preferences_come_back_with_their_pairs_and_strengths(taught_lm, tmp_path):
    tokenizer, origin = copy_of(taught_lm).tokenizer, Origin("test")
    found = encode(tokenizer, [
        Comparison(PROMPTS[0], ("red", "blue"), "B", origin, 3.0), Comparison(PROMPTS[1], ("red", "red"), "A", origin),
        Ranking(PROMPTS[2], ("red", "blue", "green"), (2, 1, 2), origin),
        Comparison(PROMPTS[1], ("red", "blue"), "tie", origin, 1.0)], 64, tmp_path)
    pairs = [[(pair.first, pair.second, pair.first_wins, pair.strength) for pair in one.pairs]
             for one in found.elements]
    assert pairs == [[(0, 1, 0.0, 0.5)], [(0, 1, 0.0, 0.0), (0, 2, 0.5, 0.0), (1, 2, 1.0, 0.0)], [(0, 1, 0.5, 0.0)]]
    assert [one.best_first for one in found.elements] == [[1, 0], None, None]
    assert (found.pairs, found.too_long, found.identical) == (5, 0, 1)


@pytest.mark.parametrize(("length", "rows"), [
    (None, [[0], [1], [2], [3]]), (5, [[0, 1], [2, 3]]), (4, [[0], [1], [2], [3]]), (9, [[0, 1, 2], [3]])])
def test_packed_rows_hold_the_demonstrations_in_order_and_each_begins_anew(length, rows):
    examples = [TokenizedDemonstration([10 * i + j for j in range(size)], 1, False)
                for i, size in enumerate((2, 3, 4, 1))]
    found = pack(examples, length)
    assert [row.ids for row in found] == [[token for i in row for token in examples[i].ids] for row in rows]
    assert [row.positions for row in found] == [[j for i in row for j in range(len(examples[i].ids))] for row in rows]
    assert all(label == -100 for row in found for label, at in zip(row.labels, row.positions, strict=True) if at == 0)
