"""Data is found by its name, and a row's history is whole: how it came, what took it away, who learned from it."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from plumbline.data.named_versions import KnownData, find_version, snapshot_digest
from plumbline.data.row_history import RowHistory, learners, row_content, row_history, where_is
from plumbline.errors import UserError
from plumbline.history.history import History, RegisteredVersion, Run, Step
from plumbline.preferences.batches.arrivals import NO_ROWS, Arrival, arrival_index, arrivals, draft, folder_of, publish
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.versions.compare import describe, rows_of
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord

CHECKOUT = Path(__file__).parents[2]
SPLITTING = Splitting(0.0, 0.2, True, None)


def arrive(home: Home, name: str, rows: list[dict[str, object]], action: str = "add",
           gone: object = NO_ROWS) -> Arrival:
    file = home.root / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with draft(home.preferences, name, read_file(file, name) if rows else []) as drafted:
        return publish(home.preferences, drafted, action, datetime.now(UTC).isoformat(), name, gone, "a reason")


def story(history: History, row: str) -> RowHistory:
    return row_history(KnownData(history.home, history.runs), history.versions, row)


def rows(*numbers: int) -> list[dict[str, object]]:
    return [{"prompt": f"Question {i}", "chosen": "Yes.", "rejected": "No.", "annotator": "ada"} for i in numbers]


@pytest.fixture
def project(home: Home) -> Home:
    """A project that learns from what arrived: forty rows."""
    text = (CHECKOUT / "params.yaml").read_text().replace("sources: [simulated, added]", "sources: [added]")
    (home.root / "params.yaml").write_text(text)
    arrive(home, "first.jsonl", rows(*range(40)))
    return home


@pytest.fixture
def history(project: Home) -> History:
    """One run learned from that, and registered version 1; its workspace is on this machine."""
    folder = project.runs / "20261120-100000-aaaaaa"
    folders = Folders(project.root, project.folder)
    manifest = fix_snapshot(["added"], Simulation(0, 0, 0, 0), folders, folder / "data/snapshot")
    prepare(folder / "data/snapshot", folder / "data/prepared", SPLITTING)
    ingest = Step("ingest", "ran", "", 1.0, None, "1", None, None, {}, {}, {}, {}, {"data/prepared": "0" * 32 + ".dir"})
    run = Run(folder.name, "2026-11-20T10:00:00+00:00", None, "finished", None, "command line", None, (), None, None,
              None, "", "", {}, {"ingest": ingest}, "1" * 32 + ".dir", manifest.batches, folder)
    found = History(project)
    found.runs = {run.id: run}
    found.versions = {1: RegisteredVersion("policy", 1, "2" * 32, run.id, run.created, ("champion",), None, {})}
    return found


def test_everything_has_a_name(history: History) -> None:
    known = KnownData(history.home, history.runs)
    run = next(iter(history.runs.values()))
    digest = snapshot_digest(run.batches)
    for name in ("latest", run.id, digest, digest[:8], "1" * 32):
        data = known.find(name)
        assert (data.kind, data.name, len(known.browser(data))) == ("snapshot", digest, 40), name
    (arrived,) = known.arrivals()
    assert known.find(arrived.digest[:12].upper()).kind == "batch"
    assert len(known.browser(known.find("now"))) == 40
    # The same rows were snapshotted again, with another manifest: both folders are known.
    again = replace(run, id="20261121-100000-bbbbbb", snapshot="3" * 32 + ".dir")
    both = KnownData(history.home, {again.id: again, run.id: run})
    for name in ("1" * 32, "3" * 32 + ".dir"):
        data = both.find(name)
        assert data.snapshot and (data.name, data.snapshot.runs) == (digest, (again, run)), name
    for name in ("", "ab", "nonsense", "../../etc", "f" * 64):
        with pytest.raises(UserError, match="There is no data"):
            known.find(name)


def test_the_digest_is_the_one_that_the_snapshot_has(history: History) -> None:
    run = next(iter(history.runs.values()))
    assert run.folder is not None
    manifest = json.loads((run.folder / "data/snapshot/manifest.json").read_text())
    assert manifest["digest"] == snapshot_digest(run.batches)


def test_now_follows_what_arrives(history: History, project: Home) -> None:
    known = KnownData(history.home, history.runs)
    assert len(known.browser(known.find("now"))) == 40
    first = arrival_index(project.preferences, arrivals(project.preferences)[0]).row
    arrive(project, "more.jsonl", rows(41, 42))
    arrive(project, "gone.jsonl", [], "remove", first[:3])
    assert len(known.browser(known.find("now"))) == 39
    assert len(known.arrivals()) == 3 and len(known.browser(known.find("latest"))) == 40


def test_what_is_not_here_says_how_to_get_it(history: History) -> None:
    run = next(iter(history.runs.values()))
    assert run.folder is not None
    (run.folder / "data/snapshot" / f"{run.batches[0].digest}.jsonl").unlink()
    data = KnownData(history.home, history.runs).find("latest")
    assert data.version is None and f"plumbline restore {run.id}" in data.missing
    with pytest.raises(UserError, match="plumbline restore"):
        KnownData(history.home, history.runs).browser(data)


def test_a_row_that_models_learned_from_and_that_was_taken_away(history: History, project: Home) -> None:
    known = KnownData(history.home, history.runs)
    browser = known.browser(known.find("latest"))
    taught = {place: line.split(",")[0] for run in history.runs.values() if run.folder is not None
              for line in (run.folder / "data/prepared/rows.csv").read_text().splitlines()[1:]
              for place in [line.rsplit(",", 1)[1]]}
    found = story(history, taught["train"])
    assert [learner.version for learner in found.learners] == [1] and not found.removed
    known = KnownData(history.home, history.runs)
    assert [use.went_to for use in found.uses] == ["train"] and row_content(known, found)[0]
    assert [arrival.batch.source for arrival in found.arrivals] == ["first.jsonl"]
    assert story(history, taught["heldout"]).learners == []
    arrive(project, "gone.jsonl", [], "remove", np.array([int(taught["train"], 16)], np.uint64))
    gone = story(history, taught["train"].upper())
    assert gone.removed and [arrival.reason for arrival in gone.removals] == ["a reason"]
    assert row_content(known, gone)[0] and len(browser) == 40
    with pytest.raises(UserError, match="holds the row"):
        where_is(project, history.versions, "0123456789abcdef")
    with pytest.raises(UserError, match="16 hexadecimal"):
        story(history, "nonsense")


def test_a_run_whose_prepared_data_is_gone_is_said_to_be_unknown(history: History) -> None:
    run = next(iter(history.runs.values()))
    assert run.folder is not None
    row = (run.folder / "data/prepared/rows.csv").read_text().splitlines()[1].split(",")[0]
    (run.folder / "data/prepared/rows.csv").unlink()
    found = story(history, row)
    assert found.uses == [] and found.unknown == (run,)
    assert row_content(KnownData(history.home, history.runs), found)[0]


def test_a_command_finds_by_the_same_names_what_is_in_workspaces(history: History, project: Home) -> None:
    run = next(iter(history.runs.values()))
    RunRecord(id=run.id, created=run.created, project="", pid=1, host="elsewhere").save(project.runs / run.id)
    digest = snapshot_digest(run.batches)
    titles = {"latest": f"run {run.id}", run.id[:9]: f"run {run.id}", digest[:2]: f"snapshot {digest[:2]}"}
    for name, title in titles.items():
        version = find_version(project, name)
        assert (version.name, len(list(rows_of(version)))) == (title, 40)
    (arrived,) = arrivals(project.preferences)
    assert find_version(project, arrived.digest[:5]).name == f"batch {arrived.digest[:16]}"
    for name in ("", "nonsense", "f" * 64):
        with pytest.raises(UserError, match="plumbline data list"):
            find_version(project, name)


def test_now_is_without_what_was_taken_away_for_a_command_too(project: Home) -> None:
    first = arrival_index(project.preferences, arrivals(project.preferences)[0]).row
    arrive(project, "gone.jsonl", [], "remove", first[:3])
    version = find_version(project, "now")
    held = describe(version, project.preferences.indexes)
    assert (held.rows, held.prompts, len(list(rows_of(version)))) == (37, 37, 37)


def test_while_a_removal_is_not_here_nobody_can_tell_what_there_is_now(history: History, project: Home) -> None:
    first = arrival_index(project.preferences, arrivals(project.preferences)[0]).row
    folder = folder_of(project.preferences, arrive(project, "gone.jsonl", [], "remove", first[:3]))
    folder.with_suffix(".dvc").write_text("outs: []\n")
    elsewhere = shutil.move(folder, project.root / "elsewhere")
    with pytest.raises(UserError, match=f"{folder.name}.*`plumbline pull` brings them"):
        find_version(project, "now")
    known = KnownData(project, history.runs)
    assert known.find("now").version is None and "`plumbline pull`" in known.find("now").missing
    found = story(history, f"{first[0]:016x}")
    assert not found.removed and found.not_here == [folder.name]
    with pytest.raises(UserError, match=r"holds the row 0123456789abcdef.*`plumbline pull`"):
        story(history, "0123456789abcdef").require_known()
    shutil.move(elsewhere, folder)
    assert len(list(rows_of(find_version(project, "now")))) == 37
    found = story(history, f"{first[0]:016x}")
    assert found.removed and found.not_here == []


def test_a_row_is_blamed_without_mlflow_by_what_workspaces_hold(history: History, project: Home) -> None:
    run = next(iter(history.runs.values()))
    (project.runs / run.id / "run.json").write_text("damaged")
    lines = (project.runs / run.id / "data/prepared/rows.csv").read_text().splitlines()[1:]
    row = next(line.split(",")[0] for line in lines if line.endswith(",train"))
    found = where_is(project, history.versions, row.upper())
    assert found.went_to == {run.id: "train"} and not found.removed
    assert [(model.version, model.run, model.rows) for model in found.learners] == [(1, run.id, 1)]
    every = [line.split(",")[0] for line in lines]
    (model,) = learners(project, history.versions, every)
    assert model.rows == sum(line.endswith((",train", ",validation")) for line in lines)
    shutil.rmtree(project.runs / run.id)
    assert [model.rows for model in learners(project, history.versions, [row])] == [None]


@pytest.mark.parametrize("name", ["rows.jsonl", "removed.txt"])
def test_a_damaged_batch_leaves_what_else_is_known_of_a_row(history: History, project: Home, name: str) -> None:
    kept = row_id_of(project)
    second = arrive(project, "second.jsonl", rows(41), "supersede", np.array([1], np.uint64))
    (folder_of(project.preferences, second) / name).write_text("{}\n")
    for index in project.preferences.indexes.glob(f"{second.batch.digest}*"):
        index.unlink()
    found = story(history, kept)
    assert [arrival.batch.source for arrival in found.arrivals] == ["first.jsonl"] and len(found.learners) == 1
    assert len(found.damaged) == 1 and name in found.damaged[0]


def row_id_of(project: Home) -> str:
    table = next(project.runs.glob("*/data/prepared/rows.csv"))
    return next(line.split(",")[0] for line in table.read_text().splitlines() if line.endswith(",train"))
