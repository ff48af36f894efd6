"""Changing the preference data: batches are added, corrected and removed, and nothing is edited in place."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.config import Params, load_params
from plumbline.data.arrive import Published, announce_once, arrive
from plumbline.data.dvc_tracking import track
from plumbline.data.intake import content_digest, rows_digest
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    NO_ROWS,
    Action,
    Arrival,
    Draft,
    arrival_index,
    arrivals,
    draft,
    find_arrival,
    readable_arrivals,
    removed_rows,
    require_all_here,
    time_of_next,
)
from plumbline.preferences.batches.batch import QUARANTINE, ROWS
from plumbline.preferences.batches.index import NOBODY, BatchIndex, Hashes, index_of, index_of_rows
from plumbline.preferences.batches.snapshot import ADDED, Simulation, resolve_sources, with_imports_made_again
from plumbline.preferences.jsonl import lines
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.reading.read import UnusableFile
from plumbline.preferences.reading.results import Quarantined, Read, Unread, shown_name
from plumbline.preferences.reading.sources import open_source, read_all
from plumbline.preferences.splits import SPLITS, split_of
from plumbline.preferences.types import Row
from plumbline.preferences.versions.compare import chosen_rows
from plumbline.project.home import Home

REASONS = 5


@dataclass(frozen=True)
class DataChange:
    """The outcome of a change to the data, for the person who made it."""

    arrival: Arrival
    already_there: bool
    """True if the same content had been added before, so that nothing changed."""
    written: bool
    """False for a dry run."""
    known: int
    """Rows that an earlier batch holds too."""
    removed_before: int
    """Rows that were removed before, and stay out."""
    come_back: int
    """Rows that were removed or corrected before, and that this correction brings back."""
    new: int
    """Rows that the next run sees for the first time."""
    judged_again: int
    """Earlier judgements that stay beside new ones of the same responses by the same annotators, as where a
    growing export comes under another name; `supersede` would replace them."""
    new_prompts: dict[str, int]
    """Prompts that no earlier batch has, by the split that they fall into."""
    gone: list[str]
    """The ids of the rows that are taken away."""
    set_aside: list[str]
    """Why rows were quarantined: the commonest reasons, each with a place."""
    learned_from: bool
    """True if `snapshot.sources` in params.yaml lets the next run learn from added batches."""
    not_announced: str | None
    """Why no event was sent."""
    not_tracked: str | None
    """Why DVC does not know the batch yet; the next run tries again."""


def add(home: Home, source: str, how: Reading, dry_run: bool = False) -> DataChange:
    """Import a file, a folder or `hub:NAME` as a batch. Raises UserError if nothing in it is usable."""
    content, read = _open(source, how)
    for known in readable_arrivals(home.preferences)[0]:
        if known.content == content and known.action == "add":
            # An import that was killed after its batch appeared is finished here.
            not_announced = None if dry_run else announce_once(home, known)
            there = DataChange(known, True, False, 0, 0, 0, 0, 0, {}, [], [], _is_learned_from(home),
                               not_announced, None)
            return _tracked(home, there, dry_run)
    changed = _change(home, source, read(), "add", content, lambda _: NO_ROWS, "", dry_run)
    return _tracked(home, changed, dry_run)


def supersede(home: Home, source: str, how: Reading, reason: str, batch: str | None,
              dry_run: bool = False) -> DataChange:
    """Import a correction: its rows take the place of earlier judgements of the same by the same annotator.

    Judgements that their annotators have taken back go without a replacement. With `batch` the rows take the
    place of that whole batch. Rows that were removed before and that the correction holds come back. Raises
    UserError like `add`, and when an arrival is not here, which may hold other judgements.
    """
    require_all_here(home.preferences)
    content, read = _open(source, how)
    taken_back: list[Row] = []
    folders = home.preferences
    replaced = arrival_index(folders, find_arrival(folders, batch)).row if batch else None

    def superseded(drafted: Draft) -> Hashes:
        old = replaced if replaced is not None else _judged_before(home, drafted.index)
        if taken_back:
            old = np.union1d(old, _judged_before(home, index_of_rows(taken_back)))
        return np.setdiff1d(old, drafted.index.row)

    noted = _noting(read(), taken_back)
    changed = _change(home, source, noted, "supersede", content, superseded, reason, dry_run)
    return _tracked(home, changed, dry_run)


def remove(home: Home, rows: Sequence[str], annotator: str | None, source: str | None, reason: str,
           dry_run: bool = False) -> DataChange:
    """Take rows out of every later snapshot: those named, or all of an annotator, of a source, or of both.

    Raises UserError when there is no such row, or not each of those named, and when an arrival is not here,
    which may hold others.
    """
    require_all_here(home.preferences)
    named = np.array([row_number(row) for row in rows], np.uint64)
    found = [index.row[np.isin(index.row, named) if rows else chosen_rows(index, source, annotator)]
             for index in _present(home)]
    gone = np.unique(np.concatenate([NO_ROWS, *found]))
    missing = [row for row, is_there in zip(rows, np.isin(named, gone), strict=True) if not is_there]
    if missing and len(gone):
        raise UserError("No row was removed, because some that were named are not in the data that the next "
                        f"run would learn from: {', '.join(missing)}. `plumbline data blame ROW` looks for "
                        "one; name the others again by themselves.")
    if not len(gone):
        raise UserError("There is no such row in the data that the next run would learn from. `plumbline "
                        "data show now` counts rows by source and annotator; `plumbline data blame ROW` "
                        "looks for one row.")
    parts = [*rows, annotator and f"annotator={annotator}", source and f"source={source}"]
    name = " ".join(part for part in parts if part)
    content = hashlib.sha256(gone.tobytes()).hexdigest()
    changed = _change(home, name, [], "remove", content, lambda _: gone, reason, dry_run)
    return _tracked(home, changed, dry_run)


def revise(home: Home, name: str, read: Sequence[Row | Quarantined], gone: Hashes, reason: str,
           beside: Mapping[str, str]) -> Arrival:
    """Replace the rows in `gone` by the rows in `read`, or only take them away if `read` holds none.

    `beside` are texts to keep in the arrival's folder, by their files' names. Needs neither params.yaml nor
    sources, and waits for no lock: DVC learns of the change later.
    """
    rows = [row for row in read if not isinstance(row, Quarantined)]
    content = hashlib.sha256(gone.tobytes() + rows_digest(rows).encode()).hexdigest()
    with draft(home.preferences, shown_name(name), read) as drafted:
        now = time_of_next(readable_arrivals(home.preferences)[0])
        return arrive(home, drafted, _without_rows(drafted), now, content, gone, reason, beside).arrival


def alike(home: Home, rows: Hashes, judged: BatchIndex) -> tuple[Hashes, str | None]:
    """Return these rows, the others in which the same annotators judge the same responses, and those in which
    the annotators of `judged` have judged the same before.

    Also returns what is wrong with a source or an arrival that cannot be read now: its rows are not looked
    through.
    """
    indexes, problem = _readable(home)
    wanted: set[tuple[int, str]] = set()
    for index in indexes:
        wanted |= _judgements(index, np.flatnonzero(np.isin(index.row, rows)))
    wanted = {(item, name) for item, name in wanted if name != NOBODY} | _judgements(judged)
    return np.union1d(rows, _judging(indexes, wanted)), problem


def _without_rows(drafted: Draft) -> Action:
    """Return the action of a correction: where nothing takes the place of what goes, a run is due at once."""
    return "supersede" if drafted.batch.rows else "remove"


def _change(home: Home, source: str, read: Read, action: Action, content: str,
            removes: Callable[[Draft], Hashes], reason: str, dry_run: bool = False) -> DataChange:
    folders = home.preferences
    with draft(folders, shown_name(source), read) as drafted:
        gone = removes(drafted)
        if action == "supersede":
            action = _without_rows(drafted)
        known = readable_arrivals(folders)[0]
        now = time_of_next(known)
        effects = _effects(home, drafted, known, action)
        reasons = _reasons(lines(drafted.folder / QUARANTINE))
        if dry_run:
            arrival = Arrival(drafted.batch.digest, action, now, content, len(gone), reason, drafted.batch)
            done = Published(arrival, False, None)
        else:
            done = arrive(home, drafted, action, now, content, gone, reason)
    written = not (done.already_there or dry_run)
    ids = [f"{row:016x}" for row in gone.tolist()]
    return DataChange(done.arrival, done.already_there, written, *effects, ids, reasons,
                      _is_learned_from(home), done.not_announced, None)


def _tracked(home: Home, changed: DataChange, dry_run: bool) -> DataChange:
    """Let DVC track a change at once, unless it was a dry run. Waits for DVC's locks."""
    return changed if dry_run else replace(changed, not_tracked=track(home))


def _open(source: str, how: Reading) -> tuple[str, Callable[[], Read]]:
    """Return the digest of a source's content, and a function that reads the source."""
    parts = open_source(source, Path.cwd(), how)
    return content_digest([part.digest for part in parts], how), lambda: read_all(source, parts)


def _noting(read: Read, taken_back: list[Row]) -> Read:
    """Yield what was read, and append judgements taken back; a source with nothing else in it is usable."""
    try:
        for row in read:
            if isinstance(row, Unread):
                taken_back += row.taken_back
            yield row
    except UnusableFile:
        if not taken_back:
            raise


def _effects(home: Home, drafted: Draft, before: Sequence[Arrival],
             action: Action) -> tuple[int, int, int, int, int, dict[str, int]]:
    """Return the numbers of rows that are known, stay out, come back, are new, and are judged again, and of
    new prompts."""
    folders, index = home.preferences, drafted.index
    earlier = [arrival_index(folders, arrival) for arrival in before]
    rows, first = np.unique(index.row, return_index=True)
    known = np.isin(rows, np.concatenate([NO_ROWS, *(one.row for one in earlier)]))
    gone = removed_rows(folders, before)
    out = np.isin(rows, gone)
    new = first[~known & ~out]
    met = new[np.isin(index.item[new], np.concatenate([NO_ROWS, *(one.item for one in earlier)]))]
    again = np.setdiff1d(_judging(earlier, _judgements(index, met)) if action == "add" else NO_ROWS,
                         np.union1d(gone, rows))
    prompts = np.setdiff1d(index.prompt[new],
                           np.concatenate([NO_ROWS, *(one.prompt for one in earlier)]))
    chosen = load_params(home.root).ingest
    splits = Counter(split_of(f"{prompt:016x}", chosen.validation_fraction, chosen.heldout_fraction,
                              chosen.judge_fraction, chosen.split_salt) for prompt in prompts.tolist())
    stay_out, come_back = (0, int(out.sum())) if action == "supersede" else (int(out.sum()), 0)
    return (int(known.sum()), stay_out, come_back, len(new), len(again),
            {name: splits[name] for name in SPLITS})


def _present(home: Home) -> list[BatchIndex]:
    """Return the indexes of all arrivals and of the other sources that the next run would learn from."""
    params, known = load_params(home.root), arrivals(home.preferences)
    found = [index for source in _other_sources(params) for index in _indexes(home, params, source)]
    return [*found, *(arrival_index(home.preferences, arrival) for arrival in known)]


def _readable(home: Home) -> tuple[list[BatchIndex], str | None]:
    """Return as `_present` what can be read now, and what is wrong with the rest."""
    found: list[BatchIndex] = []
    known, damaged = readable_arrivals(home.preferences)
    problems = list(damaged.values())
    try:
        params = load_params(home.root)
        sources = _other_sources(params)
    except UserError as error:
        problems.append(str(error))
        sources = []
    for source in sources:
        try:
            found += _indexes(home, params, source)
        except UserError as error:
            problems.append(str(error))
    for arrival in known:
        try:
            found.append(arrival_index(home.preferences, arrival))
        except UserError as error:
            problems.append(str(error))
    return found, problems[0] if problems else None


def _other_sources(params: Params) -> list[str]:
    return [source for source in params.snapshot.sources if source != ADDED]


def _indexes(home: Home, params: Params, source: str) -> list[BatchIndex]:
    """Return the indexes of a source that is not ADDED."""
    folders = home.preferences

    def indexes() -> list[BatchIndex]:
        found = resolve_sources([source], Simulation.of(params), folders, ())
        return [index_of(folder / ROWS, batch.digest, folders.indexes) for batch, folder in found]

    return with_imports_made_again(folders, indexes)


def _judged_before(home: Home, index: BatchIndex) -> Hashes:
    """Return the rows in which the annotators of `index` have judged the same responses before.

    Preferences are judged before by preferences, ratings by ratings, demonstrations by demonstrations.
    """
    return _judging(_present(home), _judgements(index))


def _judgements(index: BatchIndex, places: NDArray[np.intp] | slice = slice(None)) -> set[tuple[int, str]]:
    """Return the pairs of item and annotator in the rows at these places."""
    annotators = index.annotators[index.annotator[places]].tolist()
    return set(zip(index.item[places].tolist(), annotators, strict=True))


def _judging(indexes: Iterable[BatchIndex], wanted: Set[tuple[int, str]]) -> Hashes:
    """Return the rows of all (item, annotator) pairs in `wanted`."""
    items = np.array(sorted({item for item, _ in wanted}), np.uint64)
    found = [NO_ROWS]
    for earlier in indexes:
        candidates = np.flatnonzero(np.isin(earlier.item, items))
        names = earlier.annotators[earlier.annotator[candidates]].tolist()
        same = [place for place, name in zip(candidates.tolist(), names, strict=True)
                if (int(earlier.item[place]), name) in wanted]
        found.append(earlier.row[same])
    return np.unique(np.concatenate(found))


def row_number(row: str) -> int:
    """Return the number that a row's id writes in hexadecimal. Raises UserError for what is no id."""
    if re.fullmatch("[0-9a-fA-F]{16}", row):
        return int(row, 16)
    raise UserError(f"{row!r} is not a row's id: expected 16 hexadecimal digits, as `plumbline data diff` "
                    "and `plumbline data show` print them.")


def _reasons(quarantined: Iterator[str]) -> list[str]:
    import orjson

    found: dict[tuple[str, str], list[str]] = {}
    for line in quarantined:
        row = orjson.loads(line)
        found.setdefault((row["field"], row["reason"]), []).append(f"{row['file']}:{row['line']}")
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))[:REASONS]
    return [f"{len(places)} x {'' if field == '-' else field + ': '}{reason} (first at {places[0]})"
            for (field, reason), places in ordered]


def _is_learned_from(home: Home) -> bool:
    return ADDED in load_params(home.root).snapshot.sources
