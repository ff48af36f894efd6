"""Prepare a snapshot for learning: drop exact duplicates, split by prompt, keep near-duplicates of held-out
prompts out of training, and report on what is there.

Leaves in the prepared folder:

    demonstrations/ preferences/ prompts/    each with train, validation, heldout, judge .jsonl
    quarantine.jsonl                         rows that could not be used: file, line, field, reason
    near_heldout.jsonl                       prompts left out of training, and the held-out ones they repeat
    rows.csv                                 every row's id, the batch it came in, and where it went
    manifest.json                            the snapshot it was made from

Nothing disappears: read = accepted + duplicates + near_heldout + quarantined. Annotators who disagree all
stay in; only rows that are identical in every field, annotator and source included, count as duplicates. The
snapshot is read twice, row by row, so that it may be larger than memory.
"""

import shutil
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from plumbline.errors import UserError
from plumbline.preferences.batches.manifest import MANIFEST, Manifest, read_manifest
from plumbline.preferences.prepare.near_duplicates import PromptSurvey, prompt_text
from plumbline.preferences.prepare.writer import Parts, Repeat, SnapshotLine, Splitting
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.splits import Split, prompt_key
from plumbline.preferences.types import from_json, prompt_on


def prepare(snapshot: Path, out: Path, splitting: Splitting) -> tuple[dict[str, int], DataReport]:
    """Prepare the snapshot in the folder `snapshot` into `out`, which is emptied first; counts of rows, and
    the report.

    Nothing is kept for the second reward model where all data is simulated: the gold reward judges there.
    Raises UserError when the fractions leave nothing to train on, or a set that a later stage needs is empty.
    """
    if splitting.validation_fraction + splitting.heldout_fraction >= 1:
        raise UserError(f"ingest.validation_fraction ({splitting.validation_fraction}) and "
                        f"ingest.heldout_fraction ({splitting.heldout_fraction}) leave nothing to train on: "
                        "their sum must be below 1.")
    manifest = read_manifest(snapshot)
    if manifest.simulated:
        splitting = replace(splitting, judge_fraction=0.0)
    threshold = splitting.near_duplicate
    prompts = None if threshold is None else _Prompts(snapshot, manifest, splitting, threshold)
    shutil.rmtree(out, ignore_errors=True)
    try:
        with Parts(out, splitting, prompts.repeats if prompts else {}) as parts:
            for line in _rows(snapshot, manifest, prompts.keys() if prompts else None):
                parts.add(line)
            parts.finish()
        _require(parts, splitting)
    except UserError:
        shutil.rmtree(out)  # half of a set must not look like a whole one
        raise
    shutil.copyfile(snapshot / MANIFEST, out / MANIFEST)
    quarantined = _gather_quarantine(snapshot, manifest, out)
    counts = {"rows_read": sum(batch.rows + batch.quarantined for batch in manifest.batches), **parts.counts,
              "quarantined": len(quarantined), "removed": sum(batch.removed for batch in manifest.batches),
              "near_duplicate_prompts": prompts.near_duplicates if prompts else 0}
    report = parts.reporter.report(manifest.digest, counts, parts.sizes, quarantined, manifest.batches)
    counts["contradictions"] = report["agreement"]["contradictions"]
    return counts | {f"{part}_{split}": size for part, sizes in parts.sizes.items()
                     for split, size in sizes.items()}, report


def _rows(snapshot: Path, manifest: Manifest, keys: Iterator[str] | None) -> Iterator[SnapshotLine]:
    """Yield every row of the snapshot; `keys` are the keys of their prompts, if they are known already."""
    for batch in manifest.batches:
        with (snapshot / f"{batch.digest}.jsonl").open("rb") as texts:
            for text in texts:
                row = from_json(orjson.loads(text))
                key = prompt_key(row.prompt) if keys is None else next(keys)
                yield SnapshotLine(row, text, key, batch.whole or batch.digest)


class _Prompts:
    """The prompts of a snapshot, numbered from 0 in the order in which they first appear."""

    def __init__(self, snapshot: Path, manifest: Manifest, splitting: Splitting, threshold: float) -> None:
        self._files = [snapshot / f"{batch.digest}.jsonl" for batch in manifest.batches]
        self._of_row = array("q")  # the number of each row's prompt
        # Of each prompt's first row: the number of its file, and the position there.
        self._places = array("q")
        survey, numbers = PromptSurvey(threshold), dict[str, int]()
        for file, path in enumerate(self._files):
            position = 0
            with path.open("rb") as lines:
                for line in lines:
                    prompt = prompt_on(line)
                    key = prompt_key(prompt)
                    if key not in numbers:
                        numbers[key] = len(numbers)
                        self._places.extend((file, position))
                        survey.add(prompt_text(prompt), splitting.split(key) == "heldout")
                    self._of_row.append(numbers[key])
                    position += len(line)
        self._keys = list(numbers)
        self.near_duplicates = survey.near_duplicates()
        """How many prompts nearly repeat any other."""
        self.repeats = {self._keys[number]: Repeat(self._text(found.of), found.similarity)
                        for number, found in survey.repeats(self._text).items()}
        """The prompts, by their keys, that nearly repeat a held-out one."""

    def keys(self) -> Iterator[str]:
        """Yield the key of each row's prompt, in the order of the rows."""
        return map(self._keys.__getitem__, self._of_row)

    def _text(self, number: int) -> str:
        file, position = self._places[2 * number], self._places[2 * number + 1]
        with self._files[file].open("rb") as lines:
            lines.seek(position)
            return prompt_text(prompt_on(lines.readline()))


def _require(parts: Parts, splitting: Splitting) -> None:
    kinds = parts.kinds
    found = (f"the snapshot holds {kinds['demonstration']} demonstrations, {kinds['comparison']} "
             f"comparisons, {kinds['ranking']} rankings and {kinds['rating']} ratings")
    if not parts.sizes["demonstrations"]["train"]:
        choice = ""
        if not splitting.chosen_as_demonstrations:
            choice = ", or set ingest.chosen_as_demonstrations=true to imitate the chosen responses"
        raise UserError(f"There are no demonstrations to train on: {found}. Add a source of demonstrations "
                        f"to snapshot.sources{choice}.")
    uses: dict[Split, str] = {"train": "to train the reward model on",
                              "heldout": "to examine the reward model on"}
    for split, use in uses.items():
        if not parts.sizes["preferences"][split]:
            raise UserError(f"There are no preferences {use}: {found}, and none of their prompts fell into "
                            f"the split `{split}`. Add a source of preferences to snapshot.sources, or "
                            f"change ingest.heldout_fraction ({splitting.heldout_fraction}).")


def _gather_quarantine(snapshot: Path, manifest: Manifest, out: Path) -> list[dict[str, object]]:
    """Put the quarantined rows of all batches into one file."""
    found = []
    with (out / "quarantine.jsonl").open("wb") as gathered:
        for batch in manifest.batches:
            if batch.quarantined:
                text = (snapshot / f"{batch.digest}.quarantine.jsonl").read_bytes()
                gathered.write(text)
                found += [orjson.loads(line) for line in text.splitlines()]
    return found
