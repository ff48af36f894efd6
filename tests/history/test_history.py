"""What has been recorded is what the pages see, wherever it was recorded and whatever happened since."""

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from plumbline.errors import UserError
from plumbline.history import facts
from plumbline.history.facts import RunArtifacts
from plumbline.history.history import MOST_FAILURES, History
from plumbline.project.digests import digest
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home, enter
from plumbline.project.processes import local_process
from plumbline.project.run_record import RunRecord, read_record
from plumbline.runs.cancel import mark_dead
from plumbline.tracking.outbox import WRITES
from plumbline.tracking.recording import Recording
from plumbline.tracking.store import connect, experiment
from plumbline.tracking.writes import PARENT
from testing.recorded_project import RUNS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(recorded_project: Path) -> Path:
    """A project whose runs were recorded by the real code: finished and failed ones, reused stages, a version."""
    return recorded_project


@pytest.fixture
def here(project: Path, tmp_path: Path) -> Iterator[Home]:
    """The project with a home of its own, so that a test may change what is recorded."""
    yield from _home(project, project, tmp_path)


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path) -> Iterator[Home]:
    """Another checkout with the same MLflow store: no workspace of these runs is there."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(project / file, checkout / file)
    yield from _home(project, checkout, tmp_path)


def _home(project: Path, root: Path, tmp_path: Path) -> Iterator[Home]:
    before = dict(os.environ)
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    folder = tmp_path / "home"
    folder.mkdir(exist_ok=True)
    shutil.copy(project / ".plumbline/mlflow.db", folder / "mlflow.db")
    home = Home(root, folder)
    enter(home)
    yield home
    os.environ.clear()
    os.environ.update(before)


def read(home: Home) -> History:
    history = History(home)
    history.refresh()
    return history


def pipeline(home: Home, name: str, **tags: str) -> Recording:
    """A pipeline run that has only begun."""
    return Recording(home, name, {"plumbline.pipeline_run": name, "plumbline.trigger": "test", **tags})


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_every_run_is_there_as_its_workspace_has_it(here: Home):
    history = read(here)
    records = [read_record(file.parent) for file in here.runs.glob("*/run.json")]
    assert set(history.runs) == {record.id for record in records}
    times = [run.created for run in history.runs.values()]
    assert times == sorted(times, reverse=True)  # two runs of the same second may come in either order
    for record in records:
        run = history.runs[record.id]
        assert (run.status, run.message, run.settings) == (record.status, record.message, tuple(record.settings))
        assert {name: (step.status, step.reason, step.mlflow_run) for name, step in run.steps.items()} == {
            name: (outcome.status, outcome.reason, outcome.mlflow_run) for name, outcome in record.stages.items()}
    assert {"finished", "failed"} <= {run.status for run in history.runs.values()}


def test_what_a_step_measured_read_and_left_is_what_lies_in_the_workspace(here: Home):
    stages = read_stages(here.root)
    for run in read(here).runs.values():
        assert run.folder is not None
        for name, step in run.steps.items():
            if step.status == "failed" or step.mlflow_run is None:
                continue
            assert step.outputs == {path: digest(run.folder / path) for path in stages[name].outputs}
            assert step.inputs == {path: digest(run.folder / path) for path in stages[name].inputs}
            assert step.version == run.params[f"{name}.version"] == step.params[f"{name}.version"]
            metrics = stages[name].file("metrics.json")
            if metrics:
                measured = json.loads((run.folder / metrics).read_text())
                numbers = {key: value for key, value in measured.items() if not isinstance(value, str)}
                texts = {key: value for key, value in measured.items() if isinstance(value, str)}
                assert {key: step.metrics[key] for key in numbers} == numbers
                assert {key: step.facts[key] for key in texts} == texts


def test_a_run_names_its_data_its_batches_and_all_its_parameters(here: Home):
    for run in read(here).runs.values():
        assert run.folder is not None
        manifest = json.loads((run.folder / "data/snapshot/manifest.json").read_text())
        assert run.snapshot == digest(run.folder / "data/snapshot")
        assert [batch.digest for batch in run.batches] == [batch["digest"] for batch in manifest["batches"]]
        assert {"seed", "snapshot.sources", "ppo.kl_coef", "promote.min_win_rate"} <= run.params.keys()


def test_a_run_from_elsewhere_appears_the_same_but_for_its_folder(here: Home, elsewhere: Home):
    there, away = read(here), read(elsewhere)
    assert list(there.runs) == list(away.runs)
    for id, run in away.runs.items():
        mine = there.runs[id]
        assert run.folder is None
        assert {**mine.__dict__, "folder": None} == run.__dict__
    assert there.versions == away.versions
    assert len(away.versions) >= 1


def test_versions_and_moves_come_with_aliases_and_reasons(here: Home):
    history = read(here)
    newest = next(iter(history.versions.values()))
    assert "challenger" in newest.aliases
    assert history.runs[newest.run].steps["ppo"].outputs["models/policy/model"] == newest.md5
    assert history.moves[0].when >= history.moves[-1].when
    champions = [move for move in history.moves if move.alias == "champion"]
    assert all("win rate" in move.reason for move in champions)


def test_what_was_read_once_is_there_at_once_and_without_the_store(here: Home):
    first = read(here)
    (here.folder / "mlflow.db").unlink()
    again = History(here)
    assert (again.runs, again.versions, again.moves) == (first.runs, first.versions, first.moves)
    assert again.graph.nodes == first.graph.nodes
    with pytest.raises(UserError, match=r"There is no MLflow store"):
        again.refresh()
    assert again.runs == first.runs


def test_nothing_new_changes_nothing(here: Home):
    history = read(here)
    before = (history.runs, history.versions, history.graph)
    history.refresh()
    assert all(now is then for now, then in zip((history.runs, history.versions, history.graph), before, strict=True))


def test_a_damaged_index_is_made_again(here: Home):
    first = read(here)
    (here.folder / "history.db").write_bytes(b"no database at all" * 100)
    assert History(here).runs == {}
    assert read(here).runs == first.runs


def test_an_index_of_another_store_is_made_again(here: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert History(here).runs == {}


def test_a_run_that_ends_after_newer_ones_ended_is_seen_to_end(here: Home):
    slow, quick = (pipeline(here, f"20990101-00000{number}-aaaaaa") for number in (1, 2))
    quick.end("FINISHED")
    history = read(here)
    assert [run.status for run in list(history.runs.values())[:2]] == ["finished", "running"]
    slow.tags({"status": "failed"})
    slow.end("FAILED")
    history.refresh()
    assert history.runs["20990101-000001-aaaaaa"].status == "failed"
    assert History(here).runs["20990101-000001-aaaaaa"].status == "failed"


def test_a_deleted_run_is_gone_and_comes_back_when_it_is_restored(here: Home, monkeypatch: pytest.MonkeyPatch):
    history = read(here)
    client = connect(here)
    oldest = list(history.runs.values())[-1]
    client.delete_run(oldest.mlflow_run)
    history.refresh()
    assert oldest.id not in history.runs
    assert oldest.id not in History(here).runs
    client.restore_run(oldest.mlflow_run)
    monkeypatch.setattr("plumbline.history.mlflow_reader.LOOK_BACK_SECONDS", 0.0)
    history.refresh()
    assert oldest.id in history.runs


def test_runs_that_are_deleted_are_noticed_however_full_the_trash_is(here: Home, monkeypatch: pytest.MonkeyPatch):
    """Many at once, and an old one by itself while newer ones are in the trash."""
    monkeypatch.setattr("plumbline.history.mlflow_reader.PAGE", 2)
    history = read(here)
    client, (*newer, oldest) = connect(here), history.runs.values()
    for run in newer[:5]:
        client.delete_run(run.mlflow_run)
    history.refresh()
    assert list(history.runs.values()) == [*newer[5:], oldest]
    client.delete_run(oldest.mlflow_run)
    for _ in range(3):
        history.refresh()
    assert list(history.runs.values()) == newer[5:]


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "nobody knows"])
def test_a_file_that_mlflow_does_not_give_now_is_asked_for_again(elsewhere: Home, monkeypatch: pytest.MonkeyPatch,
                                                                 listed: bool):
    """An artifact store of another machine fails once, in the midst of the runs: nothing is kept without its files."""
    failed: list[str] = []
    download, list_artifacts = MlflowClient.download_artifacts, MlflowClient.list_artifacts

    def fail_once(self: MlflowClient, run: str, path: str, folder: str) -> str:
        if path == "record/params.yaml" and not failed:
            failed.append(path)
            raise MlflowException("one of the artifacts could not be downloaded")
        return download(self, run, path, folder)

    def list_or_fail(self: MlflowClient, run: str, path: str | None) -> list[FileInfo]:
        if failed == ["record/params.yaml"] and not listed:
            failed.append("and its folder")
            raise MlflowException("503")
        return list_artifacts(self, run, path)

    monkeypatch.setattr(MlflowClient, "download_artifacts", fail_once)
    monkeypatch.setattr(MlflowClient, "list_artifacts", list_or_fail)
    monkeypatch.setattr(facts, "urlsplit", lambda _: urlsplit("s3://bucket"))
    history = History(elsewhere)
    with pytest.raises(UserError, match=r"MLflow has the file record/params.yaml of .* but does not give it now"):
        history.refresh()
    for _ in range(2):
        history.refresh()
    for seen in (history, History(elsewhere)):
        assert len(seen.runs) == RUNS
        assert all("ppo.kl_coef" in run.params and run.batches for run in seen.runs.values())


def test_a_workspace_that_comes_or_goes_is_noticed(elsewhere: Home):
    """As with `plumbline restore` and gc, long after the run has ended."""
    history = read(elsewhere)
    one = list(history.runs.values())[1]
    folder = make_folder(elsewhere.runs / one.id)
    history.refresh()
    assert [run.folder for run in history.runs.values() if run.folder] == [folder]
    shutil.rmtree(folder)
    history.refresh()
    assert history.runs[one.id] == one


class Bucket:
    """An artifact store of another machine, that has lost the files of some MLflow runs, or of all."""

    def __init__(self) -> None:
        self.lost: set[str] | None = set()
        """None for all."""
        self.asked: list[str] = []

    def without(self, run: str) -> bool:
        return self.lost is None or run in self.lost


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    store, download = Bucket(), MlflowClient.download_artifacts

    def get(self: MlflowClient, run: str, path: str, folder: str) -> str:
        if store.without(run):
            store.asked.append(run)
            raise MlflowException("NoSuchBucket")
        return download(self, run, path, folder)

    monkeypatch.setattr(MlflowClient, "download_artifacts", get)
    monkeypatch.setattr(RunArtifacts, "_may_have", lambda _, run, __: store.without(run.info.run_id))
    monkeypatch.setattr(facts, "urlsplit", lambda _: urlsplit("s3://bucket"))
    return store


@pytest.fixture
def whole(elsewhere: Home) -> History:
    """The history with everything, of which no index is left."""
    history = read(elsewhere)
    (elsewhere.folder / "history.db").unlink()
    return history


def test_a_run_that_cannot_be_read_is_left_out_and_comes_when_it_can(elsewhere: Home, whole: History, bucket: Bucket):
    """All others are there, and the registry; a server that starts meanwhile looks for the run, too."""
    one = list(whole.runs.values())[RUNS // 2]
    bucket.lost = {one.mlflow_run}
    history = History(elsewhere)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"of its run {one.mlflow_run}, .* NoSuchBucket. What cannot be read is"):
            history.refresh()
        assert list(history.runs) == [id for id in whole.runs if id != one.id]
        assert (history.versions, history.moves) == (whole.versions, whole.moves)
    later = History(elsewhere)
    assert one.id not in later.runs
    bucket.lost = set()
    for seen in (later, history):
        seen.refresh()
        assert list(seen.runs) == list(whole.runs)
    assert list(History(elsewhere).runs) == list(whole.runs)


def test_a_store_without_its_files_is_asked_for_a_few_runs_each_time_and_in_turn(
        elsewhere: Home, whole: History, bucket: Bucket):
    bucket.lost = None
    history, asked = History(elsewhere), list[list[str]]()
    for _ in range(4):
        with pytest.raises(UserError, match="NoSuchBucket"):
            history.refresh()
        asked.append(bucket.asked)
        bucket.asked = []
    assert [len(runs) for runs in asked] == [MOST_FAILURES] * 4
    assert len(set().union(*asked)) == 3 * MOST_FAILURES  # the first three once more, then the others
    assert not history.runs and history.versions == whole.versions
    bucket.lost = set()
    history.refresh()
    assert list(history.runs) == list(whole.runs)


def test_a_run_that_was_ended_in_mlflow_without_a_time_has_no_end(here: Home):
    name = "20990101-000000-aaaaaa"
    recording = pipeline(here, name)
    connect(here).update_run(recording.run_id, status="KILLED")
    assert connect(here).get_run(recording.run_id).info.end_time is None
    run = read(here).runs[name]
    assert (run.status, run.ended) == ("cancelled", None)


@pytest.mark.parametrize("kept", ["workspace", "record", "tags"])
def test_a_run_that_was_killed_is_not_called_cancelled(elsewhere: Home, kept: str):
    name = "20990101-000000-aaaaaa"
    recording = pipeline(elsewhere, name)
    record = RunRecord(id=name, created="2099-01-01T00:00:00+00:00", project="", pid=2**22 + 1,
                       host=socket.gethostname(), mlflow_run=recording.run_id, outbox=recording.outbox)
    record.save(make_folder(elsewhere.runs / name))
    assert mark_dead(elsewhere) == [name]
    if kept != "workspace":
        shutil.rmtree(elsewhere.runs / name)
    artifacts = Path(connect(elsewhere).get_run(recording.run_id).info.artifact_uri.removeprefix("file://"))
    if kept == "tags":
        (artifacts / "record/run.json").unlink()
    assert connect(elsewhere).get_run(recording.run_id).info.status == "KILLED"
    assert read(elsewhere).runs[name].status == "killed"


def test_a_stage_of_plain_dvc_repro_is_kept_apart(here: Home):
    alone = Recording(here, "base", {"plumbline.stage": "base", "plumbline.pipeline_run": "dvc repro"})
    alone.tags({"output.models/base/model": "0123456789abcdef.dir"})
    alone.end("FINISHED")
    history = read(here)
    (step,) = history.others.values()
    assert (step.stage, step.status, step.made_by) == ("base", "ran", None)
    assert history.graph.find("base", "0123456789abcdef").made_by is None


def test_runs_of_other_programs_are_left_alone_and_not_read_again(here: Home, monkeypatch: pytest.MonkeyPatch):
    client = connect(here)
    for _ in range(3):
        run = client.create_run(experiment(client, here))
        client.set_terminated(run.info.run_id)
    history = read(here)
    assert len(history.runs) == RUNS
    monkeypatch.setattr(History, "_facts", lambda *_: pytest.fail("read again"))
    history.refresh()
    History(here).refresh()


def test_a_run_that_was_recorded_with_tags_alone_is_readable(here: Home):
    made = next(iter(read(here).runs.values()))
    sft = made.steps["sft"]
    old = pipeline(here, "20250101-000000-aaaaaa", **{
        "stage.snapshot": "ran", "stage.snapshot.reason": "first run", "stage.sft": "reused",
        "stage.sft.reason": f"nothing changed since {made.id}", "stage.sft.run": sft.mlflow_run or "",
        "mlflow.source.git.commit": "abc", "git.dirty": "true"})
    old.end("FINISHED")
    run = read(here).runs["20250101-000000-aaaaaa"]
    assert (run.status, run.git_commit, run.git_dirty, run.trigger) == ("finished", "abc", True, "test")
    assert run.steps["snapshot"].made_by == run.id
    assert (run.steps["sft"].metrics, run.steps["sft"].made_by) == (sft.metrics, sft.made_by)
    assert run.params == sft.params


def test_a_manifest_of_another_version_leaves_its_run_without_batches_and_the_others_alone(here: Home, tmp_path: Path):
    name = "20261121-000000-0ffff0"
    old = tmp_path / "manifest.json"
    old.write_text(json.dumps({"digest": "d" * 64, "batches": [{"digest": "e" * 64, "source": "first.jsonl"}]}))
    recording = pipeline(here, name)
    connect(here).log_artifact(recording.run_id, str(old), "record")
    recording.end("FINISHED")
    runs = read(here).runs
    assert runs[name].batches == ()
    assert any(run.batches for run in runs.values())


@pytest.mark.parametrize(("pid", "began", "status"), [
    (os.getpid(), local_process(os.getpid()).began, "running"), (os.getpid(), None, "running"),
    (os.getpid(), 1, "killed"), (2**22 + 1, None, "killed")], ids=["lives", "of before", "number given again", "gone"])
def test_a_run_on_this_machine_lives_as_long_as_its_process(project: Path, tmp_path: Path, pid: int, began: int | None,
                                                            status: str):
    root = tmp_path / "checkout"
    root.mkdir()
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(project / file, root / file)
    for home in _home(project, root, tmp_path):
        name = "20990101-000000-aaaaaa"
        recording = pipeline(home, name)
        (home.runs / name).mkdir(parents=True)
        record = RunRecord(id=name, created="2099-01-01T00:00:00+00:00", project="", pid=pid, pid_began=began,
                           host=socket.gethostname(), until="sft", mlflow_run=recording.run_id)
        record.save(home.runs / name)
        history = read(home)
        assert history.runs[name].status == status
        steps = {step.stage: step.status for step in history.runs[name].steps.values()}
        waiting = {"snapshot": "running", "ingest": "waiting", "base": "waiting", "sft": "waiting"}
        assert steps == (waiting if status == "running" else {})
        Recording(home, "base", {"plumbline.stage": "base", "plumbline.pipeline_run": name,
                                          PARENT: recording.run_id})
        history.refresh()
        if status == "running":
            assert history.runs[name].steps["base"].status == "running"


def test_a_stage_that_was_recorded_while_the_store_was_away_is_found_by_the_id_that_stood_in(here: Home):
    made = Recording(here, "sft", {"plumbline.stage": "sft", "plumbline.pipeline_run": "dvc repro"})
    made.params({"sft.version": "7"})
    made.end("FINISHED")
    ours = connect(here).get_run(made.run_id).data.tags["plumbline.id"]
    run = pipeline(here, "20990101-000000-aaaaaa", **{"stage.sft": "ran", "stage.sft.run": ours})
    run.end("FINISHED")
    step = read(here).runs["20990101-000000-aaaaaa"].steps["sft"]
    assert (step.mlflow_run, step.version) == (made.run_id, "7")


def test_what_waited_for_the_store_appears_with_its_own_time(here: Home):
    history = read(here)
    for number in range(110):
        pipeline(here, f"20990101-0000{number:03}-aaaaaa").end("FINISHED")
    journal = here.waiting / "something" / WRITES
    journal.parent.mkdir(parents=True)
    journal.touch()
    history.refresh()
    late = "20250101-000000-aaaaaa"
    client = connect(here)
    run = client.create_run(experiment(client, here), start_time=1, run_name=late,
                            tags={"plumbline.pipeline_run": late})
    client.set_terminated(run.info.run_id)
    journal.unlink()
    history.refresh()
    assert list(history.runs)[-1] == late


def test_a_locked_store_is_an_error_that_says_so_and_what_is_known_stays(here: Home):
    history = read(here)
    runs = history.runs
    with sqlite3.connect(here.folder / "mlflow.db") as lock:
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="cannot be read"):
            history.refresh()
        lock.rollback()
    lock.close()
    assert history.runs is runs
    history.refresh()
