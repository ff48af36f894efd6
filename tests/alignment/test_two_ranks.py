"""Training on two ranks is training on one, but for the last digits; and it is itself again to the last one."""

import re
import shutil

import pytest
import torch

from plumbline.alignment.reward import RewardModel
from testing import rank_programs
from testing.on_ranks import on_ranks
from testing.trainings import RESUMED, TRAININGS, run, sampled

CLOSE = 1e-5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Every training in this process."""
    folder = tmp_path_factory.mktemp("one")
    return {name: run(name, folder / name) for name in TRAININGS}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a checkpoint of one process, and a damaged one, for some trainings."""
    folder = tmp_path_factory.mktemp("two")
    for name in RESUMED:
        run(name, folder / name / "one to two", killed_after=3)
        damaged = shutil.copytree(folder / name / "one to two", folder / name / "damaged")
        for file in damaged.glob("*.pt"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def two(shared):
    """What each rank of two has found."""
    return on_ranks(rank_programs.trainings, shared)


def same(found, expected):
    """To the last digit."""
    assert found[:2] == expected[:2]
    assert all(torch.equal(found[2][key], weight) for key, weight in expected[2].items())


def close(found, expected):
    """Figures and weights, from the same step on."""
    assert [where[:2] for where in found[0]] == [where[:2] for where in expected[0]]
    for (*_, theirs), (*_, ours) in zip(found[0], expected[0], strict=True):
        assert theirs == pytest.approx(ours, rel=CLOSE, abs=CLOSE)
    assert found[1] == pytest.approx(expected[1], rel=CLOSE, abs=CLOSE)
    for key, weight in expected[2].items():
        torch.testing.assert_close(found[2][key], weight, rtol=CLOSE, atol=CLOSE)


def after(found, done):
    """What is reported of steps after those that are done; what is measured before the first step, only then."""
    return [one for one in found[0] if one[1] > done], *found[1:]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_ranks_learn_what_one_does_and_each_has_all_of_it(one, two, name):
    close(two[0][name]["whole"], one[name])
    same(two[1][name]["whole"], two[0][name]["whole"])


def test_two_ranks_sample_the_tokens_of_one_each_half_of_a_batch(two, tmp_path):
    alone = sampled(tmp_path)
    assert len(alone) == 4 * 10 and len({tuple(ids) for _, ids in alone}) > 5, "the policy says several things"
    assert two[0]["sampled"] == alone[::2]
    assert two[1]["sampled"] == alone[1::2]


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_two_ranks_end_as_undisturbed_ones_do(two, name):
    for rank in two:
        same(rank[name]["resumed"], after(rank[name]["whole"], 2))


@pytest.mark.parametrize("name", RESUMED)
def test_one_process_goes_on_from_two_ranks_and_two_from_one(one, two, shared, name):
    close(run(name, shared / name / "two to one"), after(one[name], 2))
    close(two[0][name]["from one"], after(one[name], 2))


@pytest.mark.parametrize("name", RESUMED)
def test_a_damaged_checkpoint_is_refused_by_all_ranks(two, name):
    for rank in two:
        assert re.match(r"The resume checkpoint .*damaged.* is damaged", rank[name]["refused"])


def test_a_rank_never_loads_a_model_beside_another_that_is_whole_and_learns(tmp_path):
    found = on_ranks(rank_programs.loading, tmp_path)
    alone = RewardModel.load(tmp_path / "reward").score_ids(rank_programs.ROWS)
    for rank in found:
        assert rank["held"] == [0, 0, 0, 0], "SFT, its reference, the ensemble, the value model"
        assert rank["at the end"] == rank["SFT"], "the policy alone"
        assert rank["scores"] == pytest.approx(alone, abs=CLOSE)


@pytest.mark.evidence
def test_two_machines_do_again_what_two_ranks_of_one_did(two, tmp_path):
    for rank in on_ranks(rank_programs.once, tmp_path, nodes=2):
        for name in RESUMED:
            same(rank[name], two[0][name]["whole"])
