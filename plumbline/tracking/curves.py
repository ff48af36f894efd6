"""The curves of a stage: what its training measured at each step, one JSON object a line.

A training that was killed goes on from its checkpoint, in a new process and perhaps another workspace, and
reports only what comes after it. What was reported up to there is kept beside the checkpoints and put before
that, so that a curve has no gap and no step twice.

What the curves say of a training (`alignment/diagnosis.py`) is worked out wherever they are read, so it is
never out of date, and no output of a stage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.alignment.diagnosis import Finding, diagnose
from plumbline.project.dvc_yaml import read_stages
from plumbline.tracking.receipts import read_receipt
from plumbline.whole_file import write_whole


@dataclass(frozen=True)
class CurvePoint:
    """What was measured at one step."""

    what: str
    """The part of the training; empty for the training itself."""
    step: int
    values: Mapping[str, float | None]
    """None where a measurement was no finite number, which JSON does not know."""

    def to_line(self) -> str:
        """Return the point as a line of the file."""
        return json.dumps({"what": self.what, "step": self.step, **self.values}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "CurvePoint":
        """Return the point of a line that `to_line` made."""
        values = json.loads(line)
        return cls(values.pop("what"), values.pop("step"), values)


class Curves:
    """The curves in one file, which begins empty."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._copy: Path | None = None
        self._earlier: list[CurvePoint] = []
        file.write_text("", encoding="utf-8")

    def keep_beside(self, checkpoints: Path) -> None:
        """Keep the points in this folder, too, and go on from those that a killed process left there."""
        self._copy = checkpoints / "curves.jsonl"
        if self._copy.is_file():
            lines = self._copy.read_text(encoding="utf-8").splitlines(keepends=True)
            # The kill may have cut the last line off.
            self._earlier = [CurvePoint.from_line(line) for line in lines if line.endswith("\n")]
        write_whole(self._copy, "".join(point.to_line() for point in self._earlier))

    def add(self, point: CurvePoint) -> list[CurvePoint]:
        """Add a point. Return what is new in the file: before the first point come those of before the kill.
        """
        added = [*_before(point, self._earlier), point]
        text = "".join(one.to_line() for one in added)
        _append(self._file, text)
        if self._copy and self._earlier:  # steps since the checkpoint are done again
            write_whole(self._copy, text)
        elif self._copy:
            _append(self._copy, text)
        self._earlier = []
        return added


def read_points(file: Path) -> list[dict[str, object]]:
    """Return the points of a file, one mapping a line, as far as they are written."""
    points: list[dict[str, object]] = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                point = json.loads(line)
            except ValueError:
                break  # a stage that is running has not finished its last line
            if isinstance(point, dict):
                points.append(point)
    return points


def findings(workspace: Path) -> dict[str, list[Finding]]:
    """Return what is wrong with the training of each stage in a workspace that left, or leaves, curves.

    Nothing is known of one that has lost its dvc.yaml.
    """
    found: dict[str, list[Finding]] = {}
    if not (workspace / "dvc.yaml").exists():
        return found
    for name, stage in read_stages(workspace).items():
        file = stage.file("curves.jsonl")
        if file and (workspace / file).exists():
            receipt = read_receipt(workspace, stage)
            found[name] = diagnose(read_points(workspace / file), name, receipt.params if receipt else {})
    return found


def _before(point: CurvePoint, earlier: list[CurvePoint]) -> list[CurvePoint]:
    """Return the earlier points up to that of the same step, or all of them if there is none."""
    places = [place for place, one in enumerate(earlier) if (one.what, one.step) == (point.what, point.step)]
    return earlier[: places[0]] if places else earlier


def _append(file: Path, text: str) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(text)
