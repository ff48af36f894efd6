"""Make pairs for people to judge: `python -m plumbline.feedback.make_pairs`, which the feedback page starts.

Prompts are those that the champion learned from (the train split), because a verdict on a held-out prompt is held-out
data and teaches no model. Champion, challenger and SFT answer them, the reward model scores the answers, and pairs.py
keeps those that teach most. It ends when enough unjudged pairs are in store; a second one at the same time ends at
once.
"""

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.feedback.contestants import Cast, cast_of
from plumbline.feedback.next_pair import open_prompts, stock
from plumbline.feedback.pairs import Candidate, Scored, choose, count_kinds, prompts_to_ask, rankings
from plumbline.feedback.store import Store
from plumbline.feedback.verdicts import Answer
from plumbline.history.history import History
from plumbline.preferences.types import Prompt, from_json
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.home import Home, enter, find_home
from plumbline.project.locks import try_lock

if TYPE_CHECKING:
    from plumbline.feedback.models import Models

ENOUGH = 48
"""Unjudged pairs in store."""
ENOUGH_RANKINGS = 8
ASKED = 48
"""Prompts that are answered at a time."""
KEPT = 16
"""Pairs that are kept of those."""
KEPT_RANKINGS = 3
NICE = 10


def make_pairs(home: Home, cast: Cast) -> int:
    """Fill the store; returns how many pairs were added. Raises UserError where the cast cannot be loaded."""
    from plumbline.feedback.models import Models

    prompts, counts = _prompts(home, cast), _counts(home, cast)
    models, store = Models.load(cast, home.cache), Store.open(home)
    chance, added = random.Random(), 0
    try:
        while stock(store) < ENOUGH:
            known = open_prompts(store)
            fresh = [prompt for prompt in prompts if prompt not in known]
            chance.shuffle(fresh)
            asked = prompts_to_ask(fresh, counts, ASKED)
            candidates = _answered(models, asked, chance.randrange(2**31))
            made = choose(candidates, counts, KEPT)
            if stock(store, ranking=True) < ENOUGH_RANKINGS:
                made += rankings(candidates, KEPT_RANKINGS)
            new = store.add_pairs(made)
            added += new
            if not new:
                break  # nothing left to ask, or models that always answer the same
    finally:
        store.close()
    return added


def _answered(models: "Models", asked: list[Prompt], seed: int) -> list[Candidate]:
    """Every part of the cast answers every prompt, and the first one twice."""
    parts = models.cast.parts
    turns = [*enumerate(parts), (0, parts[0])]
    texts = [models.answer(number, asked, seed + turn) for turn, (number, _) in enumerate(turns)]
    candidates = []
    for place, prompt in enumerate(asked):
        answers = [column[place] for column in texts]
        candidates.append(Candidate(prompt, [
            Scored(Answer(text, part.name, part.digest, round(reward, 4)), reward, part.policy)
            for (_, part), text, reward in zip(turns, answers, models.rewards(prompt, answers), strict=True)]))
    return candidates


def _prompts(home: Home, cast: Cast) -> list[Prompt]:
    """The prompts of the train split of the data that the champion learned from."""
    found = [from_json({"kind": "demonstration", "response": "-", "source": "-", **values}).prompt
             for values in _rows(home, cast, "prompts/train.jsonl")]
    if not found:
        raise UserError("The champion's prepared data has no prompts to ask about.")
    return found


def _counts(home: Home, cast: Cast) -> Counter[str]:
    return count_kinds(from_json(values).prompt for values in _rows(home, cast, "preferences/train.jsonl"))


def _rows(home: Home, cast: Cast, name: str) -> list[dict[str, object]]:
    """The rows of a file of the prepared data, from the cache."""
    names = cached_listing(home.cache, cast.prepared)
    file = cached_file(home.cache, names[name]) if names and name in names else Path("missing")
    if not file.is_file():
        raise UserError(f"The cache {home.cache} does not hold {name} of the champion's data ({cast.prepared}), whose "
                        "prompts people would be asked about. If the project has a DVC remote, `dvc pull` may bring it "
                        "back.")
    with file.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def main() -> None:
    """Make pairs in the project of the current folder, unless another process does."""
    home = find_home()
    enter(home)
    os.nice(NICE)
    with try_lock(home.folder / "pairs.lock") as alone:
        if not alone:
            return
        try:
            history = History(home)
            history.refresh()
            make_pairs(home, cast_of(history))
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
