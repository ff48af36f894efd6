"""The commands about the preference data: `plumbline data add`, `supersede`, `remove`, `list`, `show`,
`diff`, `blame`, `export`.

Data is named as `now` (what the next run would learn from), a run (`latest`, its id), or the beginning of a
batch's or a snapshot's digest.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from plumbline.commands.output import (
    AsJson,
    Names,
    Reason,
    answer,
    command_group,
    entered_home,
    examples,
    print_json,
)
from plumbline.errors import UserError
from plumbline.project.home import Home

if TYPE_CHECKING:
    from plumbline.data.changes import DataChange
    from plumbline.data.row_history import LearnedModel, Versions
    from plumbline.preferences.batches.arrivals import Arrival
    from plumbline.preferences.batches.manifest import Batch
    from plumbline.preferences.reading.formats import Reading

SHORT = 16
EXAMPLE_CHARACTERS = 160
SHOWN_FIELDS = 12
SHOWN_COUNTS = 10

data_app = command_group("The preference data: what arrived, what changed, and which models learned from it.")
Source = Annotated[str, typer.Argument(metavar="FILE|DIR|hub:NAME[:CONFIG][:SPLIT]", help="What to import.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="`now`, a run, or the beginning of a digest.")]
Format = Annotated[str | None, typer.Option(
    "--format", metavar="NAME",
    help="The file's format, if its content does not tell; docs/data-formats.md lists them.")]
Columns = Annotated[Names, typer.Option(
    "--map", metavar="FIELD=COLUMN",
    help="Which column holds a field of ours, such as prompt=question; repeatable.")]
Leave = Annotated[Names, typer.Option(
    metavar="FIELD", help="A field to leave alone, though it may change what a row says; repeatable.")]
Question = Annotated[str | None, typer.Option(
    metavar="NAME",
    help="The annotation tool's question whose answers are the judgements, where several could be.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]
ReplacedBatch = Annotated[str | None, typer.Option(metavar="DIGEST", help="Replace this whole batch.")]
RowIds = Annotated[Names, typer.Option(metavar="ID", help="One row; repeatable.")]
OfAnnotator = Annotated[str | None, typer.Option(metavar="NAME", help="All rows of an annotator.")]
OfSource = Annotated[str | None, typer.Option(metavar="NAME", help="All rows of a source.")]
RowId = Annotated[str, typer.Argument(metavar="ROW", help="A row's id: 16 hexadecimal digits.")]
OutFile = Annotated[str, typer.Argument(metavar="FILE", help="Where to write.")]
Form = Annotated[str, typer.Option("--format", metavar="trl|hh|jsonl|parquet", help="The form.")]


@data_app.command(epilog=examples("plumbline data add preferences.jsonl.gz",
                                  "plumbline data add table.csv --map prompt=question --map chosen=best",
                                  "plumbline data add chats.jsonl --leave tools",
                                  "plumbline data add hub:Anthropic/hh-rlhf --dry-run"))
def add(source: Source, format_: Format = None, columns: Columns = None, leave: Leave = None,
        question: Question = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Import a file, a folder or a hub data set as an immutable batch."""
    from plumbline.data import changes

    changed = changes.add(entered_home(), source, _reading(format_, columns, leave, question), dry_run)
    _show_change(changed, as_json)


@data_app.command(epilog=examples("plumbline data supersede corrected.jsonl --reason 'labels were swapped'",
                                  "plumbline data supersede whole.jsonl --batch 3f2a91"))
def supersede(source: Source, format_: Format = None, columns: Columns = None, leave: Leave = None,
              question: Question = None, batch: ReplacedBatch = None, reason: Reason = "",
              dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Import a correction: its rows replace earlier judgements of the same responses by the same
    annotator. Rows of it that were removed come back.
    """
    from plumbline.data import changes

    home = entered_home()
    how = _reading(format_, columns, leave, question)
    changed = changes.supersede(home, source, how, reason, batch, dry_run)
    _show_change(changed, as_json, _learners(home, changed))


@data_app.command(epilog=examples("plumbline data remove --annotator finn --reason 'withdrew consent'",
                                  "plumbline data remove --row 0c5e1f8a9b7d6e42 --dry-run"))
def remove(row: RowIds = None, annotator: OfAnnotator = None, source: OfSource = None, reason: Reason = "",
           dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take rows out of every later snapshot, and list the registered models that learned from them."""
    from plumbline.data import changes
    from plumbline.feedback.collect import collect

    if bool(row) == bool(annotator or source):
        raise UserError("Say which rows to remove: --row ID, or --annotator NAME and --source NAME.")
    home = entered_home()
    if not dry_run:
        collect(home)  # a verdict that waits in the feedback store would arrive later, and stay
    changed = changes.remove(home, row or [], annotator, source, reason, dry_run)
    _show_change(changed, as_json, _learners(home, changed))


@data_app.command("list", epilog=examples("plumbline data list", "plumbline data list --json"))
def list_(as_json: AsJson = False) -> None:
    """List what arrived, oldest first."""
    from rich.markup import escape
    from rich.table import Table

    from plumbline.preferences.batches.arrivals import readable_arrivals

    found, damaged = readable_arrivals(entered_home().preferences)
    for problem in damaged.values():
        typer.echo(problem, err=True)
    if as_json:
        print_json([asdict(arrival) for arrival in found])
        return
    if not found and not damaged:
        typer.echo("Nothing has been added yet. Start with `plumbline data add FILE`.")
        return
    # Eight columns do not fit a terminal of 80: what most batches have nothing of is a line of its own.
    table = Table("batch", "when", "what", "rows", "from", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for one in found:
        rows = _kinds(one.batch.kinds, "\n") or "0"
        origin = escape("\n".join(_origin(one)))
        table.add_row(one.digest[:SHORT], _minute(one.added), one.action, rows, origin)
    Console().print(table)


@data_app.command(epilog=examples("plumbline data show now", "plumbline data show latest --json"))
def show(name: Data = "now", as_json: AsJson = False) -> None:
    """Show what some data holds: rows by kind, source and annotator, and a few of them."""
    from plumbline.data.named_versions import find_version
    from plumbline.preferences.versions.compare import describe

    home = entered_home()
    version = find_version(home, name)
    found = describe(version, home.preferences.indexes)
    if as_json:
        print_json({"data": version.name, **asdict(found)})
        return
    typer.echo(f"{version.name}: {found.rows:,} rows ({_kinds(found.by_kind)}), {found.prompts:,} prompts")
    _show_counts("by source", found.by_source)
    _show_counts("by annotator", found.by_annotator)
    _show_examples(found.examples)


@data_app.command(epilog=examples("plumbline data diff latest now", "plumbline data diff 3f2a91 77c0de "
                                                                    "--json"))
def diff(before: Data, after: Data, as_json: AsJson = False) -> None:
    """Compare two versions: rows added, removed and judged anew, by source and annotator."""
    from plumbline.data.named_versions import find_version
    from plumbline.preferences.versions.compare import compare

    home = entered_home()
    old = find_version(home, before)
    new = find_version(home, after)
    found = compare(old, new, home.preferences.indexes)
    if as_json:
        print_json({"before": old.name, "after": new.name, **asdict(found)})
        return
    typer.echo(f"From {old.name} to {new.name}: {found.unchanged:,} rows unchanged")
    judged = found.relabelled
    for change, what in ((found.added, "added"), (found.removed, "removed"), (judged, "judged anew")):
        typer.echo(f"{change.rows:,} rows {what}")
        if change.rows:
            _show_counts("by source", change.by_source)
            _show_counts("by annotator", change.by_annotator)
            _show_examples(change.examples)
    if judged.flip_rate is not None:
        typer.echo(f"flip rate: {100 * judged.flip_rate:.2f} % of the {judged.comparisons:,} comparisons "
                   "that both versions hold of the same annotator")


@data_app.command(epilog=examples("plumbline data blame 0c5e1f8a9b7d6e42"))
def blame(row: RowId, as_json: AsJson = False) -> None:
    """Say where a row came from, in which runs it was, and which models learned from it."""
    from plumbline.data.row_history import where_is

    home = entered_home()
    found = where_is(home, _versions(home), row)
    if as_json:
        print_json({"row": found.row, "batches": [asdict(arrival) for arrival in found.arrivals],
                    "removed": found.removed, "went_to": found.went_to,
                    "learners": [asdict(model) for model in found.learners], "damaged": found.damaged,
                    "not_here": found.not_here})
        return
    for arrival in found.arrivals:
        typer.echo(f"batch {arrival.digest[:SHORT]}, {arrival.action} on {_minute(arrival.added)} from "
                   f"{arrival.batch.source}")
    doubt = ", as far as can be told here" if found.damaged or found.not_here else ""
    typer.echo(f"It was removed{doubt}: no later run learns from it." if found.removed
               else f"It is in use{doubt}.")
    for run, place in found.went_to.items():
        typer.echo(f"run {run}: {place}")
    _show_learners(found.learners, "learned from it")
    for problem in found.damaged:
        typer.echo(problem, err=True)
    if found.not_here:
        typer.echo("Not on this machine are arrivals that may take it away or bring it back: "
                   f"{', '.join(found.not_here)}. `plumbline pull` brings them.", err=True)


@data_app.command(epilog=examples("plumbline data export now --format trl preferences.jsonl",
                                  "plumbline data export latest --format parquet rows.parquet"))
def export(name: Data, out: OutFile, form: Form = "jsonl", as_json: AsJson = False) -> None:
    """Write data in a form that other tools read, or in our own, which loses nothing."""
    from plumbline.data.named_versions import find_version
    from plumbline.preferences.versions.compare import rows_of
    from plumbline.preferences.versions.export import FORMS, write_export

    chosen = next((known for known in FORMS if known == form), None)
    if chosen is None:
        raise UserError(f"--format {form}: expected one of {', '.join(FORMS)}.")
    found = write_export(rows_of(find_version(entered_home(), name)), chosen, Path(out))
    left_out = [f"Left out: {count:,} rows: {reason}" for reason, count in found.left_out.items()]
    answer(as_json, {"form": found.form, "file": str(found.file), "written": found.written,
                     "left_out": dict(found.left_out)}, f"Wrote {found.written:,} rows to {out}.", *left_out)


def _reading(format_: str | None, columns: Names, leave: Names, question: str | None) -> "Reading":
    """Return how to read a source, from the options. Raises UserError for a `--map` that is not
    FIELD=COLUMN.
    """
    from plumbline.preferences.reading.formats import Reading

    named = {}
    for given in columns or []:
        name, _, column = given.partition("=")
        if not (name and column):
            raise UserError(f"--map takes FIELD=COLUMN, such as --map prompt=question; found {given!r}.")
        named[name] = column
    return Reading(format_, named, frozenset(leave or ()), question)


def _learners(home: Home, changed: "DataChange") -> "list[LearnedModel]":
    """Return the registered models that learned from the rows that a change takes away."""
    from plumbline.data.row_history import learners

    return learners(home, _versions(home), changed.gone) if changed.gone else []


def _versions(home: Home) -> "Versions":
    """Return the registered models; say on standard error what keeps MLflow from being asked."""
    from plumbline.history.history import registered_versions

    found, problem = registered_versions(home)
    if found and problem:
        typer.echo(f"The models are those that MLflow held when it was read last: {problem}", err=True)
    elif problem:
        typer.echo(f"Which models learned from the rows cannot be told: {problem}", err=True)
    return found


def _show_change(changed: "DataChange", as_json: bool, affected: "Sequence[LearnedModel]" = ()) -> None:
    """Print what a change brought in and takes away, and what it means for the next run."""
    if as_json:
        print_json({**asdict(changed), "learners": [asdict(learner) for learner in affected]})
        return
    arrival = changed.arrival
    batch, name = arrival.batch, arrival.digest[:SHORT]
    if changed.already_there:
        typer.echo(f"The same content is batch {name}, added on {arrival.added[:10]} from {batch.source}. "
                   "Nothing was added.")
        return
    made = f"Batch {name}" if changed.written else "Would make a batch"
    typer.echo(f"{made} from {batch.source}: {_kinds(batch.kinds) or 'no rows'}")
    if batch.quarantined:
        typer.echo(f"Set aside: {batch.quarantined:,}")
        for reason in changed.set_aside:
            typer.echo(f"  {reason}")
    _show_unread(batch)
    if changed.known:
        typer.echo(f"Already there: {changed.known:,} rows of earlier batches")
    if changed.removed_before:
        typer.echo(f"Stay out: {changed.removed_before:,} rows that were removed before")
    if changed.judged_again:
        typer.echo(f"Judged again: {changed.judged_again:,} earlier judgements stay beside new ones of the "
                   "same responses by the same annotators. If this is a newer export of the same project, "
                   "let it take their place: `plumbline data supersede`.")
    if changed.come_back:
        typer.echo(f"Come back: {changed.come_back:,} rows that were removed or corrected before")
    if arrival.removes:
        typer.echo(f"Takes away: {arrival.removes:,} rows")
    _show_next_run(changed)
    if changed.not_announced and changed.written:
        typer.echo(f"No event was sent: {changed.not_announced}. The next scheduled run finds the batch by "
                   "itself.")
    if changed.not_tracked:
        typer.echo(f"{changed.not_tracked}. It counts all the same; the next run tries again.")
    _show_learners(affected, "learned from what is taken away")


def _show_next_run(changed: "DataChange") -> None:
    """Print how many rows more and fewer the next run learns from."""
    prompts = ", ".join(f"{count:,} {split}" for split, count in changed.new_prompts.items())
    removes = changed.arrival.removes
    less = f", {removes:,} rows less" if removes else ""
    more = changed.new + changed.come_back
    typer.echo(f"The next run: {more:,} rows more, {sum(changed.new_prompts.values()):,} new prompts "
               f"({prompts}){less}")
    if not changed.learned_from and changed.arrival.action != "remove":
        typer.echo("But snapshot.sources in params.yaml does not name `added`: runs do not learn from added "
                   "batches.")


def _show_unread(batch: "Batch") -> None:
    """Print the fields that were not read, and the number of texts that are rendered for another model."""
    for what, fields in (("Not read", batch.unread), ("Left alone", batch.left_alone)):
        if fields:
            named = [f"{name} ({count:,})" for name, count in fields.items()][:SHOWN_FIELDS]
            more = f", and {len(fields) - SHOWN_FIELDS} more fields" if len(fields) > SHOWN_FIELDS else ""
            typer.echo(f"{what}: {', '.join(named)}{more}")
    if batch.templated:
        typer.echo(f"Chat template: the texts of {batch.templated:,} rows carry markers such as <|im_start|> "
                   "or [INST]. The model's own template is put around them, so that the markers are learnt "
                   "as plain text: give messages without them. The limit is ingest.max_templated_texts.")


def _show_learners(found: "Sequence[LearnedModel]", what: str) -> None:
    for learner in found:
        aliases = f" ({', '.join(learner.aliases)})" if learner.aliases else ""
        rows = f"cannot be told: the data of run {learner.run} is not on this machine"
        if learner.rows is not None:
            rows = f"{learner.rows:,} rows"
        typer.echo(f"model {learner.name} version {learner.version}{aliases} {what}: {rows}")


def _show_counts(title: str, counts: dict[str, int]) -> None:
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN_COUNTS])
    more = f", and {len(counts) - SHOWN_COUNTS} more" if len(counts) > SHOWN_COUNTS else ""
    typer.echo(f"  {title}: {shown}{more}")


def _show_examples(rows: Sequence[Mapping[str, object]]) -> None:
    for row in rows:
        typer.echo(f"    {json.dumps(row, ensure_ascii=False)[:EXAMPLE_CHARACTERS]}")


def _kinds(kinds: Mapping[str, int], between: str = ", ") -> str:
    return between.join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in kinds.items())


def _origin(arrival: "Arrival") -> list[str]:
    """Return where an arrival is from, and what else is to be said of it, in lines."""
    said = {"set aside": f"{arrival.batch.quarantined:,}", "takes away": f"{arrival.removes:,}",
            "why": arrival.reason}
    notes = [f"{name}: {value}" for name, value in said.items() if value not in ("0", "")]
    return [arrival.batch.source, *notes]


def _minute(when: str) -> str:
    """Return an ISO 8601 time without the seconds, such as `2026-11-21 10:46`."""
    return when[:16].replace("T", " ")
