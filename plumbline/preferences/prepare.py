"""Prepare a snapshot for learning: drop exact duplicates, split by prompt, and report on what is there.

Leaves in the prepared folder:

    demonstrations/ preferences/ prompts/    each with train.jsonl, validation.jsonl, heldout.jsonl
    quarantine.jsonl                         rows that could not be used: file, line, field, reason
    report.json, report.md                   what the data is like
    manifest.json                            the snapshot it was made from

Nothing disappears: read = accepted + duplicates + quarantined. Annotators who disagree all stay in; only rows that are
identical in every field, annotator and source included, count as duplicates.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences import data_report
from plumbline.preferences.batches import jsonl
from plumbline.preferences.snapshot import Manifest, read_manifest
from plumbline.preferences.splits import SPLITS, Split, prompt_key, split_of
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Preference,
    Prompt,
    Ranking,
    Row,
    from_json,
    prompt_json,
    to_json,
)

Lines = dict[Split, list[str]]


@dataclass(frozen=True)
class Splitting:
    """How prompts are split, and whether chosen responses are imitated too."""

    validation_fraction: float
    heldout_fraction: float
    chosen_as_demonstrations: bool


@dataclass
class _Prepared:
    """Everything that the prepared folder will hold, row by row as it is written."""

    demonstrations: Lines = field(default_factory=lambda: {split: [] for split in SPLITS})
    preferences: Lines = field(default_factory=lambda: {split: [] for split in SPLITS})
    prompts: Lines = field(default_factory=lambda: {split: [] for split in SPLITS})
    rows: list[tuple[Row, str]] = field(default_factory=list)  # each accepted row with its prompt's key
    duplicates: int = 0

    def sizes(self) -> dict[str, dict[str, int]]:
        """Rows of each part by split."""
        parts = {"demonstrations": self.demonstrations, "preferences": self.preferences, "prompts": self.prompts}
        return {name: {split: len(lines) for split, lines in part.items()} for name, part in parts.items()}


def prepare(snapshot: Path, out: Path, splitting: Splitting) -> dict[str, int]:
    """Prepare the snapshot in the folder `snapshot` into `out`, which is emptied first; returns counts of rows.

    Raises UserError when the fractions leave nothing to train on, or a set that a later stage needs is empty.
    """
    if splitting.validation_fraction + splitting.heldout_fraction >= 1:
        raise UserError(f"ingest.validation_fraction ({splitting.validation_fraction}) and ingest.heldout_fraction "
                        f"({splitting.heldout_fraction}) leave nothing to train on: their sum must be below 1.")
    manifest = read_manifest(snapshot)
    prepared = _sort(snapshot, manifest, splitting)
    _require(prepared, splitting)
    quarantined = [line for batch in manifest.batches if batch.quarantined
                   for line in _lines(snapshot / f"{batch.digest}.quarantine.jsonl")]
    counts = _counts(manifest, prepared)
    report = data_report.describe(manifest.digest, counts, prepared.sizes(), prepared.rows,
                                  [json.loads(line) for line in quarantined])
    counts["contradictions"] = report["agreement"]["contradictions"]
    _write(snapshot, out, prepared, quarantined, report)
    return counts | {f"{part}_{split}": size for part, sizes in prepared.sizes().items()
                     for split, size in sizes.items()}


def _sort(snapshot: Path, manifest: Manifest, splitting: Splitting) -> _Prepared:
    """Put each row into its place; a batch's lines are canonical, so equal rows are equal lines."""
    prepared, seen, prompts = _Prepared(), set[str](), set[str]()
    keys: dict[Prompt, str] = {}
    for batch in manifest.batches:
        for line in _lines(snapshot / f"{batch.digest}.jsonl"):
            if line in seen:
                prepared.duplicates += 1
                continue
            seen.add(line)
            row = from_json(json.loads(line))
            if (key := keys.get(row.prompt)) is None:
                key = keys[row.prompt] = prompt_key(row.prompt)
            split = split_of(key, splitting.validation_fraction, splitting.heldout_fraction)
            prepared.rows.append((row, key))
            part = prepared.demonstrations if isinstance(row, Demonstration) else prepared.preferences
            part[split].append(line)
            if key not in prompts:
                prompts.add(key)
                prepared.prompts[split].append(jsonl([{"prompt": prompt_json(row.prompt)}]))
    if splitting.chosen_as_demonstrations:
        _imitate_chosen(prepared, splitting)
    return prepared


def _imitate_chosen(prepared: _Prepared, splitting: Splitting) -> None:
    """Add every response that was preferred to another and to which none was preferred, once a prompt."""
    known = {(key, row.response) for row, key in prepared.rows if isinstance(row, Demonstration)}
    for row, key in prepared.rows:
        if isinstance(row, Demonstration) or (best := _best(row)) is None or (key, best) in known:
            continue
        known.add((key, best))
        split = split_of(key, splitting.validation_fraction, splitting.heldout_fraction)
        prepared.demonstrations[split].append(jsonl([to_json(Demonstration(row.prompt, best, row.origin))]))


def _best(preference: Preference) -> str | None:
    """The best response; None where nobody preferred any, because a tie of two bad responses teaches nothing."""
    match preference:
        case Comparison():
            return None if preference.label == "tie" else preference.chosen
        case Ranking():
            if min(preference.ranks) == max(preference.ranks):
                return None
            return preference.responses[preference.ranks.index(min(preference.ranks))]


def _require(prepared: _Prepared, splitting: Splitting) -> None:
    kinds = [type(row).__name__ for row, _ in prepared.rows]
    found = (f"the snapshot holds {kinds.count('Demonstration')} demonstrations, {kinds.count('Comparison')} "
             f"comparisons and {kinds.count('Ranking')} rankings")
    if not prepared.demonstrations["train"]:
        choice = "" if splitting.chosen_as_demonstrations else \
            ", or set ingest.chosen_as_demonstrations=true to imitate the chosen responses"
        raise UserError(f"There are no demonstrations to train on: {found}. Add a source of demonstrations to "
                        f"snapshot.sources{choice}.")
    uses: dict[Split, str] = {"train": "to train the reward model on", "heldout": "to examine the reward model on"}
    for split, use in uses.items():
        if not prepared.preferences[split]:
            raise UserError(f"There are no preferences {use}: {found}, and none of their prompts fell into the split "
                            f"`{split}`. Add a source of preferences to snapshot.sources, or change "
                            f"ingest.heldout_fraction ({splitting.heldout_fraction}).")


def _counts(manifest: Manifest, prepared: _Prepared) -> dict[str, int]:
    quarantined = sum(batch.quarantined for batch in manifest.batches)
    return {"rows_read": sum(batch.rows for batch in manifest.batches) + quarantined,
            "rows_accepted": len(prepared.rows), "duplicates": prepared.duplicates, "quarantined": quarantined}


def _write(
    snapshot: Path, out: Path, prepared: _Prepared, quarantined: list[str], report: data_report.Report
) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for name, part in (("demonstrations", prepared.demonstrations), ("preferences", prepared.preferences),
                       ("prompts", prepared.prompts)):
        (out / name).mkdir(parents=True)
        for split, lines in part.items():
            (out / name / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    (out / "quarantine.jsonl").write_text("".join(quarantined), encoding="utf-8", newline="\n")
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(data_report.markdown(report), encoding="utf-8")
    shutil.copyfile(snapshot / "manifest.json", out / "manifest.json")


def _lines(file: Path) -> Iterable[str]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        yield from lines
