"""The command line of the preference data: `plumbline data add`, `list`, `show`, `diff`, `blame`, `supersede`,
`remove`, `export`.

Data is named as `now` (what the next run would learn from), a run (`latest`, its id), or the beginning of a batch's or
a snapshot's digest.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plumbline.data.changes import Changed
    from plumbline.data.lookup import Learner
    from plumbline.preferences.batches.manifest import Batch
    from plumbline.preferences.reading.formats import Reading
    from plumbline.preferences.versions.compare import Change
    from plumbline.project.home import Home

SHORT = 16
EXAMPLE_CHARACTERS = 160
SHOWN_FIELDS = 12

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown",
                       help="The preference data: what arrived, what changed, and which models learned from it.")
Names = list[str] | None
Source = Annotated[str, typer.Argument(metavar="FILE|DIR|hub:NAME[:CONFIG][:SPLIT]", help="What to import.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="`now`, a run, or the beginning of a digest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]
Format = Annotated[str | None, typer.Option("--format", metavar="NAME", help="The file's format, if its content does "
                                            "not tell; docs/data-formats.md lists them.")]
Columns = Annotated[Names, typer.Option("--map", metavar="FIELD=COLUMN", help="Which column holds a field of ours, "
                                        "such as prompt=question; repeatable.")]
Leave = Annotated[Names, typer.Option("--leave", metavar="FIELD", help="A field to leave alone, though it may change "
                                      "what a row says; repeatable.")]
Question = Annotated[str | None, typer.Option("--question", metavar="NAME", help="The annotation tool's question whose "
                                              "answers are the judgements, where several could be.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the history.")]


@data_app.command(epilog="Examples:\n\n    plumbline data add preferences.jsonl.gz\n\n"
                         "    plumbline data add table.csv --map prompt=question --map chosen=best\n\n"
                         "    plumbline data add chats.jsonl --leave tools\n\n"
                         "    plumbline data add hub:Anthropic/hh-rlhf --dry-run")
def add(source: Source, format_: Format = None, columns: Columns = None, leave: Leave = None,
        question: Question = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Import a file, a folder or a hub data set as an immutable batch."""
    from plumbline.data import changes as data_changes

    _show_change(data_changes.add(_home(), source, _reading(format_, columns, leave, question), dry_run), as_json)


@data_app.command(epilog="Examples:\n\n    plumbline data supersede corrected.jsonl --reason 'labels were swapped'\n\n"
                         "    plumbline data supersede whole.jsonl --batch 3f2a91")
def supersede(source: Source, format_: Format = None, columns: Columns = None, leave: Leave = None,
              question: Question = None,
              batch: Annotated[str | None, typer.Option(metavar="DIGEST", help="Replace this whole batch.")] = None,
              reason: Why = "", dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Import a correction: its rows replace earlier judgements of the same responses by the same annotator."""
    from plumbline.data import changes as data_changes

    home = _home()
    how = _reading(format_, columns, leave, question)
    changed = data_changes.supersede(home, source, how, reason, batch, dry_run)
    _show_change(changed, as_json, _learners(home, changed))


@data_app.command(epilog="Examples:\n\n    plumbline data remove --annotator finn --reason 'withdrew consent'\n\n"
                         "    plumbline data remove --row 0c5e1f8a9b7d6e42 --dry-run")
def remove(row: Annotated[Names, typer.Option(metavar="ID", help="One row; repeatable.")] = None,
           annotator: Annotated[str | None, typer.Option(metavar="NAME", help="All rows of an annotator.")] = None,
           source: Annotated[str | None, typer.Option(metavar="NAME", help="All rows of a source.")] = None,
           reason: Why = "", dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take rows out of every later snapshot, and list the registered models that learned from them."""
    from plumbline.data import changes as data_changes
    from plumbline.errors import UserError

    if bool(row) == bool(annotator or source):
        raise UserError("Say which rows to remove: --row ID, or --annotator NAME and --source NAME.")
    home = _home()
    changed = data_changes.remove(home, row or [], annotator, source, reason, dry_run)
    _show_change(changed, as_json, _learners(home, changed))


@data_app.command("list", epilog="Examples:\n\n    plumbline data list\n\n    plumbline data list --json")
def list_(as_json: AsJson = False) -> None:
    """List what arrived, oldest first."""
    from rich.table import Table

    from plumbline.preferences.batches.arrivals import readable_arrivals

    found, damaged = readable_arrivals(_home().preferences)
    for problem in damaged.values():
        typer.echo(problem, err=True)
    if as_json:
        _print_json([asdict(arrival) for arrival in found])
        return
    if not found and not damaged:
        typer.echo("Nothing has been added yet. Start with `plumbline data add FILE`.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("batch", "when", "what", "from", "rows", "set aside", "takes away", "why"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(one.digest[:SHORT], one.added[:16].replace("T", " "), one.action, one.batch.source,
                      _kinds(one.batch.kinds) or "0", str(one.batch.quarantined), str(one.removes), one.reason)
    Console().print(table)


@data_app.command(epilog="Examples:\n\n    plumbline data show now\n\n    plumbline data show latest --json")
def show(name: Data = "now", as_json: AsJson = False) -> None:
    """Show what some data holds: rows by kind, source and annotator, and a few of them."""
    from plumbline.data.lookup import find_version
    from plumbline.preferences.versions.compare import describe

    home = _home()
    version = find_version(home, name)
    found = describe(version, home.preferences.indexes)
    if as_json:
        _print_json({"data": version.name, **asdict(found)})
        return
    typer.echo(f"{version.name}: {found.rows:,} rows ({_kinds(found.by_kind)}), {found.prompts:,} prompts")
    _show_counts("by source", found.by_source)
    _show_counts("by annotator", found.by_annotator)
    _show_examples(found.examples)


@data_app.command(epilog="Examples:\n\n    plumbline data diff latest now\n\n"
                         "    plumbline data diff 3f2a91 77c0de --json")
def diff(before: Data, after: Data, as_json: AsJson = False) -> None:
    """Compare two versions: rows added, removed and judged anew, by source and annotator."""
    from plumbline.data.lookup import find_version
    from plumbline.preferences.versions.compare import compare

    home = _home()
    old, new = find_version(home, before), find_version(home, after)
    found = compare(old, new, home.preferences.indexes)
    if as_json:
        _print_json({"before": old.name, "after": new.name, **asdict(found)})
        return
    typer.echo(f"From {old.name} to {new.name}: {found.unchanged:,} rows unchanged")
    changes: list[tuple[str, Change]] = [("added", found.added), ("removed", found.removed),
                                         ("judged anew", found.relabelled)]
    for what, change in changes:
        typer.echo(f"{change.rows:,} rows {what}")
        if change.rows:
            _show_counts("by source", change.by_source)
            _show_counts("by annotator", change.by_annotator)
            _show_examples(change.examples)
    if found.relabelled.flip_rate is not None:
        typer.echo(f"flip rate: {100 * found.relabelled.flip_rate:.2f} % of the {found.relabelled.comparisons:,} "
                   "comparisons that both versions hold of the same annotator")


@data_app.command(epilog="Examples:\n\n    plumbline data blame 0c5e1f8a9b7d6e42")
def blame(row: Annotated[str, typer.Argument(metavar="ROW", help="A row's id: 16 hexadecimal digits.")],
          as_json: AsJson = False) -> None:
    """Say where a row came from, in which runs it was, and which models learned from it."""
    from plumbline.data.lookup import where_is

    found = where_is(_home(), row.lower())
    if as_json:
        _print_json(asdict(found))
        return
    for arrival in found.batches:
        typer.echo(f"batch {arrival.digest[:SHORT]}, {arrival.action} on {arrival.added[:16].replace('T', ' ')} from "
                   f"{arrival.batch.source}")
    typer.echo("It was removed: no later run learns from it." if found.removed else "It is in use.")
    for run, place in found.went_to.items():
        typer.echo(f"run {run}: {place}")
    _show_learners(found.learners, "learned from it")
    for problem in found.damaged:
        typer.echo(problem, err=True)


@data_app.command(epilog="Examples:\n\n    plumbline data export now --format trl preferences.jsonl\n\n"
                         "    plumbline data export latest --format parquet rows.parquet")
def export(name: Data, out: Annotated[str, typer.Argument(metavar="FILE", help="Where to write.")],
           form: Annotated[str, typer.Option("--format", metavar="trl|hh|jsonl|parquet", help="The form.")] = "jsonl",
           as_json: AsJson = False) -> None:
    """Write data in a form that other tools read, or in our own, which loses nothing."""
    from pathlib import Path

    from plumbline.data.lookup import find_version
    from plumbline.errors import UserError
    from plumbline.preferences.versions.compare import rows_of
    from plumbline.preferences.versions.export import FORMS, write_export

    chosen = next((known for known in FORMS if known == form), None)
    if chosen is None:
        raise UserError(f"--format {form}: expected one of {', '.join(FORMS)}.")
    found = write_export(rows_of(find_version(_home(), name)), chosen, Path(out))
    if as_json:
        _print_json({"form": found.form, "file": str(found.file), "written": found.written,
                     "left_out": dict(found.left_out)})
        return
    typer.echo(f"Wrote {found.written:,} rows to {out}.")
    for reason, count in found.left_out.items():
        typer.echo(f"Left out: {count:,} rows: {reason}")


def _home() -> "Home":
    from plumbline.project.home import enter, find_home

    home = find_home()
    enter(home)
    return home


def _reading(format_: str | None, columns: Names, leave: Names, question: str | None) -> "Reading":
    from plumbline.errors import UserError
    from plumbline.preferences.reading.formats import Reading

    pairs = [column.partition("=") for column in columns or []]
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise UserError("--map takes FIELD=COLUMN, such as --map prompt=question; found "
                            f"{name + equals + column!r}.")
    return Reading(format_, {name: column for name, _, column in pairs}, frozenset(leave or ()), question)


def _learners(home: "Home", changed: "Changed") -> "list[Learner]":
    from plumbline.data.lookup import learners
    from plumbline.errors import UserError

    try:
        return learners(home, changed.gone) if changed.gone else []
    except UserError as error:  # the change is made, whoever learned from what it takes away
        typer.echo(f"Which models learned from the rows cannot be told: {error}", err=True)
        return []


def _show_change(changed: "Changed", as_json: bool, affected: "Sequence[Learner]" = ()) -> None:
    if as_json:
        _print_json({**asdict(changed), "learners": [asdict(learner) for learner in affected]})
        return
    batch, name = changed.arrival.batch, changed.arrival.digest[:SHORT]
    if changed.already_there:
        typer.echo(f"The same content is batch {name}, added on {changed.arrival.added[:10]} from {batch.source}. "
                   "Nothing was added.")
        return
    typer.echo(f"{'Batch ' + name if changed.written else 'Would make a batch'} from {batch.source}: "
               f"{_kinds(batch.kinds) or 'no rows'}")
    if batch.quarantined:
        typer.echo(f"Set aside: {batch.quarantined:,}")
        for reason in changed.set_aside:
            typer.echo(f"  {reason}")
    _show_unread(batch)
    if changed.known:
        typer.echo(f"Already there: {changed.known:,} rows of earlier batches")
    if changed.removed_before:
        typer.echo(f"Stay out: {changed.removed_before:,} rows that were removed before")
    if changed.arrival.removes:
        typer.echo(f"Takes away: {changed.arrival.removes:,} rows")
    prompts = ", ".join(f"{count:,} {split}" for split, count in changed.new_prompts.items())
    typer.echo(f"The next run: {changed.new:,} rows more, {sum(changed.new_prompts.values()):,} new prompts ({prompts})"
               + (f", {changed.arrival.removes:,} rows less" if changed.arrival.removes else ""))
    if not changed.learned_from and changed.arrival.action != "remove":
        typer.echo("But snapshot.sources in params.yaml does not name `added`: runs do not learn from added batches.")
    if changed.not_announced and changed.written:
        typer.echo(f"No event was sent: {changed.not_announced}. The next scheduled run finds the batch by itself.")
    if changed.not_tracked:
        typer.echo(f"{changed.not_tracked}. It counts all the same; the next run tries again.")
    _show_learners(affected, "learned from what is taken away")


def _show_unread(batch: "Batch") -> None:
    for what, fields in (("Not read", batch.unread), ("Left alone", batch.left_alone)):
        if fields:
            named = [f"{name} ({count:,})" for name, count in fields.items()][:SHOWN_FIELDS]
            more = f", and {len(fields) - SHOWN_FIELDS} more fields" if len(fields) > SHOWN_FIELDS else ""
            typer.echo(f"{what}: {', '.join(named)}{more}")
    if batch.templated:
        typer.echo(f"Chat template: the texts of {batch.templated:,} rows carry markers such as <|im_start|> or "
                   "[INST]. The model's own template is put around them, so that the markers are learnt as plain "
                   "text: give messages without them. The limit is ingest.max_templated_texts.")


def _show_learners(found: "Sequence[Learner]", what: str) -> None:
    for learner in found:
        aliases = f" ({', '.join(learner.aliases)})" if learner.aliases else ""
        rows = f"{learner.rows:,} rows" if learner.rows is not None else \
            f"cannot be told: the data of run {learner.run} is not on this machine"
        typer.echo(f"model {learner.name} version {learner.version}{aliases} {what}: {rows}")


def _show_counts(title: str, counts: dict[str, int]) -> None:
    typer.echo(f"  {title}: " + ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:10])
               + (f", and {len(counts) - 10} more" if len(counts) > 10 else ""))


def _show_examples(examples: "Sequence[dict[str, object]]") -> None:
    for row in examples:
        typer.echo(f"    {json.dumps(row, ensure_ascii=False)[:EXAMPLE_CHARACTERS]}")


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in kinds.items())


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
