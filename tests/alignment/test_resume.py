"""Resume: a PPO run that was killed goes on to the last digit, and a damaged checkpoint is never a fresh start."""

import tracemalloc
from copy import deepcopy

import pytest
import torch

from plumbline.alignment.online.learner import Learner
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.errors import UserError
from plumbline.lm.checkpoint import Checkpoint
from testing.online import policy_of, prepared, train_policy
from testing.tiny_models import PROMPTS, copy_of, ppo_params

PARAMS = ppo_params(updates=6, value_warmup=2, checkpoint_every=1, epochs=2, minibatches=2, kl_target=0.1,
                    kl_horizon=50, batch_size=4, learning_rate=3e-3, evaluate_every=2)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


@pytest.fixture
def reward_folder(taught_folder, tmp_path):
    RewardModel.from_policy(taught_folder, 64, seed=0).save(tmp_path / "reward")
    return tmp_path / "reward"


@pytest.fixture
def train(taught_lm, reward_folder, tmp_path):
    """One process's part of a run in `folder`: everything is made anew; stops dead after `killed_after` updates."""

    def run(name, killed_after=None, params=PARAMS, prompts=PROMPTS, seed=0):
        policy, value, reports = copy_of(taught_lm), value_model(reward_folder), []
        reward = RewardModel.load(reward_folder)

        def report(step, total, metrics=None, what=""):
            reports.append((what, step, metrics))
            if step == killed_after and not what:
                raise Killed

        last = None
        try:
            validation = prepared(copy_of(policy), reward, reward, PROMPTS, params, 0)
            last = train_policy(policy, deepcopy(policy.model), value, reward, prompts, params, seed, report,
                             tmp_path / name, validation)
        except Killed:
            torch.rand(17)  # the next process starts with whatever random state
        return last, reports, [*policy.model.parameters(), *value.parameters()]

    return run


def checkpoint(folder):
    file, = folder.glob("*.pt")
    return torch.load(file, weights_only=True)["state"]


def flat(state):
    """Every leaf of nested state, tensors as bytes."""
    if isinstance(state, dict):
        return {f"{key}/{below}": leaf for key, value in state.items() for below, leaf in flat(value).items()}
    if isinstance(state, list):
        return flat(dict(enumerate(state)))
    return {"": state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


@pytest.mark.parametrize("killed_after", [[1], [4], [2, 3, 5]])
def test_a_killed_run_ends_as_the_undisturbed_one_does(train, tmp_path, killed_after):
    last, reports, weights = train("whole")
    seen = []
    for update in killed_after:
        seen += train("killed", killed_after=update)[1][:-1]
    resumed_last, resumed, resumed_weights = train("killed")
    assert resumed_last == last
    assert seen + resumed == reports, "each update is reported as it was, from the one that was lost on"
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed_weights, strict=True))
    state = checkpoint(tmp_path / "whole")
    assert flat(state) == flat(checkpoint(tmp_path / "killed"))
    assert {"policy_optimizer", "critic_optimizer", "kl_coef", "queue", "generator", "kept"} <= state.keys()


def test_updates_since_the_last_checkpoint_are_done_again(train):
    params = PARAMS.model_copy(update={"checkpoint_every": 4})
    last, reports, _ = train("whole", params=params)
    train("killed", killed_after=3, params=params)
    assert train("killed", killed_after=6, params=params)[1] == reports[2:], "what warmed the value model up is kept"
    resumed_last, resumed, _ = train("killed", params=params)
    assert (resumed_last, resumed) == (last, reports[6:])


def damage(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize("spoil", [damage, lambda content: content[: len(content) // 2], lambda content: b""],
                         ids=["one bit", "half", "empty"])
def test_a_damaged_checkpoint_is_refused_and_left_for_the_user(train, tmp_path, spoil):
    train("run", killed_after=3)
    file, = (tmp_path / "run").glob("*.pt")
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UserError, match=r"damaged.*Delete it"):
        train("run")
    assert file.exists()


@pytest.mark.parametrize(("changed", "words"), [
    ({"params": PARAMS.model_copy(update={"kl_coef": 0.1, "learning_rate": 1e-3})},
     r"ppo\.learning_rate was 0\.003 and is 0\.001; ppo\.kl_coef was 0\.05 and is 0\.1\. Set back"),
    ({"seed": 1}, "seed was 0 and is 1"),
    ({"prompts": PROMPTS[:4]}, "digest of the data was"),
])
def test_a_checkpoint_of_another_training_is_refused_and_left(train, tmp_path, changed, words):
    train("run", killed_after=3)
    with pytest.raises(UserError, match=words):
        train("run", **changed)
    assert len(list((tmp_path / "run").glob("*.pt"))) == 1


def test_neither_saving_nor_loading_holds_the_state_a_second_time(tmp_path):
    """Python's own memory, in which a buffer of the whole file would lie; tensors lie outside of it."""
    state, checkpoint = {"weights": torch.ones(8_000_000)}, Checkpoint(tmp_path, {})
    tracemalloc.start()
    checkpoint.save(1, state)
    found = checkpoint.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(found["weights"], state["weights"])
    assert peak < 8_000_000, f"{peak} bytes for 32 MB of state"


def test_a_full_disk_leaves_the_checkpoint_before_it_and_no_part_of_the_next(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(1, {"step": 1})

    def full(state, out):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(2, {"step": 2})
    assert checkpoint.load() == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_was_cut_off_leaves_the_checkpoint_before_it(train, tmp_path):
    last = train("whole")[0]
    train("run", killed_after=3)
    left = tmp_path / "run/.new-1-2-000004-0123456789abcdef.pt.part"
    left.write_bytes(b"half of a")
    resumed_last, resumed, _ = train("run")
    assert resumed_last == last and resumed[0][1] == 3
    assert not left.exists()


def test_the_policy_kept_so_far_does_not_hold_on_to_the_file_that_it_was_read_from(taught_lm, tmp_path):
    """The next checkpoint deletes that file, and over a network its pages are gone then."""
    learner = Learner.new(policy_of(copy_of(taught_lm).model, taught_lm.model, ppo_params()), None, ppo_params(), 0)
    kept = {"update": 1, "measured": {}, "weights": {"w": torch.ones(2)}, "beyond_limit": False}
    learner.load_state_dict({**learner.state_dict(), "kept": kept})
    held = learner.kept.weights["w"]
    assert held.tolist() == [1.0, 1.0] and held.data_ptr() != kept["weights"]["w"].data_ptr()


def test_an_older_checkpoint_left_beside_the_newest_is_not_taken(train, tmp_path):
    """Killed between writing the new one and removing the old one."""
    train("run", killed_after=3)
    older, = (tmp_path / "run").glob("*.pt")
    kept = older.read_bytes()
    train("run", killed_after=5)
    older.write_bytes(kept)
    assert train("run")[1][0][1] == 5
