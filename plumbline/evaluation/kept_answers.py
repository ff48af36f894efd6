"""SFT's answers, kept for the next policy that meets them.

The candidates of a comparison have the same SFT, and most of what is sampled and scored to judge one of them
is SFT's.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from plumbline.evaluation.judging.judges import ModelAnswer
from plumbline.evaluation.matches import Contestant
from plumbline.whole_file import write_whole

MOST = 16
"""Files that are kept, of some megabytes each; the oldest go."""


@dataclass(frozen=True)
class SftAnswers:
    """SFT's answers to the prompts of one evaluation."""

    contestants: list[Contestant]
    """Sampled, greedy and, if it is wanted, the best of the pool, with what was measured on each."""
    pool: list[list[ModelAnswer]]
    """By prompt, then by answer: those of which the best are taken."""


FORM = TypeAdapter(SftAnswers)


def kept_answers(file: Path | None, make: Callable[[], SftAnswers]) -> SftAnswers:
    """Return the answers in `file`; where there is none, those that `make` returns, and keep them there.

    None keeps nothing. The name of the file has to stand for all that the answers depend on.
    """
    if file is None:
        return make()
    with suppress(FileNotFoundError, ValidationError):
        return FORM.validate_json(file.read_bytes())
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, FORM.dump_json(made).decode())
    by_age = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in by_age[:-MOST]:
        old.unlink(missing_ok=True)
    return made
