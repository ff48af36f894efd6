"""Splits: train, validation, held-out or judge, decided by the prompt alone.

The split is a function of a hash of the prompt's text, so a prompt never moves between train and held-out as
data grows, and demonstrations, preferences and PPO prompts with the same prompt always land in the same
split. Case, spacing and Unicode's several spellings of one character do not make a prompt different.

The prompts of `judge` are kept from training for a second reward model, which judges what was optimised
against the first one and has learnt nothing from the same judgements.
"""

import hashlib
import unicodedata
from typing import Literal, get_args

from plumbline.preferences.types import Prompt

Split = Literal["train", "validation", "heldout", "judge"]
SPLITS: tuple[Split, ...] = get_args(Split)


def prompt_key(prompt: Prompt) -> str:
    """Return the SHA-256 of all turns, each NFKC-normalised and casefolded, its whitespace collapsed."""
    turns = (f"{message.role}\n{_normalise(message.content)}" for message in prompt)
    return hashlib.sha256("\0".join(turns).encode("utf-8", "surrogatepass")).hexdigest()


def split_of(
    key: str, validation_fraction: float, heldout_fraction: float, judge_fraction: float = 0.0, salt: str = ""
) -> Split:
    """Return the split of the prompt with this `prompt_key`, of which the first 16 digits are enough.

    Held-out takes the low end of the hash's range and validation the high end, so that changing one fraction
    moves no prompt between the other two. What is left is divided by other digits of the hash: a share of
    about `judge_fraction` of it, in steps of 1/4096, goes to `judge`. Another `salt` is another hash.
    """
    if salt:
        key = hashlib.sha256(f"{salt}\0{key[:16]}".encode("utf-8", "surrogatepass")).hexdigest()
    position = int(key[:13], 16) / 16**13  # 52 bits: exact in a float
    if position < heldout_fraction:
        return "heldout"
    if position >= 1 - validation_fraction:
        return "validation"
    return "judge" if int(key[13:16], 16) / 16**3 < judge_fraction else "train"


def _normalise(text: str) -> str:
    if text.isascii():
        return " ".join(text.lower().split())
    # Casefolding can leave a text that NFKC would change again, hence twice (Unicode 16, section 3.13, D146).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())
