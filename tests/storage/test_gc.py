"""What gc frees, what it keeps, and that everything left is usable at whatever moment it ends."""

import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from dvc.lock import DEFAULT_TIMEOUT
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.project.digests import cached_file
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home, enter, other_checkouts
from plumbline.project.run_record import Outcome, RunRecord, Status, find_run, raw_record, run_folders
from plumbline.storage import gc_cache
from plumbline.storage.gc import collect, make_plan
from plumbline.tracking.recording import TRIGGER, Recording
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import connect
from plumbline.tracking.writes import PARENT

CHECKOUT = Path(__file__).resolve().parents[2]
DAYS_AGO = 3 * 86_400


@pytest.fixture
def project(recording_home: Home) -> Home:
    home = recording_home
    Repo.init(str(home.root), no_scm=True)
    (home.root / "params.yaml").write_text((CHECKOUT / "params.yaml").read_text())
    return home


def keep_folder(home: Home, *texts: str) -> str:
    """Put a folder with a file of each text into the cache; its digest."""
    entries = []
    for number, text in enumerate(texts):
        md5 = hashlib.md5(text.encode()).hexdigest()
        file = cached_file(home.cache, md5)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        entries.append({"md5": md5, "relpath": f"file{number}"})
    listing = json.dumps(entries, sort_keys=True)
    digest = hashlib.md5(listing.encode()).hexdigest() + ".dir"
    file = cached_file(home.cache, digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(listing)
    return digest


class Runs:
    """Makes runs that look like real ones to gc."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._count = 0

    def add(self, model: str, reuses: str | None = None, status: str = "finished", pid: int | None = None) -> str:
        """A run whose policy has this text; all of them share one base model. Its id."""
        self._count += 1
        name = f"20260101-00000{self._count}-abcdef"
        folder = self.home.runs / name
        (folder / "models/policy/model").mkdir(parents=True)
        (folder / "models/policy/model/file0").write_text(model)
        digest = keep_folder(self.home, model)
        base = keep_folder(self.home, "base", "tokenizer")
        (folder / "dvc.lock").write_text(
            "schema: '2.0'\nstages:\n"
            f"  base:\n    cmd: x\n    outs:\n    - path: models/base/model\n      md5: {base}\n"
            f"  ppo:\n    cmd: x\n    outs:\n    - path: models/policy/model\n      md5: {digest}\n")
        Repo.init(str(folder), no_scm=True)
        whole = Recording(self.home, name, {TRIGGER: "test", "plumbline.pipeline_run": name})
        stage = Recording(self.home, "ppo", {PARENT: whole.run_id})
        model_id = stage.model("policy", {"dvc.md5": digest})
        stage.end("FINISHED")
        whole.tags({"stage.ppo": "ran", "stage.ppo.run": reuses or stage.run_id})
        whole.end("FINISHED")
        record = RunRecord(id=name, created="2026-01-01T00:00:00+00:00", project=str(self.home.root),
                           mlflow_run=whole.run_id, pid=pid or 1, host=socket.gethostname(),
                           status=status,  # type: ignore[arg-type]
                           stages={"ppo": Outcome(status="ran", seconds=1, reason="", mlflow_run=stage.run_id)})
        record.save(folder)
        self.digest, self.model_id, self.stage, self.whole = digest, model_id, stage.run_id, whole.run_id
        return name

    def register(self, name: str) -> int:
        """Register the policy of the newest run and make it champion; the version's number."""
        registry = Registry.open(self.home, "policy")
        version = registry.register(self.digest, self.model_id, self.stage, None, {"pipeline_run": name}).version
        registry.make_champion(version, "a test", "tester")
        return version


@pytest.fixture
def runs(project: Home) -> Runs:
    return Runs(project)


def cached(home: Home) -> set[str]:
    return {file.parent.name + file.name for file in home.cache.glob("files/md5/*/*")}


def test_aliases_pins_newest_and_running_stay_and_the_rest_goes(project: Home, runs: Runs) -> None:
    first = runs.add("policy of the first")
    lost = runs.digest
    champion = runs.add("policy of the champion")
    champion_policy = runs.digest
    runs.register(champion)
    pinned = runs.add("pinned")
    folder = project.runs / pinned
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    record.pinned = "the paper cites it"
    record.save(folder)
    tried = [runs.add(f"tried {number}") for number in range(3)]
    going_on = runs.add("half a policy", status="running", pid=os.getpid())
    newest = runs.add("the newest")

    plan = make_plan(project, newest=1)
    before = cached(project)
    assert set(plan.runs) == {first, *tried}
    assert plan.kept == {champion: "it registered version 1, the champion", pinned: "it is pinned: the paper cites it",
                         going_on: "it is going on", newest: "it is one of the newest 1"}
    assert cached(project) == before  # a plan deletes nothing

    sizes = {kind.what: (kind.count, kind.size) for kind in plan.freed}
    collect(project, newest=1)
    assert {folder.name for folder in run_folders(project)} == {champion, pinned, going_on, newest}
    gone = before - cached(project)
    assert sizes["files of the cache"][0] == len(gone) == 8  # four policies, each a listing and a file
    assert lost in gone
    storage = Storage(project)
    for digest in (champion_policy, keep_folder(project, "base", "tokenizer"), runs.digest):
        assert storage.lacking([digest]) == set()
    assert not list(project.runs.glob(".*")) and not (project.folder / "trash").exists()
    again = make_plan(project, newest=1)
    assert [kind.count for kind in again.freed] == [0, 0, 0, 0]


def test_a_registered_version_that_loses_its_bytes_is_named(project: Home, runs: Runs) -> None:
    old = runs.add("the old policy")
    runs.register(old)
    for number in range(2):
        runs.register(runs.add(f"champion {number}"))
    runs.add("newest")
    assert make_plan(project, newest=1).lost == [f"version 1 (run {old})"]


def test_records_stay_as_long_as_something_refers_to_them(project: Home, runs: Runs) -> None:
    """A run reuses the stage of another one, which itself may go."""
    runs.add("made by the first")
    first_whole, first_stage = runs.whole, runs.stage
    runs.add("tried and given up")
    tried = runs.whole, runs.stage, runs.model_id
    runs.add("reuses the first", reuses=first_stage)
    plan = collect(project, newest=1)
    assert len(plan.runs) == 2
    assert plan.records.runs == set(tried[:2])
    client = connect(project)
    assert client.get_run(first_stage).info.lifecycle_stage == "active"
    assert client.get_run(first_whole).info.lifecycle_stage == "active"
    found = client.search_runs(["1"], "", max_results=50, run_view_type=3)  # deleted ones, too
    assert {run.info.run_id for run in found}.isdisjoint(tried)
    assert tried[2] not in {model.model_id for model in client.search_logged_models(["1"])}
    assert not (project.artifacts / tried[0]).exists()


def test_nothing_is_deleted_when_mlflow_cannot_say_which_versions_have_aliases(project: Home, runs: Runs) -> None:
    runs.add("one")
    runs.add("two")
    (project.folder / "mlflow.db").rename(project.folder / "aside.db")
    before = cached(project), run_folders(project)
    with pytest.raises(UserError, match=r"mlflow.db is not there"):
        collect(project, newest=0)
    assert (cached(project), run_folders(project)) == before
    assert not (project.folder / "mlflow.db").exists()


def test_a_gc_that_is_killed_leaves_everything_usable(project: Home, runs: Runs,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        runs.add(f"tried {number}")
    kept = runs.add("kept")
    digest = runs.digest

    def killed(home: Home, needed: Callable[[], set[str]]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gc_cache, "sweep", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(project, newest=1)
    monkeypatch.undo()
    assert [folder.name for folder in run_folders(project)] == [kept]
    assert Storage(project).lacking([digest]) == set()
    assert {kind.what: kind.count for kind in make_plan(project, newest=1).freed}["files of the cache"] == 6
    collect(project, newest=1)
    assert len(cached(project)) == 5  # the policy and the base model, each with its listing


@pytest.mark.parametrize("then", ["running", "finished"])
def test_what_a_run_commits_during_the_sweep_is_spared(project: Home, runs: Runs, then: Status) -> None:
    runs.add("tried")
    coming = runs.digest
    going_on = project.runs / runs.add("going on", status="running", pid=os.getpid())

    def needed() -> set[str]:
        # The run restores the stage that nothing needed a moment ago.
        with (going_on / "dvc.lock").open("a") as lock:
            lock.write(f"  again:\n    cmd: x\n    outs:\n    - path: models/again\n      md5: {coming}\n")
        record = raw_record(going_on)
        record.status = then
        record.save(going_on)
        return set()

    gc_cache.sweep(project, needed)
    assert Storage(project).lacking([coming]) == set()


def test_what_is_tracked_during_the_sweep_is_spared(project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, changed, goes = (keep_folder(project, text) for text in ("a batch", "changed by hand", "of no use"))
    by_hand = project.root / "corpora/prefs.dvc"
    by_hand.parent.mkdir()
    by_hand.write_text("outs: []\n")
    unneeded = gc_cache.unneeded

    def meanwhile(home: Home, digests: set[str]) -> dict[str, int]:
        # The pages' housekeeping lets DVC track a batch, and a person a file, after gc has looked.
        project.preferences.arrived.mkdir(parents=True)
        for file, digest in ((project.preferences.arrived / "0123456789abcdef.dvc", batch), (by_hand, changed)):
            file.write_text(f"outs:\n- md5: {digest}\n  path: something\n")
        return unneeded(home, digests)

    monkeypatch.setattr(gc_cache, "unneeded", meanwhile)
    gc_cache.sweep(project, set)
    assert Storage(project).lacking([batch, changed]) == set()
    assert goes not in cached(project)


def test_what_people_track_with_dvc_stays(project: Home, runs: Runs) -> None:
    added, made = keep_folder(project, "added by hand"), keep_folder(project, "made by a pipeline of their own")
    (project.root / "corpora").mkdir()
    (project.root / "corpora/prefs.dvc").write_text(f"outs:\n- md5: {added}\n  path: prefs\n")
    (project.root / "corpora/dvc.lock").write_text(
        f"stages:\n  clean:\n    cmd: x\n    outs:\n    - path: clean\n      md5: {made}\n")
    collect(project, newest=0)
    assert Storage(project).lacking([added, made]) == set()
    for name in ("prefs.dvc", "dvc.lock"):
        whole = (project.root / "corpora" / name).read_text()
        (project.root / "corpora" / name).write_text(f"<<<<<<< HEAD\n{whole}")
        with pytest.raises(UserError, match=f"{name} is no file of DVC's"):
            collect(project, newest=0)
        (project.root / "corpora" / name).write_text(whole)


def test_leftovers_go_when_they_are_old(project: Home, runs: Runs) -> None:
    runs.add("newest")
    old = [project.scratch / "ppo-123/resume", project.preferences.arrived / ".new-abc/rows.jsonl",
           project.preferences.indexes / "0123.npz", project.runs / ".new-half/models/x",
           project.runs / "20250101-000000-aaaaaa/dvc.yaml"]
    theirs = [project.runs / "notes.md", project.runs / "my plots/loss.png", project.runs / "20250101-000000-bbbbbb"]
    young, batch = project.scratch / "ppo-456/resume", project.preferences.arrived / "0123456789abcdef/rows.jsonl"
    for file in (*old, *theirs, young, batch):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("left")
    then = time.time() - DAYS_AGO
    for file in (*old, *theirs, batch):
        os.utime(file, (then, then))
        os.utime(file.parent, (then, then))
        os.utime(file.parent.parent, (then, then))
    collect(project, newest=1)
    assert [file for file in old if file.exists()] == []
    assert young.exists() and batch.exists()  # arrived data is never deleted
    assert all(file.exists() for file in theirs)


@pytest.mark.parametrize("spoil", ["", '{"id": "2026'])
def test_a_run_whose_record_is_damaged_stays_with_its_bytes(project: Home, runs: Runs, spoil: str) -> None:
    damaged = runs.add("policy of the damaged")
    policy, goes = runs.digest, runs.add("policy that goes")
    runs.add("the newest")
    (project.runs / damaged / "run.json").write_text(spoil)
    plan = collect(project, newest=1)
    assert "run.json is damaged" in plan.kept[damaged]
    assert plan.runs == [goes]
    assert cached_file(project.cache, policy).exists()


def test_a_copy_of_a_run_that_a_person_keeps_is_no_run(project: Home, runs: Runs) -> None:
    """Its record names the original; its bytes are those of a folder that DVC tracks."""
    runs.add("looked at closely")
    seen = project.runs / runs.add("looked at as well")
    policy, whole = runs.digest, runs.whole
    copy = project.runs / "x-good"
    shutil.copytree(seen, copy)
    runs.add("the newest")
    kept = shutil.copytree(project.runs / "20260101-000001-abcdef", project.runs / "20260101-000001-abcdef.old")
    plan = make_plan(project, newest=2)
    assert plan.runs == ["20260101-000001-abcdef"]
    assert whole not in plan.records.runs
    collect(project, newest=1)
    assert copy.is_dir() and kept.is_dir() and not seen.exists()
    assert Storage(project).lacking([policy]) == set()
    assert find_run(project, "latest").name == "20260101-000003-abcdef"


def test_what_dvc_was_copying_when_it_was_killed_is_no_digest_and_goes_when_it_is_old(project: Home,
                                                                                     runs: Runs) -> None:
    runs.add("newest")
    old, young = project.cache / "files/md5/ab/.old.tmp", project.cache / "files/md5/ab/.young.tmp"
    entry = project.cache / "runs/ab/abcd/.entry.tmp"
    for file in (old, young, entry):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    for file in (old, entry):
        os.utime(file, (time.time() - DAYS_AGO,) * 2)
    plan = collect(project, newest=1)
    assert plan.leftovers == [old, entry]
    assert (old.exists(), entry.exists(), young.exists()) == (False, False, True)
    assert list(old.parent.iterdir()) == [young]


def test_a_needed_folder_whose_listing_is_damaged_stops_gc_before_it_deletes_anything(project: Home,
                                                                                     runs: Runs) -> None:
    runs.add("tried")
    runs.add("newest")
    file = cached_file(project.cache, runs.digest)
    file.write_text("")
    before = cached(project), run_folders(project)
    with pytest.raises(UserError, match=f"The listing {file} of a folder that is needed is damaged"):
        collect(project, newest=1)
    assert (cached(project), run_folders(project)) == before
    file.unlink()
    assert len(collect(project, newest=1).runs) == 1


def test_between_two_portions_whoever_waits_for_a_lock_can_take_it(project: Home, runs: Runs,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        keep_folder(project, f"of no use {number}")
    going_on = project.runs / runs.add("going on", status="running", pid=os.getpid())
    lock, pauses = Repo(str(going_on)).lock, []

    def pause(seconds: float) -> None:
        with lock:
            pauses.append(seconds)

    monkeypatch.setattr(gc_cache, "PORTION", 3)
    monkeypatch.setattr(gc_cache.time, "sleep", pause)
    gc_cache.sweep(project, lambda: {runs.digest, keep_folder(project, "base", "tokenizer")})
    assert pauses == [0.6]
    assert gc_cache.PAUSE_SECONDS > DEFAULT_TIMEOUT / 6, "DVC looks six times"


def test_the_entry_of_a_stage_that_is_being_committed_stays(project: Home, runs: Runs,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC writes it before it copies the outputs, and holds the workspace's lock all the while."""
    going_on = project.runs / runs.add("going on", status="running", pid=os.getpid())
    entry = project.cache / "runs/ab/abcd/value"
    entry.parent.mkdir(parents=True)
    lock = Repo(str(going_on)).lock

    def commit() -> set[str]:
        lock.lock()
        entry.write_text(f"cmd: x\nouts:\n- path: model\n  md5: {hashlib.md5(b'coming').hexdigest()}\n")
        threading.Timer(0.3, end).start()
        return cached(project)

    def end() -> None:
        keep_folder(project, "coming")
        lock.unlock()

    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.06)
    gc_cache.sweep(project, commit)
    assert entry.exists()


def test_the_home_of_two_checkouts_is_left_alone(project: Home, runs: Runs, tmp_path: Path) -> None:
    runs.add("tried")
    other = tmp_path / "another checkout"
    other.mkdir()
    (other / "dvc.yaml").write_text("stages: {}\n")
    enter(project)
    enter(Home(other, project.folder))
    before = cached(project), run_folders(project)
    for act in (make_plan, collect):
        with pytest.raises(UserError, match=f"is that of the checkout {other}, too") as refused:
            act(project, newest=0)
    assert (cached(project), run_folders(project)) == before
    shutil.copytree(project.folder, tmp_path / "copy")
    assert other_checkouts(Home(tmp_path / "moved", tmp_path / "copy")) == {}, "it is the copy of a home"
    [file] = other_checkouts(project).values()
    assert str(file) in str(refused.value)
    (other / "dvc.yaml").unlink()
    assert len(collect(project, newest=0).runs) == 1


def made_elsewhere(home: Home, runs: Runs) -> str:
    """Let another machine have made the champion: its record is in MLflow, and no workspace here.

    Return the digest of its base model, which nothing else names.
    """
    name = runs.add("policy of the champion")
    runs.register(name)
    for file in ("run.json", "dvc.lock"):
        connect(home).log_artifact(runs.whole, str(home.runs / name / file), "record")
    shutil.rmtree(home.runs / name)
    return keep_folder(home, "base", "tokenizer")


FILES = "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository"


@pytest.mark.parametrize("unanswered", ["mlflow.MlflowClient.download_artifacts", "mlflow.MlflowClient.search_runs",
                                        f"{FILES}.download_artifacts"])  # MLflow calls such files missing
def test_nothing_is_deleted_when_mlflow_fails_for_the_record_behind_an_alias(
        project: Home, runs: Runs, monkeypatch: pytest.MonkeyPatch, unanswered: str) -> None:
    base, before = made_elsewhere(project, runs), cached(project)

    def fail(*_args: object, **_more: object) -> None:
        raise requests.ConnectionError("the connection was reset")

    monkeypatch.setattr(unanswered, fail)
    with pytest.raises(UserError, match=r"does not answer.*Nothing was deleted"):
        collect(project, newest=0)
    assert cached(project) == before
    monkeypatch.undo()
    collect(project, newest=0)
    assert Storage(project).lacking([base]) == set()


def test_a_record_that_is_gone_for_good_does_not_hold_gc_up(project: Home, runs: Runs) -> None:
    base = made_elsewhere(project, runs)
    shutil.rmtree(connect(project).get_run(runs.whole).info.artifact_uri.removeprefix("file://"))
    collect(project, newest=0)
    storage = Storage(project)
    assert storage.lacking([runs.digest]) == set() and storage.lacking([base])
