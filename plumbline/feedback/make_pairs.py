"""Make pairs for people to judge: `python -m plumbline.feedback.make_pairs`, started by the feedback page.

Prompts are those that the champion was trained on (the train split): a verdict on a held-out prompt would be
held-out data and train no model. Champion, challenger and SFT answer them, the reward model scores the
answers, and `pairs.choose` keeps the pairs that teach most. The process exits when enough unjudged pairs and
rankings are in the store, and at once if another one is running.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.feedback.contestants import Contestants, contestants_of
from plumbline.feedback.next_pair import open_prompts, stock
from plumbline.feedback.pairs import Candidate, ScoredAnswer, choose, count_kinds, prompts_to_ask, rankings
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedAnswer
from plumbline.history.history import History
from plumbline.preferences.types import Prompt, prompt_from_json
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.home import Home, enter, find_home
from plumbline.project.locks import try_lock

if TYPE_CHECKING:
    from plumbline.feedback.models import LoadedModels

ENOUGH = 48
"""Unjudged pairs in the store."""
ENOUGH_RANKINGS = 8
"""Unjudged rankings in the store, beside the pairs."""
ASKED = 48
"""Prompts answered at a time."""
KEPT = 16
"""Pairs kept of the answers to those prompts."""
KEPT_RANKINGS = 3
SHARE = 6
"""One prompt in so many may become a ranking."""
NICE = 10


def make_pairs(home: Home, contestants: Contestants) -> int:
    """Fill the store, and return how many pairs and rankings are new. Raises UserError if a model is missing.
    """
    store = FeedbackStore.open(home)
    try:
        return _fill(store, home, contestants) if any(_short(store)) else 0
    finally:
        store.close()


def _short(store: FeedbackStore) -> tuple[bool, bool]:
    """Return whether the store has too few pairs, and whether it has too few rankings."""
    return stock(store) < ENOUGH, stock(store, ranking=True) < ENOUGH_RANKINGS


def _fill(store: FeedbackStore, home: Home, contestants: Contestants) -> int:
    """Load the models, and make what the store is short of until it has enough."""
    from plumbline.feedback.models import LoadedModels

    prompts = _read_prompts(home, contestants, "prompts/train.jsonl")
    if not prompts:
        raise UserError("The champion's prepared data has no prompts to ask about.")
    counts = count_kinds(_read_prompts(home, contestants, "preferences/train.jsonl"))
    models = LoadedModels.load(contestants, home.cache)
    chance = random.Random()
    added = 0
    while any(short := _short(store)):
        few_pairs, few_rankings = short
        known = open_prompts(store)
        fresh = [prompt for prompt in prompts if prompt not in known]
        chance.shuffle(fresh)
        asked = prompts_to_ask(fresh, counts, ASKED)
        candidates = _answered(models, asked, chance.randrange(2**31))
        # A prompt's answers go into a ranking or into a pair, never both: the verdict on one tells which
        # models gave them. Rankings take theirs first, because fewer prompts have the three different answers
        # that they need; where few prompts are left, one in SHARE, so that pairs get some as well.
        share = -(-len(candidates) // SHARE)
        made = rankings(candidates, min(KEPT_RANKINGS, share)) if few_rankings else []
        ranked = {ranking.prompt for ranking in made}
        if few_pairs:
            made += choose([one for one in candidates if one.prompt not in ranked], counts, KEPT)
        new = store.add_pairs(made)
        added += new
        if not new:
            break  # no prompts left to ask, or models that always answer the same
    return added


def _answered(models: "LoadedModels", prompts: list[Prompt], seed: int) -> list[Candidate]:
    """Let every model answer every prompt once, and the first model twice; score all answers."""
    contestants = models.contestants.models
    turns = [*enumerate(contestants), (0, contestants[0])]
    texts = [models.answer(number, prompts, seed + turn) for turn, (number, _) in enumerate(turns)]
    candidates = []
    for place, prompt in enumerate(prompts):
        answers = [column[place] for column in texts]
        rewards = models.rewards(prompt, answers)
        scored = []
        for (_, model), text, reward in zip(turns, answers, rewards, strict=True):
            answer = OfferedAnswer(text, model.name, model.digest, round(reward, 4))
            scored.append(ScoredAnswer(answer, reward, model.policy))
        candidates.append(Candidate(prompt, scored))
    return candidates


def _read_prompts(home: Home, contestants: Contestants, name: str) -> list[Prompt]:
    """Read the prompts in a file of the prepared data from the cache. Raises UserError if the cache lacks it.
    """
    names = cached_listing(home.cache, contestants.prepared)
    file = cached_file(home.cache, names[name]) if names and name in names else Path("missing")
    if not file.is_file():
        raise UserError(f"The cache {home.cache} does not hold {name} of the champion's data "
                        f"({contestants.prepared}), whose prompts people would be asked about. If the "
                        "project has a DVC remote, `dvc pull` may bring it back.")
    with file.open(encoding="utf-8", newline="\n") as lines:
        return [prompt_from_json(json.loads(line)["prompt"]) for line in lines]


def main() -> None:
    """Make pairs in the project of the current folder, unless another process is making some."""
    home = find_home()
    enter(home)
    os.nice(NICE)
    with try_lock(home.folder / "pairs.lock") as alone:
        if not alone:
            return
        try:
            history = History(home)
            history.refresh()
            make_pairs(home, contestants_of(history))
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
