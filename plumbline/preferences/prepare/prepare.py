"""Prepare a snapshot for learning: drop exact duplicates, split by prompt, keep near-duplicates of held-out
prompts out of training, and report on what is there.

Leaves in the prepared folder:

    demonstrations/ preferences/ prompts/    each with train.jsonl, validation.jsonl, heldout.jsonl
    quarantine.jsonl                         rows that could not be used: file, line, field, reason
    near_heldout.jsonl                       prompts left out of training, each with the held-out one that it repeats
    rows.csv                                 every row's id, the batch it came in, and where it went
    manifest.json                            the snapshot it was made from

Nothing disappears: read = accepted + duplicates + near_heldout + quarantined. Annotators who disagree all
stay in; only rows that are identical in every field, annotator and source included, count as duplicates. The
snapshot is read twice, row by row, so that it may be larger than memory.
"""

import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path

import orjson

from plumbline.errors import UserError
from plumbline.preferences.batches.manifest import MANIFEST, Manifest, read_manifest
from plumbline.preferences.prepare.near_duplicates import PromptSurvey, prompt_text
from plumbline.preferences.prepare.writer import Parts, Repeat, SnapshotLine, Splitting
from plumbline.preferences.report.schema import DataReport
from plumbline.preferences.splits import Split, prompt_key
from plumbline.preferences.types import from_json


def prepare(snapshot: Path, out: Path, splitting: Splitting) -> tuple[dict[str, int], DataReport]:
    """Prepare the snapshot in the folder `snapshot` into `out`, which is emptied first; counts of rows, and
    the report.

    Raises UserError when the fractions leave nothing to train on, or a set that a later stage needs is empty.
    """
    if splitting.validation_fraction + splitting.heldout_fraction >= 1:
        raise UserError(f"ingest.validation_fraction ({splitting.validation_fraction}) and "
                        f"ingest.heldout_fraction ({splitting.heldout_fraction}) leave nothing to train on: "
                        "their sum must be below 1.")
    manifest = read_manifest(snapshot)
    repeats, near_duplicates = _survey(snapshot, manifest, splitting)
    shutil.rmtree(out, ignore_errors=True)
    try:
        with Parts(out, splitting, repeats) as parts:
            for line in _rows(snapshot, manifest):
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
              "near_duplicate_prompts": near_duplicates}
    report = parts.reporter.report(manifest.digest, counts, parts.sizes, quarantined, manifest.batches)
    counts["contradictions"] = report["agreement"]["contradictions"]
    return counts | {f"{part}_{split}": size for part, sizes in parts.sizes.items()
                     for split, size in sizes.items()}, report


def _rows(snapshot: Path, manifest: Manifest) -> Iterator[SnapshotLine]:
    for batch in manifest.batches:
        with (snapshot / f"{batch.digest}.jsonl").open("rb") as texts:
            for text in texts:
                row = from_json(orjson.loads(text))
                yield SnapshotLine(row, text, prompt_key(row.prompt), batch.whole or batch.digest)


def _survey(snapshot: Path, manifest: Manifest, splitting: Splitting) -> tuple[dict[str, Repeat], int]:
    """The prompts, by key, that nearly repeat a held-out one; and how many prompts nearly repeat any
    other."""
    if splitting.near_duplicate is None:
        return {}, 0
    survey = PromptSurvey(splitting.near_duplicate)
    numbers: dict[str, int] = {}
    places = array("q")  # where the prompt stands first: number of the batch and position in its file
    for number, batch in enumerate(manifest.batches):
        position = 0
        with (snapshot / f"{batch.digest}.jsonl").open("rb") as texts:
            for text in texts:
                prompt = from_json(orjson.loads(text)).prompt
                key = prompt_key(prompt)
                if key not in numbers:
                    numbers[key] = len(numbers)
                    places.extend((number, position))
                    survey.add(prompt_text(prompt), splitting.split(key) == "heldout")
                position += len(text)

    def text_of(prompt: int) -> str:
        batch, position = manifest.batches[places[2 * prompt]], places[2 * prompt + 1]
        with (snapshot / f"{batch.digest}.jsonl").open("rb") as texts:
            texts.seek(position)
            return prompt_text(from_json(orjson.loads(texts.readline())).prompt)

    found = survey.repeats(text_of)
    repeats = {key: Repeat(text_of(found[number].of), found[number].similarity)
               for key, number in numbers.items() if number in found}
    return repeats, survey.near_duplicates()


def _require(parts: Parts, splitting: Splitting) -> None:
    kinds = parts.kinds
    found = (f"the snapshot holds {kinds['demonstration']} demonstrations, {kinds['comparison']} "
             f"comparisons, {kinds['ranking']} rankings and {kinds['rating']} ratings")
    if not parts.sizes["demonstrations"]["train"]:
        choice = "" if splitting.chosen_as_demonstrations else \
            ", or set ingest.chosen_as_demonstrations=true to imitate the chosen responses"
        raise UserError(f"There are no demonstrations to train on: {found}. Add a source of demonstrations "
                        f"to snapshot.sources{choice}.")
    uses: dict[Split, str] = {"train": "to train the reward model on", "heldout": "to examine the reward "
                                                                                  "model on"}
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
