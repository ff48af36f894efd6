"""Export: rows as files that other tools read, and that import as the same rows.

`jsonl` and `parquet` are our own schema and lose nothing. `trl` (prompt and messages apart) and `hh` (two
transcripts) hold pairs: a ranking becomes its pairs, and what the form cannot say is left out and counted
with the reason. Their extra columns `source`, `annotator`, `time`, `machine`, `strength` and `shown_first`
carry what pairs do not.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from plumbline.errors import UserError, as_user_error
from plumbline.preferences.reading.conversations import as_transcript
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    Rating,
    Row,
    comparisons_of,
    prompt_json,
    to_json,
)

Form = Literal["trl", "hh", "jsonl", "parquet"]
FORMS: tuple[Form, ...] = get_args(Form)
ROWS_AT_ONCE = 1024
SPEAKERS = {"user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and what it left out: how many rows, or pairs of rankings, for each reason."""

    form: Form
    file: Path
    written: int
    left_out: Mapping[str, int]


class _LeftOut(Exception):
    """A row that the form cannot say; the message is the reason."""


Records = list[dict[str, object]]
Write = Callable[[Records], None]


def write_export(rows: Iterable[Row], form: Form, out: Path) -> Exported:
    """Write the rows to the file `out`, which is there only when all of it is. Raises UserError if it cannot
    be."""
    if out.is_dir():
        raise UserError(f"The export cannot be written to {out}, which is a folder: name a file in it.")
    left_out: Counter[str] = Counter()
    written = 0
    records = map(to_json, rows) if form in ("jsonl", "parquet") else _pairs(rows, form, left_out)
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (_parquet if form == "parquet" else _lines)(part) as write:
            while batch := list(islice(records, ROWS_AT_ONCE)):
                write(batch)
                written += len(batch)
        part.replace(out)
    except OSError as error:
        raise as_user_error(error) or UserError(
            f"The export {out} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            part.unlink()
    return Exported(form, out, written, dict(left_out))


@contextmanager
def _lines(file: Path) -> Iterator[Write]:
    with file.open("w", encoding="utf-8", newline="\n") as opened:
        yield lambda records: opened.writelines(json.dumps(record,
                                                           ensure_ascii=False) + "\n" for record in records)


@contextmanager
def _parquet(file: Path) -> Iterator[Write]:
    """Yield a writer of a table with our schema's fields as columns; fields that a row lacks are null."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError("Writing Parquet needs pyarrow, which is not installed: pip install pyarrow, or "
                        "export as jsonl.") from None
    text, number = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct({"role": text, "content": text})
    schema = pyarrow.schema({
        "kind": text, "prompt": pyarrow.list_(message), "response": text, "responses": pyarrow.list_(text),
        "label": text, "strength": number, "ranks": pyarrow.list_(pyarrow.int64()), "score": number,
        "source": text, "annotator": text, "time": text, "machine": pyarrow.bool_()})
    with parquet.ParquetWriter(file, schema) as table:
        yield lambda records: table.write_batch(pyarrow.RecordBatch.from_pylist(records, schema))


def _pairs(rows: Iterable[Row], form: Form, left_out: Counter[str]) -> Iterator[dict[str, object]]:
    sides = _hh if form == "hh" else _trl
    for row in rows:
        if isinstance(row, Demonstration | Rating):
            left_out[f"a {type(row).__name__.lower()} is no pair"] += 1
            continue
        for pair in comparisons_of(row):
            try:
                yield sides(pair) | _extra(pair)
            except _LeftOut as reason:
                left_out[str(reason)] += 1


def _extra(pair: Comparison) -> dict[str, object]:
    """Return what the pair's form does not hold, under our names."""
    first = "rejected" if pair.label == "B" else "chosen"
    values = {"shown_first": first, "strength": pair.strength, "source": pair.origin.source,
              "annotator": pair.origin.annotator, "time": pair.origin.time, "machine": pair.origin.machine}
    return {name: value for name, value in values.items() if value is not None}


def _trl(pair: Comparison) -> dict[str, object]:
    _refuse_tie(pair)
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected))
    return {"prompt": prompt_json(pair.prompt), "chosen": chosen, "rejected": rejected}


def _hh(pair: Comparison) -> dict[str, object]:
    _refuse_tie(pair)
    return {"chosen": _transcript(pair.prompt, pair.chosen),
            "rejected": _transcript(pair.prompt, pair.rejected)}


def _refuse_tie(pair: Comparison) -> None:
    if pair.label == "tie":
        raise _LeftOut("a tie has no chosen side")


def _transcript(prompt: Prompt, response: str) -> str:
    """Return the dialogue as Anthropic HH writes it. Raises _LeftOut if it would not read back the same."""
    turns = [*prompt, Message("assistant", response)]
    if any(turn.role == "system" for turn in turns):
        raise _LeftOut("a transcript has no place for a system message")
    text = "".join(f"\n\n{SPEAKERS[turn.role]}: {turn.content}" for turn in turns)
    if text.count("\n\nHuman:") + text.count("\n\nAssistant:") != len(turns):
        raise _LeftOut("a text holds `\\n\\nHuman:` or `\\n\\nAssistant:`, which starts a turn of a "
                       "transcript")
    if as_transcript(text) != turns:
        raise _LeftOut("a text starts or ends with white space, which a transcript does not keep")
    return text
