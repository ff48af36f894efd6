"""What each annotation of a tool said last, as webhooks told it: from when it is, and which rows it became.

A deletion names an annotation and nothing else, deliveries repeat, and an old one may come after a newer. So
a file beside the rows of a batch says which annotations they are from; what brought no rows is noted in the
home. The newest entry of an annotation holds, wherever it lies: nothing here is ever changed.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import read_arrival
from plumbline.project.home import Home

ANNOTATIONS = "annotations.jsonl"
WHOLE_TASK = ""
"""Stands for all annotations of a task that was deleted."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Entry:
    """The state of one annotation according to one delivery."""

    tool: str
    project: str
    """Empty where the tool's ids are unique without it."""
    task: str
    annotation: str
    when: str
    """When it was said there: ISO 8601, UTC, microseconds."""
    noted: str
    """When it arrived here, in the same form."""
    rows: tuple[str, ...]
    """The ids of the rows that stand for it since; none where it was taken back, or could not be used."""
    delivery: str
    """SHA-256 of the request."""
    batch: str | None = None
    """The arrival that it led to; None in the arrival's own folder, whose name it is."""

    @property
    def key(self) -> Key:
        """Identity of the annotation, or of the task that was deleted."""
        name = f"task {self.task}" if self.annotation == WHOLE_TASK else self.annotation
        return (self.tool, self.project, name)


class Annotations:
    """The newest states of all annotations."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.newest: dict[Key, Entry] = {}
        self.deliveries: dict[str, str | None] = {}
        """The arrival that each delivery led to, if it did to one."""
        self._ever: set[str] = set()
        for entry in sorted(entries, key=lambda entry: entry.noted):
            known = self.newest.get(entry.key)
            if known is None or known.when <= entry.when:
                self.newest[entry.key] = entry
            self.deliveries[entry.delivery] = entry.batch or self.deliveries.get(entry.delivery)
            self._ever.update(entry.rows)

    def later(self, entry: Entry) -> Entry | None:
        """Return a newer entry for the same annotation or for its task, if there is one."""
        whole = (entry.tool, entry.project, f"task {entry.task}")
        found = (self.newest.get(entry.key), self.newest.get(whole))
        return next((known for known in found if known and known.when > entry.when), None)

    def of_task(self, tool: str, project: str, task: str) -> list[Entry]:
        """Return the newest entries of a task's annotations."""
        named = (tool, project, task)
        return [entry for entry in self.newest.values()
                if (entry.tool, entry.project, entry.task) == named and entry.annotation != WHOLE_TASK]

    def standing(self, but: Iterable[Key]) -> set[str]:
        """Return the rows that stand for annotations other than these."""
        left_out = set(but)
        return {row for key, entry in self.newest.items() if key not in left_out for row in entry.rows}

    def are_back(self, rows: Iterable[str]) -> bool:
        """True if some of these rows stood for an annotation once, and stand for none now."""
        return bool((set(rows) & self._ever) - self.standing(()))


def known_annotations(home: Home) -> Annotations:
    """Read the entries beside all batches and in the home."""
    entries = [entry for file in home.preferences.arrived.glob(f"*/{ANNOTATIONS}") for entry in _beside(file)]
    notes = _notes(home)
    return Annotations([*entries, *(_read(notes) if notes.exists() else ())])


def note(home: Home, entries: Iterable[Entry]) -> None:
    """Append entries that brought no rows to the home's file."""
    _notes(home).parent.mkdir(parents=True, exist_ok=True)
    with _notes(home).open("a", encoding="utf-8") as opened:
        opened.write("\n" + as_lines(entries))  # the last one may have been cut short


def as_lines(entries: Iterable[Entry]) -> str:
    """Return entries as JSON lines."""
    return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)


def _notes(home: Home) -> Path:
    return home.folder / "hooks" / ANNOTATIONS


@cache
def _beside(file: Path) -> tuple[Entry, ...]:
    """Return the entries beside a batch, which never change."""
    try:
        batch = read_arrival(file.parent).digest
    except (UserError, FileNotFoundError):  # damaged, or half pulled: the folder's name has to do
        batch = file.parent.name
    return tuple(Entry(**{**asdict(entry), "batch": batch}) for entry in _read(file))


def _read(file: Path) -> tuple[Entry, ...]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028
        try:
            values = json.loads(line)
            found.append(Entry(**{**values, "rows": tuple(values["rows"])}))
        except (ValueError, KeyError, TypeError):
            continue  # empty, or cut short by a kill: then the tool sends it again
    return tuple(found)
