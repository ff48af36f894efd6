"""A fake project whose data is real: its snapshot holds the batches that arrived, and other data gives other models.

Debounce, settle and clock are short, so that a test takes seconds.
"""

import shutil
from pathlib import Path

from ruamel.yaml import YAML

from plumbline.data.intake import Taken, take_in_rows
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.project.home import Home
from testing.fake_project import CHECKOUT, make_project


def make_always_on(root: Path, **retrain: object) -> Path:
    """A project that learns from added batches alone."""
    make_project(root)
    shutil.copy(CHECKOUT / "tasks/snapshot.py", root / "tasks/snapshot.py")
    sft = root / "tasks/sft.py"
    sft.write_text(sft.read_text().replace('glob("models/base/model/*")', 'glob("data/prepared/*")'))
    change_params(root, "snapshot", sources=["added"])
    change_params(root, "preference_eval", judges=["reward"])
    change_params(root, "retrain", **{"cron": None, "min_new_comparisons": 5, "debounce_seconds": 2.0,
                                      "settle_seconds": 0.5, **retrain})
    return root


def change_params(root: Path, block: str, **values: object) -> None:
    """Write values into a block of params.yaml."""
    yaml, file = YAML(), root / "params.yaml"
    params = yaml.load(file.read_text(encoding="utf-8"))
    params[block].update(values)
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(params, out)


def comparisons(start: int, count: int) -> list[Comparison]:
    """Judgements that no other `start` gives."""
    return [Comparison((Message("user", f"Question {number}?"),), (f"yes {number}", f"no {number}"), "A",
                       Origin("test", f"annotator {number % 3}")) for number in range(start, start + count)]


def bring(root: Path, start: int, count: int = 5) -> Taken:
    """A batch arrives, as a program brings it."""
    return take_in_rows(Home(root, root / ".plumbline"), comparisons(start, count), f"batch-{start}")
