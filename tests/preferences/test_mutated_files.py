"""Whatever happens to a file, every record of it is counted: read = accepted + duplicates + near held-out + set aside.

Real files, where they lie beside the checkout, and one record of every format are damaged as files are on their way:
flipped, lost and repeated bytes, cut and doubled lines, values of another type. Each round is a seed of its own.
"""

import gzip
import itertools
import json
import random
from collections import deque
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.reading.read import UndecidableFile, read_file
from plumbline.preferences.reading.results import Unread
from testing.format_fixtures import EXAMPLES
from testing.preference_files import demonstrations, pairs, write_jsonl

FILES = Path(__file__).parents[2] / "../shared/data"
RECORDS, ROUNDS = 40, 12
SEVERAL = ("argilla", "label-studio", "oasst")
"""Formats of which one record gives several judgements."""
SPLITTING = Splitting(0.1, 0.3, chosen_as_demonstrations=False, near_duplicate=0.8)
OTHER_TYPES = (None, True, 7, -1.5, 10**400, "", " ", "nan", "\0", "\ud800", [], {}, [[]], {"role": "user"}, "é" * 50)


def generated():
    """A few pairs, and one record of every format that gives one judgement."""
    return [*pairs(8), *(record for name, record, _ in EXAMPLES.values() if name not in SEVERAL), *demonstrations(4)]


def real():
    """The first records of each real file."""
    for file in sorted(FILES.glob("*.json*.gz")) if FILES.is_dir() else ():
        with gzip.open(file, "rt", encoding="utf-8") as opened:
            if file.name.endswith(".json.gz"):
                yield file.name.split(".")[0], json.load(opened)[:RECORDS]
            else:
                yield file.name.split(".")[0], [json.loads(line) for line in itertools.islice(opened, RECORDS)]


GIVEN = {"generated": generated(), **dict(real())}


def with_other_types(record, rng):
    """The record with one of its values, at any depth, of another type, or without it."""
    place = record
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.5:
            place = place[key]
        elif rng.random() < 0.3:
            del place[key]
            return record
        else:
            place[key] = rng.choice(OTHER_TYPES)
            return record


def damaged(content, rng):
    """Bytes with some of them flipped, lost, put in or repeated."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at : at + rng.choice((1, 5, 300))]
            case 2:
                content[at:at] = rng.choice((b"\n", b"\xff", b"\0", b'"', b"}{", b"\r\n\r\n", b"\xef\xbb\xbf", b","))
            case 3:
                content[at:at] = content[at : at + rng.randint(1, 2000)]
    return bytes(content[: rng.randrange(len(content)) if rng.random() < 0.3 else None])


def mutated_lines(records, rng):
    """JSON lines of which the first is whole, and the number of those that hold something."""
    records = json.loads(json.dumps(records))
    for i in rng.sample(range(len(records)), 6):
        records[i] = with_other_types(records[i], rng)
    lines = [json.dumps(record).encode() for record in records]
    lines += rng.choices(lines, k=5)
    first, *others = [json.dumps(pairs(1)[0]).encode(), *lines]
    content = first + b"\n" + damaged(b"\n".join(others), rng)
    return content, sum(bool(line) and not line.isspace() for line in content.split(b"\n"))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_line_of_damaged_files_is_counted_to_the_end(tmp_path, snapshot, seed):
    rng = random.Random(seed)
    plain = [*pairs(60), *demonstrations(60)]
    write_jsonl(tmp_path / "given/plain.jsonl", plain)
    expected = len(plain)
    for name, records in GIVEN.items():
        content, lines = mutated_lines(records, rng)
        file = tmp_path / f"given/{name}.jsonl"
        file.write_bytes(content)
        if is_refused(file):
            file.unlink()
        else:
            expected += lines
    counts, _ = prepare(snapshot("given")[1], tmp_path / "prepared", SPLITTING)
    assert counts["rows_read"] == expected
    assert counts["rows_accepted"] + counts["duplicates"] + counts["near_heldout"] + counts["quarantined"] == expected
    assert counts["quarantined"] == len((tmp_path / "prepared/quarantine.jsonl").read_bytes().splitlines())
    gone_to = (tmp_path / "prepared/rows.csv").read_text().splitlines()[1:]
    assert len(gone_to) == counts["rows_accepted"] + counts["near_heldout"]


def is_refused(file):
    """True if a damaged number looks like one of another scale, which leaves all rows of the file in doubt."""
    try:
        deque(read_file(file, file.name), maxlen=0)
    except UndecidableFile:
        return True
    except UserError:
        return False
    return False


def in_other_form(records, form):
    match form:
        case "array.json":
            return json.dumps(records, indent=1).encode()
        case "objects.json":
            return "\n".join(json.dumps(record, indent=1) for record in records).encode()
        case "packed.jsonl.gz":
            return gzip.compress("\n".join(map(json.dumps, records)).encode())
        case "around.json":
            return json.dumps({"data": records}, indent=1).encode()
        case "table.csv":
            rows = ["prompt;chosen;rejected", *(f'"{row["prompt"]}";{row["chosen"]};"no"' for row in pairs(60))]
            return "\n".join(rows).encode()
    from pyarrow import Table, parquet  # the last form is Parquet

    made = Path("table.parquet")
    parquet.write_table(Table.from_pylist(pairs(3000)), made, row_group_size=500)
    return made.read_bytes()


FORMS = ("array.json", "objects.json", "packed.jsonl.gz", "around.json", "table.csv", "table.parquet")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_of_a_damaged_file_of_any_form_is_counted_to_the_end(tmp_path, snapshot, monkeypatch, form):
    if form == "table.parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    plain = [*pairs(60), *demonstrations(60)]
    write_jsonl(tmp_path / "given/plain.jsonl", plain)
    whole, expected, rng = in_other_form(generated(), form), len(plain), random.Random(form)
    for i in range(8):
        file = tmp_path / "given" / f"{i}.{form}"
        file.write_bytes(damaged(whole, rng))
        expected += read_alone(file)
    counts, _ = prepare(snapshot("given")[1], tmp_path / "prepared", SPLITTING)
    assert counts["rows_read"] == expected
    assert counts["rows_accepted"] + counts["duplicates"] + counts["near_heldout"] + counts["quarantined"] == expected


def read_alone(file):
    """How many rows and quarantined rows a file gives; one that cannot be read at all is one."""
    count = 0
    try:
        for row in read_file(file, file.name):
            count += not isinstance(row, Unread)
    except UserError:
        return max(count, 1)
    return count
