"""The ranks: rows are shared out and come back in order, and no rank waits for one that has refused."""

import pytest

from plumbline.errors import UserError
from plumbline.lm.ranks.world import started, world
from testing.on_ranks import on_ranks
from testing.rank_programs import sharing


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_ranks(sharing, tmp_path_factory.mktemp("three"), ranks=3)


@pytest.mark.slow
def test_rows_are_shared_out_and_gathered_in_their_order(found):
    assert [one["world"] for one in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert [one["mine"] for one in found] == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    for one in found:
        assert one["gathered"] == list("ABCDEFG")
        assert one["nothing"] == []
        assert one["summed"] == pytest.approx({"a": 0.6, "only 0": 1.0, "only 1": 1.0, "only 2": 1.0})
        assert one["summed"] == found[0]["summed"], "to the last bit"
        assert one["agreed"] == list("abcdefg")
    assert found[0]["passes"] == [("a", 1.0), ("d", 1.0), ("g", 1.0)]
    assert found[2]["passes"] == [("c", 1.0), ("f", 1.0), ("spare", 0.0)]


@pytest.mark.slow
def test_what_one_rank_refuses_all_refuse(found):
    for rank, one in enumerate(found):
        damaged, full, different, other_weights, fine = one["refused"]
        assert damaged == "This file is damaged."
        assert full.startswith("The disk is full: a file")
        assert different.startswith("All ranks must have the same data, but rank 2 found 1 where rank 0 found 0")
        assert other_weights.startswith("All ranks must have the same weights, but 1.weight of rank 2 is not")
        assert fine == rank


def test_one_process_is_one_rank_without_a_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with started() as here:
        assert here == world()
    assert (here.rank, here.size, here.first) == (0, 1, True)
    assert here.gathered(here.mine("abc")) == ["a", "b", "c"]
    assert here.summed({"a": 0.1}) == {"a": 0.1}
    assert list(here.passes(["a"], "spare")) == [("a", 1.0)]
    assert here.agreed(3, "number") == 3

    def refused():
        raise UserError("No.")

    with pytest.raises(UserError, match="No"):
        here.together(refused)
