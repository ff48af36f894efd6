"""What ranks do in tests; see on_ranks.py."""

import gc

import torch
from torch.distributed.tensor import DTensor

from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.online.policies import make_policy
from plumbline.alignment.reward import MEMBERS, RewardModel, value_model
from plumbline.errors import DiskFull, UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.ranks.sharding import sharded
from plumbline.lm.ranks.world import world
from testing.online import online_params
from testing.trainings import RESUMED, TRAININGS, fresh_reward_model, run, sampled, taught

ROWS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14], [5, 9, 20]]

def sharing(_folder):
    """Call each method of World with rows that do not divide evenly; return what each rank gets."""
    here, rows = world(), list("abcdefg")
    mine = here.mine(rows)
    return {"refused": refusing(), "world": (here.rank, here.size, here.first), "mine": mine,
            "gathered": here.gathered([row.upper() for row in mine]), "nothing": here.gathered(here.mine([])),
            "summed": here.summed({"a": 0.1 * (here.rank + 1), f"only {here.rank}": 1.0}),
            "passes": list(here.passes(mine, "spare")), "agreed": here.agreed(rows, "rows")}


def refusing():
    """Let one of the ranks meet an error, in several ways; return the message that each rank gets."""
    here, found = world(), []

    def damaged():
        if here.rank == 1:
            raise UserError("This file is damaged.")
        return here.rank

    def full():
        if here.rank == 0:
            raise DiskFull("a file")

    for attempt in (lambda: here.together(damaged), lambda: here.together(full),
                    lambda: here.agreed(here.rank // 2, "data"), lambda: sharded(of_rank()),
                    lambda: here.together(lambda: here.rank)):
        try:
            found.append(attempt())
        except UserError as error:
            found.append(str(error))
    return found


def of_rank():
    """Return a model of which one weight differs on the last rank, in a bit that a sum would lose."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1e6)
        model[1].weight[0, 0] += 0.1 * (world().rank == world().size - 1)
    return model


def trainings(folder):
    """Run every training to its end, and kill and resume some; return their reports, metrics and weights, and what a
    PPO training samples.
    """
    found = {name: {"whole": run(name, folder / name / "whole")} for name in TRAININGS}
    for name in RESUMED:
        found[name] |= resumed(name, folder / name)
    return found | {"sampled": sampled(folder / "sampled")}


def resumed(name, folder):
    """Kill a training and resume it; kill it for one process to resume; resume what one process has left, and a
    damaged checkpoint. Return how each ends.
    """
    found = {}
    run(name, folder / "own", killed_after=3)
    found["resumed"] = run(name, folder / "own")
    run(name, folder / "two to one", killed_after=3)
    found["from one"] = run(name, folder / "one to two")
    try:
        run(name, folder / "damaged")
    except UserError as error:
        found["refused"] = str(error)
    return found


def loading(folder):
    """Make a policy and a critic of which all weights learn, and an ensemble to ask; return how many whole weights this
    rank had of them each time that it loaded a further model, and what the ensemble says of ROWS.
    """
    taught().save(folder / "sft")
    first, second, params = fresh_reward_model(folder), fresh_reward_model(folder, seed=1), online_params("ppo")
    first.lead([one.deviations(ROWS) for one in (first, second)])
    first.save(folder / "reward")
    second.save(folder / "reward" / MEMBERS / "2")
    del first, second
    before, held = whole_weights(), []

    def loaded(load):
        held.append(whole_weights() - before)
        return load()

    lm = loaded(lambda: LanguageModel.load(folder / "sft"))
    policy = make_policy(lm.model, lambda: loaded(lambda: LanguageModel.load(folder / "sft").model), params, 0)
    asked = loaded(lambda: RewardModel.load(folder / "reward"))
    value, asked = make_critic("ppo", policy, asked, lambda: loaded(lambda: value_model(folder / "reward")), params)
    whole = policy.whole().model
    found = {"at the end": whole_weights() - before, "SFT": sum(map(torch.numel, whole.parameters())),
             "scores": asked.score_ids(ROWS)}
    del value  # not before
    return {"held": held, **found}


def whole_weights():
    """Count all weights that this process has, but for those that are a part of one."""
    gc.collect()
    weights = {id(one): one for one in gc.get_objects()
               if isinstance(one, torch.nn.Parameter) and not isinstance(one, DTensor)}
    return sum(weight.numel() for weight in weights.values())


def once(folder):
    """Run the trainings that others kill and resume to their ends, once; return how they end."""
    return {name: run(name, folder / name) for name in RESUMED}
