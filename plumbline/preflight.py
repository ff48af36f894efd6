"""What can be known to fail before anything is trained.

Parameters have been checked one by one; here they meet the world: the files, the base model, its context, the disk.
"""

import shutil
from pathlib import Path

from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.lineage.home import Home

PRETRAIN = "pretrain"
SIMULATED = "simulated"
HUB = "hub:"
GOLD = "gold"
LEAST_FREE_BYTES = 1_000_000_000
COPIES_OF_BASE = 10
"""A run keeps base, SFT, reward, policy and champion, each in its workspace and in the cache."""


def preflight(home: Home, params: Params) -> None:
    """Raise UserError for the first thing that would stop the run later."""
    _sources(home.root, params)
    _judge(params)
    _lengths(params, _context(home, params))
    _disk(home, params)


def _sources(root: Path, params: Params) -> None:
    for source in params.snapshot.sources:
        if source != SIMULATED and not source.startswith(HUB) and not (root / source).exists():
            raise UserError(f"snapshot.sources names {source}, but {root / source} does not exist. Give a file, a "
                            f"folder, `{SIMULATED}` or `{HUB}NAME`; relative paths start at the project's root.")


def _judge(params: Params) -> None:
    outside = [source for source in params.snapshot.sources if source != SIMULATED]
    if params.preference_eval.judge == GOLD and outside:
        raise UserError(f"preference_eval.judge is `{GOLD}`, which knows the simulated world only, but "
                        f"snapshot.sources has {', '.join(outside)}. Set preference_eval.judge=reward.")


def _context(home: Home, params: Params) -> int:
    """The longest sequence of the base model; a model to pretrain is judged without loading transformers."""
    if params.base.source == PRETRAIN:
        return params.base.context
    from plumbline.lm.base import describe

    found = describe(params.base.source, home.root)
    if not found.has_chat_template:
        raise UserError(f"The base model {params.base.source} has no chat template, so it does not know the turns of a "
                        "conversation. Choose an instruction-tuned model, or add chat_template.jinja to its folder.")
    return found.context


def _lengths(params: Params, context: int) -> None:
    wanted = {
        "sft.max_length": params.sft.max_length,
        "reward_model.max_length": params.reward_model.max_length,
        "ppo.max_prompt + ppo.max_response": params.ppo.max_prompt + params.ppo.max_response,
    }
    too_long = [f"{name} is {tokens}" for name, tokens in wanted.items() if tokens > context]
    if too_long:
        raise UserError(f"The base model {params.base.source} reads at most {context} tokens, but "
                        f"{' and '.join(too_long)}. Lower what is too long, or take a model with a longer context.")


def _disk(home: Home, params: Params) -> None:
    free = shutil.disk_usage(home.root).free
    file = home.root / params.base.source
    needed = max(LEAST_FREE_BYTES, COPIES_OF_BASE * file.stat().st_size if file.is_file() else 0)
    if free < needed:
        raise UserError(f"The disk of {home.root} has {free / 1e9:.1f} GB free; a run with these parameters wants at "
                        f"least {needed / 1e9:.1f} GB. Delete old folders in {home.runs}, or free space elsewhere.")
