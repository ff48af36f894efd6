"""Functions of the user's own that score answers: a judge, a reward, named as `module:function`.

The module is found from the project's root, or on Python's path. The function gets a list of (prompt,
answer), both texts, and returns a number for each. Only its author knows when it gives other numbers than
before: then the `version` of the stage that asks it has to be raised.
"""

import importlib
import importlib.machinery
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import UserError

FUNCTION_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class ScoreFunction:
    """A function of the user's own."""

    called: str
    """What messages call it, such as `judge rules:no_lists`."""
    function: Callable[[list[tuple[str, str]]], Sequence[float]]

    def __call__(self, texts: list[tuple[str, str]]) -> list[float]:
        """Return the score of each (prompt, answer). Raises UserError unless it gives a number for each."""
        try:
            scores = [float(value) for value in self.function(texts)]
        except Exception as error:  # whatever the function does
            raise UserError(f"The {self.called} must give a number for each (prompt, response), but failed "
                            f"with {type(error).__name__}: {error}") from error
        if len(scores) != len(texts):
            raise UserError(f"The {self.called} must give a score for each (prompt, response): it was asked "
                            f"for {len(texts)} and gave {len(scores)}.")
        return scores


def import_function(role: str, name: str, root: Path, parameter: str) -> ScoreFunction:
    """Import `module:function`. Raises UserError, which calls it a `role` of `parameter`, if that fails."""
    module_name, _, function_name = name.partition(":")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(f"The {role} {name} cannot be imported from {root}: {type(error).__name__}: "
                        f"{error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"The module {module_name} ({module.__file__}) has no function `{function_name}`, "
                        f"which {parameter} names.")
    return ScoreFunction(f"{role} {name}", function)


def find_module(role: str, name: str, root: Path, parameter: str) -> None:
    """Raise UserError unless the module of a `module:function` can be found, without importing it."""
    package = name.partition(":")[0].split(".")[0]
    if importlib.machinery.PathFinder.find_spec(package, [str(root), *sys.path]) is None:
        raise UserError(f"There is no module `{package}` for the {role} {name} of {parameter}: "
                        f"expected {package}.py or a package of that name in {root}.")


def short_label(name: str) -> str:
    """Return the end of the name of a judge or a reward, safe for a metric: the function, or the model."""
    separator = "/"
    if "#" in name:
        separator = "#"
    elif FUNCTION_NAME.fullmatch(name):
        separator = ":"
    return safe_name(name.rsplit(separator, 1)[-1])


def safe_name(text: str) -> str:
    """Return a text in the characters that the name of a metric may have."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "unnamed"
