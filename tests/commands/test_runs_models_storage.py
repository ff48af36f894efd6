"""`plumbline models`, `promote`, `rollback`, `pin`, `gc`, `cancel`, `restore`, `push`, `pull` as a user meets them."""

import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from plumbline.commands import models
from plumbline.commands.main import app
from plumbline.commands.runs import runs_app
from plumbline.config import load_params
from plumbline.config.blocks import DirectParams
from plumbline.config.methods import IlqlParams
from plumbline.errors import UserError
from plumbline.project.digests import digest
from plumbline.project.home import Home, enter
from plumbline.project.processes import local_process
from plumbline.project.run_record import RunRecord, raw_record
from plumbline.runs.pipeline import resolve
from plumbline.runs.preflight import _lengths_agree
from plumbline.runs.workspace import Request
from plumbline.storage.push_pull import Pulled, pull
from plumbline.tracking.recording import Recording
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import connect, prepare
from testing.fake_project import CHECKOUT

COMMANDS = ("restore", "push", "pull", "models", "promote", "rollback", "retry", "cancel", "pin", "unpin", "gc")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A project with two registered versions, and no runs."""
    root = tmp_path_factory.mktemp("made")
    before = dict(os.environ)
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(CHECKOUT / file, root / file)
    home = Home(root, root / ".plumbline")
    enter(home)
    repository = Repo.init(str(root), no_scm=True)
    with repository.config.edit() as config:
        config["cache"]["dir"] = str(home.cache)
    shutil.copy(mlflow_database, home.folder)
    prepare(home)
    for number in (1, 2):
        (root / f"model{number}").mkdir()
        (root / f"model{number}/model.safetensors").write_text(f"weights {number}")
        Repo(str(root)).add([str(root / f"model{number}")])
        md5 = digest(root / f"model{number}")
        recording = Recording(home, "ppo", {})
        registry = Registry.open(home, "policy")
        version = registry.register(md5, recording.model("policy", {"dvc.md5": md5}), recording.run_id, None, {})
        registry.make_champion(version.version, "a test", "tester")
    os.environ.clear()
    os.environ.update(before)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of it, entered."""
    root = tmp_path / "project"
    shutil.copytree(made, root)
    (root / ".dvc/config").write_text((root / ".dvc/config").read_text().replace(str(made), str(root)))
    before = dict(os.environ)
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    monkeypatch.chdir(root)
    yield Home(root, root / ".plumbline")
    os.environ.clear()
    os.environ.update(before)


def plumbline(*arguments: str) -> str:
    """What a command prints. Raises what it raises."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def a_run(home: Home, name: str, **more: object) -> Path:
    folder = home.runs / name
    folder.mkdir(parents=True)
    values = {"id": name, "created": "2026-01-01T00:00:00+00:00", "project": str(home.root), "pid": 1,
              "host": "elsewhere", "status": "failed", **more}
    RunRecord.model_validate(values).save(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert f"plumbline {command}" in done.stdout.split("Examples:")[1]
    assert "--json" in done.stdout


def examples_of(command: str) -> list[list[str]]:
    """The examples of a command's help, as words."""
    about, = (one for one in runs_app.registered_commands if one.callback and one.callback.__name__ == command)
    return [shlex.split(line)[1:] for line in str(about.epilog).splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("example", [*examples_of("run"), *examples_of("compare")], ids=" ".join)
def test_every_example_of_the_help_is_a_run_that_can_start(example: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr("plumbline.commands.run.run_pipeline", lambda home, request, *_: asked.append(request))
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("PLUMBLINE_HOME", "/nowhere/plumbline")  # which nothing makes
    plumbline(*example)
    request, = asked
    params = resolve(Home(CHECKOUT, Path("/nowhere/plumbline")), request)
    _lengths_agree(params)
    assert list(params.compare) == request.compare


def test_what_ilql_wants_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    said = " ".join(CliRunner().invoke(app, ["compare", "--help"]).stdout.split())
    own = [name for name in IlqlParams.model_fields if name not in DirectParams.model_fields]
    assert f"gives it {', '.join(own[:-1])} and {own[-1]}." in said
    assert "ilql" not in load_params(CHECKOUT).candidates


@pytest.mark.parametrize("command", [["show"], ["retry"], ["restore"], ["cancel"], ["feedback", "judge"]], ids=" ".join)
def test_without_runs_latest_is_none(project: Home, command: list[str]) -> None:
    with pytest.raises(UserError, match=r"^There are no runs.* yet.* Start one with `plumbline run`"):
        plumbline(*command, "latest")


def test_the_versions_are_listed(project: Home) -> None:
    newest, oldest = json.loads(plumbline("models", "--json"))
    assert (newest["version"], newest["aliases"], newest["rating"]) == (2, ["champion"], None)
    assert (oldest["version"], oldest["aliases"]) == (1, ["previous"])
    assert "champion" in plumbline("models") and "SFT is 0" in plumbline("models")


def test_without_versions_there_is_a_hint(tmp_path: Path, project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copy(project.root / file, tmp_path / "new" / file)
    monkeypatch.chdir(tmp_path / "new")
    assert "`plumbline run`" in plumbline("models")


def test_roll_back_and_promote(project: Home) -> None:
    assert "Version 1 of `policy` is champion now; before it was version 2." in plumbline(
        "rollback", "--reason", "it swears", "--yes")
    found = json.loads(plumbline("promote", "2", "--reason", "it does not", "--yes", "--json"))
    assert found == {"name": "policy", "before": 1, "champion": 2}
    tags = connect(project).get_registered_model("policy").tags
    moves = [json.loads(tags[name]) for name in sorted(tags) if name.startswith("plumbline.move.")]
    assert (moves[-1]["reason"], moves[-2]["reason"]) == ("it does not", "version 2 became champion")
    assert moves[-1]["by"].endswith(f"@{socket.gethostname()}")


@pytest.mark.parametrize("change", [["promote", "1"], ["rollback"]])
def test_with_a_mistake_in_params_yaml_no_champion_is_changed(project: Home, change: list[str]) -> None:
    with (project.root / "params.yaml").open("a") as out:
        out.write("unknown: 1\n")
    with pytest.raises(UserError, match="there is no parameter `unknown`"):
        plumbline(*change, "--reason", "it swears", "--yes")
    champion = Registry.open(project, "policy").champion()
    assert champion and champion.version == 2


def test_a_champion_that_came_while_the_question_was_asked_is_not_replaced(project: Home,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there was none to begin with."""
    registry = Registry.open(project, "policy")
    connect(project).delete_registered_model_alias("policy", "champion")
    monkeypatch.setattr(models, "confirm", lambda *_: registry.make_champion(1, "a run did it", "run 3"))
    with pytest.raises(UserError, match="expected none, found version 1"):
        plumbline("promote", "2", "--reason", "it is kind")
    champion = registry.champion()
    assert champion and champion.version == 1


def test_nobody_is_asked_where_nobody_can_answer(project: Home) -> None:
    for command in (["rollback", "--reason", "it swears"], ["promote", "1", "--reason", "why not"], ["gc"]):
        with pytest.raises(UserError, match="Nobody is here to answer: say --yes"):
            plumbline(*command)
    champion = Registry.open(project, "policy").champion()
    assert champion and champion.version == 2


def test_gc_says_what_it_would_do(project: Home) -> None:
    a_run(project, "20260101-000001-aaaaaa")
    a_run(project, "20260101-000002-bbbbbb")
    plumbline("pin", "20260101-000001", "--reason", "the paper cites it")
    printed = plumbline("gc", "--runs", "1", "--dry-run")
    assert "keeps 20260101-000001-aaaaaa: it is pinned: the paper cites it" in printed
    assert "keeps 20260101-000002-bbbbbb: it is one of the newest 1" in printed
    assert "would free 0 workspaces" in printed
    plumbline("unpin", "20260101-000001")
    found = json.loads(plumbline("gc", "--runs", "1", "--dry-run", "--json"))
    assert (found["runs"], found["dry_run"]) == (["20260101-000001-aaaaaa"], True)
    assert len(list(project.runs.iterdir())) == 2
    plumbline("gc", "--runs", "1", "--yes")
    assert [folder.name for folder in project.runs.iterdir()] == ["20260101-000002-bbbbbb"]
    # Both versions have an alias: what they are made of is still there.
    plumbline("rollback", "--reason", "it swears", "--yes")


def test_a_run_that_was_killed_can_be_pinned_and_one_that_goes_on_cannot(project: Home) -> None:
    goes_on = local_process(os.getpid())
    killed, going = (a_run(project, f"20260101-00000{number}-aaaaaa", status="running", host=goes_on.host, pid=pid,
                           pid_began=began)
                     for number, (pid, began) in enumerate([(2**22 + 1, None), (goes_on.pid, goes_on.began)]))
    assert "is pinned: the paper cites it" in plumbline("pin", killed.name, "--reason", "the paper cites it")
    assert raw_record(killed).pinned == "the paper cites it"
    with pytest.raises(UserError, match="is still going on"):
        plumbline("pin", going.name)


def test_a_run_of_another_machine_cannot_be_cancelled_here(project: Home) -> None:
    a_run(project, "20260101-000001-aaaaaa", status="running")
    with pytest.raises(UserError, match="belongs to elsewhere"):
        plumbline("cancel", "latest")
    a_run(project, "20260101-000002-bbbbbb", status="cancelled")
    with pytest.raises(UserError, match="is not going on: it is cancelled"):
        plumbline("cancel", "latest")


def test_a_run_whose_machine_is_gone_for_good_is_closed_because_a_person_says_so(project: Home) -> None:
    a_run(project, "20260101-000001-aaaaaa", status="running")
    with pytest.raises(UserError, match=r"`plumbline cancel 20260101-000001-aaaaaa --gone` closes the run"):
        plumbline("cancel", "latest")
    assert "has ended: killed" in plumbline("cancel", "latest", "--gone")
    assert raw_record(project.runs / "20260101-000001-aaaaaa").status == "killed"


def test_a_fresh_clone_can_pull_before_its_first_run(tmp_path: Path) -> None:
    """Batches need no MLflow, and without a store there are no aliases to follow."""
    home = Home(tmp_path, tmp_path / ".plumbline")
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    with Repo.init(str(tmp_path), no_scm=True).config.edit() as config:
        config["remote"]["store"] = {"url": str(tmp_path / "remote")}
        config["core"]["remote"] = "store"
    assert pull(home, None) == Pulled([], [])


def test_what_cannot_be_restored_or_moved_is_named(project: Home) -> None:
    with pytest.raises(UserError, match="No run's id begins with `2026`"):
        plumbline("restore", "2026")
    for command in (["push"], ["pull"]):
        with pytest.raises(UserError, match="no DVC remote"):
            plumbline(*command)
