"""Records come from a store that others may write to: whatever they name, nothing out of a run's place is touched."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from plumbline.errors import UserError
from plumbline.history.facts import _flat_params, _locked_snapshot
from plumbline.history.history import History
from plumbline.preferences.batches.arrivals import read_arrival
from plumbline.preferences.batches.manifest import manifest_in
from plumbline.project.digests import cached_file, cached_listing, restore_folder
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord, workspace_of
from plumbline.retraining.due import _learned
from plumbline.runs.restore import restore
from plumbline.tracking.recording import TRIGGER, Recording
from plumbline.tracking.store import EXPERIMENT, connect
from testing.stored_runs import RUN, checkout

NO_RUN = ["../../victim", "/tmp/victim", "..", ".", "", f"{RUN}/../../../victim", f"{RUN}\n", f"{RUN} ", RUN.upper(),
          "20260101-000000-abcde", "20260101-000000-abcdefa", f"./{RUN}", "٢٠260101-000000-abcdef"]
OTHER = "20260102-000000-fedcba"


@pytest.fixture
def record(here: Home, there: Home) -> Path:
    """What the store has of a run whose bytes are on this machine, but whose workspace is not."""
    shutil.copytree(here.cache, there.cache)
    client = connect(there)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run, = client.search_runs([experiment.experiment_id])
    return Path(run.info.artifact_uri.removeprefix("file://")) / "record"


@pytest.fixture
def thesis(there: Home) -> Path:
    file = there.root.parent / "victim" / "thesis.txt"
    file.parent.mkdir()
    file.write_text("precious")
    return file


def change(file: Path, found: str, wanted: str) -> None:
    text = file.read_text()
    assert found in text
    file.write_text(text.replace(found, wanted))


@pytest.mark.parametrize("name", NO_RUN)
def test_only_an_id_is_an_id(there: Home, name: str) -> None:
    with pytest.raises(ValidationError):
        RunRecord(id=name, created="2026-01-01T00:00:00+00:00", project="", pid=1, host="")
    (there.root.parent / "victim").mkdir()
    there.runs.mkdir()
    assert workspace_of(there, name) is None
    assert _learned(there, name) is None


@pytest.mark.parametrize("name", ["../../victim", "{victim}", OTHER, "20270101-000000-000000"])
def test_a_record_of_something_else_deletes_nothing(there: Home, record: Path, thesis: Path, name: str) -> None:
    """The folder that the record names, and the workspace of another run, stay as they are."""
    other = there.runs / OTHER
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("of another run")
    change(record / "run.json", RUN, name.format(victim=thesis.parent))
    with pytest.raises(UserError, match=r"damaged, or (of another version|somebody has changed it)"):
        restore(there, RUN)
    assert thesis.read_text() == "precious"
    assert (other / "thesis.txt").read_text() == "of another run"
    assert [folder.name for folder in there.runs.iterdir()] == [OTHER]


@pytest.mark.parametrize("change_it", [
    lambda place, _: place.mkdir(parents=True),
    lambda place, victim: (place.parent.mkdir(), place.symlink_to(victim)),
    lambda place, _: (place.mkdir(parents=True), (place / "run.json").write_text(
        RunRecord(id=OTHER, created="", project="", pid=1, host="").model_dump_json()))],
    ids=["a folder", "a link", "another run"])
def test_what_is_no_workspace_of_the_run_stays(there: Home, record: Path, thesis: Path,
                                               change_it: Callable[[Path, Path], object]) -> None:
    place = there.runs / RUN
    change_it(place, thesis.parent)
    (place / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=rf"runs/{RUN} is not the workspace of the run {RUN}"):
        restore(there, RUN)
    assert (place / "mine.txt").read_text() == "mine"
    assert thesis.read_text() == "precious"


def test_a_workspace_that_lost_its_record_is_put_right(there: Home, record: Path) -> None:
    restore(there, RUN)
    (there.runs / RUN / "run.json").unlink()
    assert not restore(there, RUN).was_whole
    assert json.loads((there.runs / RUN / "run.json").read_text())["id"] == RUN


@pytest.mark.parametrize(("file", "found", "wanted"), [
    # A damaged file of the cache is deleted: so what is named as one could be.
    ("dvc.lock", r"md5: [0-9a-f]{32}\.dir", "md5: xx{victim}/thesis.txt"),
    ("dvc.lock", r"md5: [0-9a-f]{32}\.dir", "md5: ../../../../../victim/thesis.txt"),
    ("dvc.lock", "path: data/snapshot", "path: ../../../victim"),
    ("dvc.lock", "path: data/snapshot", "path: {victim}"),
    ("dvc.yaml", "outs: .data/snapshot.", "outs: [../../../victim]"),
    ("dvc.yaml", "outs: .data/snapshot.", "outs: [data/snapshot, {{../../victim: {{persist: true}}}}]"),
    ("dvc.yaml", "cmd: ", "wdir: ../..\n    cmd: ")])
def test_a_pipeline_that_leads_out_makes_nothing(there: Home, record: Path, thesis: Path, file: str, found: str,
                                                 wanted: str) -> None:
    text = (record / file).read_text()
    assert re.search(found, text)
    (record / file).write_text(re.sub(found, wanted.format(victim=thesis.parent), text))
    with pytest.raises(UserError):
        restore(there, RUN)
    assert thesis.read_text() == "precious"
    assert [entry.name for entry in thesis.parent.iterdir()] == ["thesis.txt"]
    assert not there.runs.exists() or list(there.runs.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", ""])
def test_a_listing_that_leads_out_is_not_followed(there: Home, tmp_path: Path, name: str) -> None:
    md5 = f"{'ab' * 16}.dir"
    place = cached_file(there.cache, md5)
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps([{"md5": "cd" * 16, "relpath": name}]))
    for act in (lambda: cached_listing(there.cache, md5), lambda: restore_folder(there.cache, md5, tmp_path / "in"),
                lambda: Storage(there).lacking([md5])):
        with pytest.raises(UserError, match="leads out of its folder"):
            act()


def test_a_digest_is_no_path(there: Home, thesis: Path) -> None:
    for md5 in (f"xx{thesis}", "../../x", "ABCDEF" + "0" * 26, "0" * 31, f"{'0' * 32}.dirs"):
        with pytest.raises(UserError, match="no digest"):
            Storage(there).drop_damaged([md5])
    assert thesis.exists()


@pytest.mark.parametrize("digest", ["../../../../victim", "/etc/passwd", "abc", "A" * 64])
def test_files_are_named_by_digests_alone(tmp_path: Path, digest: str) -> None:
    """A snapshot's batches, and those that arrived."""
    batch = {"digest": "0" * 64, "source": "s", "rows": 1, "kinds": {}, "quarantined": 0, "simulated": False}
    file = tmp_path / "manifest.json"
    for wrong in ({**batch, "digest": digest}, {**batch, "whole": digest}):
        file.write_text(json.dumps({"digest": "0" * 64, "batches": [wrong]}))
        with pytest.raises(UserError, match="damaged"):
            manifest_in(file)
    arrival = {"digest": digest, "action": "add", "added": "", "content": "", "removes": 0, "reason": "",
               "batch": batch}
    (tmp_path / "batch.json").write_text(json.dumps(arrival))
    with pytest.raises(UserError, match="damaged"):
        read_arrival(tmp_path)


@pytest.mark.parametrize("text", ["seed: 2026-99-99\n", "[1, 2]\n", "<<<<<<< HEAD\nseed: 1\n", "\x00"])
def test_parameters_that_cannot_be_read_are_left_out(text: str) -> None:
    assert _flat_params(text.encode()) == {}
    assert _locked_snapshot(text.encode()) is None


def test_a_tag_that_names_a_folder_is_no_run(recording_home: Home) -> None:
    """The pages read nothing by it."""
    home = checkout(recording_home.root / "here")
    secret = home.root / "secret"
    secret.mkdir()
    run = {"id": RUN, "created": "", "project": "", "pid": 1, "host": "", "message": "a secret"}
    (secret / "run.json").write_text(json.dumps(run))
    for name in ("../secret", str(secret)):
        tags = {TRIGGER: "x", "plumbline.pipeline_run": name}
        Recording(recording_home, name, tags).end("FINISHED")
    shutil.copy(Path(__file__).resolve().parents[2] / "params.yaml", home.root)
    history = History(Home(home.root, recording_home.folder))
    history.refresh()
    assert dict(history.runs) == {}
