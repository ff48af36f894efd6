"""Prepare a snapshot for learning: drop exact duplicates, split by prompt, keep near-duplicates of held-out
prompts out of training, and report on what is there.

Leaves in the prepared folder:

    demonstrations/ preferences/ prompts/    each with train, validation, heldout, judge .jsonl
    quarantine.jsonl                         rows that could not be used: file, line, field, reason
    near_heldout.jsonl                       prompts left out of training, and the held-out ones they repeat
    rows.csv                                 every row's id, the batch it came in, and where it went
    manifest.json                            the snapshot it was made from

Nothing disappears: read = accepted + duplicates + near_heldout + quarantined. Annotators who disagree all
stay in; only rows that are identical in every field, annotator and source included, count as duplicates.

The snapshot is read twice, range by range, by as many processes as there are cores: survey.py finds what a
row's place depends on, writer.py writes a range, gather.py puts the ranges one after the other. So every file
has the snapshot's order, and memory holds a few bytes a row: the rest is in a folder that goes at the end.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson

from plumbline.errors import UserError
from plumbline.preferences.batches.batch import QUARANTINE
from plumbline.preferences.batches.manifest import MANIFEST, Manifest, read_manifest
from plumbline.preferences.jsonl import lines
from plumbline.preferences.prepare.gather import Gathered
from plumbline.preferences.prepare.ranges import Range, batch_files, ranges
from plumbline.preferences.prepare.survey import Survey
from plumbline.preferences.prepare.writer import NEAR_HELDOUT, RangeDecisions, Splitting, write_range
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.splits import Split
from plumbline.workers import Workers, cores

WORK = ".work"
RANGES_A_WORKER = 4
"""Less work than this takes longer than starting a process."""


def prepare(snapshot: Path, out: Path, splitting: Splitting,
            processes: int | None = None) -> tuple[dict[str, int], DataReport]:
    """Prepare the snapshot in the folder `snapshot` into `out`, which is emptied first; counts of rows, and
    the report.

    So many processes share the work, by default as many as there are cores; what is left is the same.

    Nothing is kept for the second reward model where all data is simulated: the gold reward judges there.
    Raises UserError when the fractions leave nothing to train on, or a set that a later stage needs is empty.
    """
    if splitting.validation_fraction + splitting.heldout_fraction >= 1:
        raise UserError(f"ingest.validation_fraction ({splitting.validation_fraction}) and "
                        f"ingest.heldout_fraction ({splitting.heldout_fraction}) leave nothing to train on: "
                        "their sum must be below 1.")
    manifest = read_manifest(snapshot)
    if not any(batch.rows for batch in manifest.batches):
        raise _no_rows(manifest)
    if manifest.simulated:
        splitting = replace(splitting, judge_fraction=0.0)
    shutil.rmtree(out, ignore_errors=True)
    try:
        parts = ranges(snapshot, manifest)
        with Workers(min(processes or cores(), 1 + len(parts) // RANGES_A_WORKER)) as workers:
            return _prepare(snapshot, manifest, parts, out, splitting, workers)
    except UserError:
        shutil.rmtree(out)  # half of a set must not look like a whole one
        raise


def _prepare(snapshot: Path, manifest: Manifest, parts: Sequence[Range], out: Path, splitting: Splitting,
             workers: Workers) -> tuple[dict[str, int], DataReport]:
    files, work = batch_files(snapshot, manifest), out / WORK
    most = sum(batch.rows for batch in manifest.batches)
    survey = Survey(files, parts, splitting, most, work / "survey", workers)
    tasks = ((RangeDecisions(part, *survey.decided(start, end)), splitting, work / f"range-{number:06d}")
             for number, (part, (start, end)) in enumerate(zip(parts, pairwise(survey.starts), strict=True)))
    with Gathered(out, files, most, work, splitting, workers) as gathered:
        for written in workers.map(write_range, tasks):
            gathered.take(written)
        gathered.finish()
    quarantined = _gather_quarantine(snapshot, manifest, out)
    _require(gathered, splitting, most + quarantined)
    shutil.copyfile(snapshot / MANIFEST, out / MANIFEST)
    counts = {"rows_read": most + quarantined, **gathered.counts,
              "quarantined": quarantined, "removed": manifest.removed,
              "near_duplicate_prompts": survey.near_duplicates}
    report = gathered.report.report(manifest.digest, counts, gathered.sizes,
                                    map(orjson.loads, lines(out / QUARANTINE)), manifest.batches, workers)
    shutil.rmtree(work)
    counts["contradictions"] = report["agreement"]["contradictions"]
    return counts | {f"{part}_{split}": size for part, sizes in gathered.sizes.items()
                     for split, size in sizes.items()}, report


def _no_rows(manifest: Manifest) -> UserError:
    quarantined = sum(batch.quarantined for batch in manifest.batches)
    return UserError("The snapshot is empty: of what its sources hold, "
                     f"{manifest.removed:,} rows were removed, {quarantined:,} are in quarantine, and none is"
                     " left to learn from. Add preferences and demonstrations with `plumbline data add`, or "
                     "name sources that hold some in snapshot.sources.")


def _require(parts: Gathered, splitting: Splitting, rows_read: int) -> None:
    kinds, near = parts.kinds, parts.near_kinds
    found = (f"the snapshot holds {kinds['demonstration']} demonstrations, {kinds['comparison']} "
             f"comparisons, {kinds['ranking']} rankings and {kinds['rating']} ratings")
    near_preferences = near["comparison"] + near["ranking"] + near["rating"]
    if not parts.sizes["demonstrations"]["train"]:
        if near["demonstration"] or (splitting.chosen_as_demonstrations and near_preferences):
            raise _all_near("demonstrations to train on", parts, splitting, rows_read)
        choice = ""
        if not splitting.chosen_as_demonstrations:
            choice = ", or set ingest.chosen_as_demonstrations=true to imitate the chosen responses"
        raise UserError(f"There are no demonstrations to train on: {found}. Add a source of demonstrations "
                        f"to snapshot.sources{choice}.")
    if not parts.sizes["preferences"]["train"] and near_preferences:
        raise _all_near("preferences to train the reward model on", parts, splitting, rows_read)
    uses: dict[Split, str] = {"train": "to train the reward model on",
                              "heldout": "to examine the reward model on"}
    for split, use in uses.items():
        if not parts.sizes["preferences"][split]:
            raise UserError(f"There are no preferences {use}: {found}, and none of their prompts fell into "
                            f"the split `{split}`. Add a source of preferences to snapshot.sources, or "
                            f"change ingest.heldout_fraction ({splitting.heldout_fraction}).")


def _all_near(what: str, parts: Gathered, splitting: Splitting, rows_read: int) -> UserError:
    return UserError(f"There are no {what}: of the {rows_read:,} rows read, "
                     f"{parts.counts[NEAR_HELDOUT]:,} were left out because their prompts nearly repeat a "
                     "held-out one. If these prompts ask for different things, raise ingest.near_duplicate "
                     f"({splitting.near_duplicate}), or set it to null to compare none; if not, add sources "
                     "with other prompts to snapshot.sources.")


def _gather_quarantine(snapshot: Path, manifest: Manifest, out: Path) -> int:
    """Put the quarantined rows of all batches into one file; return how many there are."""
    with (out / QUARANTINE).open("wb") as gathered:
        for batch in manifest.batches:
            if batch.quarantined:
                gathered.write((snapshot / f"{batch.digest}.quarantine.jsonl").read_bytes())
    return sum(batch.quarantined for batch in manifest.batches)
