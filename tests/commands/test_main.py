"""The command line as a user meets it, without running the pipeline: tests/flows does that."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.commands import output
from plumbline.project.home import Home
from plumbline.project.run_record import Outcome, RunRecord
from plumbline.project.service_lock import only_one
from plumbline.service.state import PartState, ServiceState
from testing.fake_project import CHECKOUT
from testing.in_process import command


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / file).write_text((CHECKOUT / file).read_text())
    return tmp_path


def plumbline(folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return command(folder, *arguments, COLUMNS="120", **more)


@pytest.mark.parametrize("command", ["run", "runs", "show", "doctor"])
def test_help_has_examples(project: Path, command: str) -> None:
    done = plumbline(project, command, "--help")
    assert done.returncode == 0
    assert f"plumbline {command}" in done.stdout.split("Examples:")[1]
    assert "--json" in done.stdout


CONFLICT = "<<<<<<< HEAD\nstages:\n=======\nstages: {}\n>>>>>>> theirs\n"


@pytest.mark.parametrize(("arguments", "files", "words"), [
    (["run", "--set", "ppo.kl_coeff=0.1"], {}, "closest that exists is `ppo.kl_coef`"),
    (["run", "--set", "ppo.updates=many"], {}, "`ppo.updates` is 'many'"),
    (["run", "--set", "ingest.split_salt=2026-99-99"], {}, "--set ingest.split_salt=2026-99-99 is not valid YAML"),
    (["run", "--set", "candidates.mine.method=[dpo]"], {}, "candidates.mine.method is ['dpo'], but must be one of ppo"),
    (["run", "--until", "rewardmodel"], {}, "Did you mean `reward_model`?"),
    (["run", "--force", "pp"], {}, "Did you mean `ppo`?"),
    (["run", "--params", "missing.yaml"], {}, "missing.yaml does not exist"),
    (["run", "--params", "more.yaml"], {"more.yaml": "ingest: {split_salt: 2026-99-99}"}, "cannot be read as YAML"),
    (["show", "latest"], {}, "There are no runs"),
    (["run"], {"dvc.yaml": CONFLICT}, "dvc.yaml cannot be read as YAML"),
    (["models"], {"dvc.yaml": CONFLICT}, "dvc.yaml cannot be read as YAML"),
    (["run"], {"dvc.yaml": ""}, "dvc.yaml must hold a block `stages:`"),
    (["run"], {"dvc.yaml": "stages: [base]"}, "dvc.yaml must hold a block `stages:`"),
    (["run"], {"dvc.yaml": "stages: {base: {deps: [code.py]}}"}, "of the stage `base` which command it runs"),
    (["run"], {"dvc.yaml": "stages: {many: {foreach: [a], outs: [b]}}"}, "of the stage `many@a` which command it runs"),
    (["PLUMBLINE_HOME=dvc.yaml", "models"], {}, "dvc.yaml cannot be used: File exists. See whose it is"),
    (["PLUMBLINE_HOME=dvc.yaml/home", "models"], {}, "dvc.yaml/home cannot be used: Not a directory"),
])
def test_a_mistake_is_one_paragraph_and_exit_status_2(project: Path, arguments: list[str], files: dict[str, str],
                                                      words: str) -> None:
    """Arguments such as `A=b` before the command are the user's environment; `files` are what they have spoilt."""
    for name, text in files.items():
        (project / name).write_text(text)
    given = [one for one in arguments[:1] if "=" in one]
    done = plumbline(project, *arguments[len(given):], **dict(one.split("=", 1) for one in given))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (project / "runs").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_may_not_be_written_is_named(project: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whoever runs these tests may write anywhere, so it is the system's answer alone."""
    def refuse(_: Home) -> None:
        raise OSError(number, os.strerror(number), "/srv/home")

    monkeypatch.setattr(output, "enter", refuse)
    done = plumbline(project, "models")
    assert done.returncode == 2
    assert f"/srv/home cannot be used: {os.strerror(number)}" in done.stderr and "PLUMBLINE_HOME" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_line_answers_before_anything_slow_is_imported() -> None:
    slow = {"pydantic", "torch", "mlflow", "prefect", "dvc", "plumbline.config"}
    code = f"import sys, plumbline.commands.main; sys.exit(bool({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, timeout=60).returncode == 0


def test_outside_of_a_project(tmp_path: Path) -> None:
    done = plumbline(tmp_path, "runs")
    assert done.returncode == 2
    assert "not inside a Plumbline project" in done.stderr


def test_an_unknown_option(project: Path) -> None:
    done = plumbline(project, "run", "--sett", "a=b")
    assert done.returncode == 2
    assert "--set" in done.stderr


def test_the_address_that_signs_in_is_that_of_the_service(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUMBLINE_HOME", raising=False)
    home, pages = project / ".plumbline", PartState("pages", "http://127.0.0.1:4281/", status="up")

    def shown(*options: str) -> str:
        return plumbline(project, "ui", "--show-token", *options).stdout.partition("?token=")[0]

    with only_one(home):
        ServiceState(os.getpid(), socket.gethostname(), "", [PartState("worker"), pages]).save(home)
        assert shown() == "http://127.0.0.1:4281/"
        assert shown("--port", "4280") == "http://127.0.0.1:4280/", "another one is asked for"
        assert shown("--host", "there") == "http://there:4280/"
        ServiceState(os.getpid(), "elsewhere", "", [pages]).save(home)
        assert shown() == "http://127.0.0.1:4280/"
    ServiceState(os.getpid(), socket.gethostname(), "", [pages]).save(home)
    assert shown() == "http://127.0.0.1:4280/", "it is not up any more"


def make_run(project: Path) -> RunRecord:
    folder = project / "runs/20260101-000000-aaaaaa"
    (folder / "reports/preference").mkdir(parents=True)
    rates = {"": 0.8, "_low": 0.75, "_high": 0.85, "_n": 400}
    (folder / "reports/preference/metrics.json").write_text(
        json.dumps({f"win_rate_vs_sft{part}": rate for part, rate in rates.items()}))
    record = RunRecord(id=folder.name, created="2026-01-01T00:00:00+00:00", project=str(project), pid=os.getpid(),
                       host=socket.gethostname(), status="finished", settings=["ppo.clip=0.3"], stages={
                           "sft": Outcome(status="reused", seconds=0.1, reason="nothing changed since yesterday"),
                           "preference_eval": Outcome(status="ran", seconds=2, reason="parameter [a] 1 -> 2")})
    record.save(folder)
    return record


def test_runs_and_show(project: Path) -> None:
    record = make_run(project)
    inside = project / "runs" / record.id  # a workspace is inside its project
    listed = plumbline(inside, "runs")
    assert record.id in listed.stdout
    assert "ppo.clip=0.3" in listed.stdout
    assert json.loads(plumbline(project, "runs", "--json").stdout)[0]["id"] == record.id
    shown = plumbline(project, "show", "2026").stdout
    assert "parameter [a] 1 -> 2" in shown
    assert "win rate against SFT: 0.800 [0.750, 0.850], n = 400" in shown
    as_json = json.loads(plumbline(project, "show", "latest", "--json").stdout)
    assert as_json["stages"]["sft"]["status"] == "reused"
    assert as_json["results"]["reports/preference"]["win_rate_vs_sft_n"] == 400


def test_damaged_figures_of_a_run_are_left_out(project: Path) -> None:
    """As a full disk or a power loss leaves them."""
    folder = project / "runs" / make_run(project).id
    for text in ("", "[]", '{"win'):
        (folder / "reports/preference/metrics.json").write_text(text)
        shown = plumbline(project, "show", "latest")
        assert shown.returncode == 0 and "win rate" not in shown.stdout, shown.stderr
        as_json = plumbline(project, "show", "latest", "--json")
        assert json.loads(as_json.stdout)["results"] == {"reports/preference": {}}, as_json.stderr
    (folder / "comparison").mkdir()
    (folder / "comparison/comparison.json").touch()
    assert plumbline(project, "show", "latest").returncode == 0
    assert "comparison" not in json.loads(plumbline(project, "show", "latest", "--json").stdout)
    (folder / "dvc.yaml").write_text((project / "dvc.yaml").read_text())
    (folder / "params.yaml").write_text((project / "params.yaml").read_text())
    (folder / "models/sft").mkdir(parents=True)
    (folder / "models/sft/receipt.json").touch()
    shown = plumbline(project, "show", "latest")
    assert shown.returncode == 2 and "receipt.json is damaged" in shown.stderr and "Traceback" not in shown.stderr


def test_a_damaged_record_costs_its_run_and_nothing_else(project: Path) -> None:
    spoil = b'{"id": "2026'
    record = make_run(project)
    damaged = project / "runs/20260102-000000-bbbbbb"
    damaged.mkdir()
    (damaged / "run.json").write_bytes(spoil)
    (project / ".plumbline").mkdir()
    (project / ".plumbline/not_run.jsonl").write_bytes(spoil + b"\n" + json.dumps(
        {"when": "2026-01-03T00:00:00+00:00", "trigger": "schedule", "reason": "too little is new"}).encode())
    words = f"{damaged / 'run.json'} is damaged"
    listed = plumbline(project, "runs")
    assert (listed.returncode, record.id in listed.stdout, listed.stderr.count(words)) == (0, True, 1)
    assert "too little is new" in listed.stdout
    as_json = plumbline(project, "runs", "--json")
    assert [one["id"] for one in json.loads(as_json.stdout)] == [record.id] and words in as_json.stderr
    status = plumbline(project, "status")
    assert words in status.stdout and "A run is due" in status.stdout and "Traceback" not in status.stderr
    shown = plumbline(project, "show", "latest")
    assert shown.returncode == 2 and words in shown.stderr


def test_a_prefect_server_that_is_gone_is_said_before_anything_begins(project: Path) -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        for url, why in ((gone, "refused"), ("nonsense", "unknown url type")):
            done = plumbline(project, "run", PREFECT_API_URL=url)
            assert done.returncode == 2
            assert f"Prefect's server at {url} does not answer" in done.stderr and why in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
        assert not (project / "runs").exists()
        assert "A run is due" in plumbline(project, "status", PREFECT_API_URL=gone).stdout


def test_doctor_where_variables_of_prefect_are_empty(project: Path) -> None:
    """As in a shell that has taken them back: empty is as if they were not set."""
    done = plumbline(project, "doctor", PREFECT_API_URL="", PREFECT_HOME="")
    assert f"each command starts its own; state in {project / '.plumbline/prefect'}" in done.stdout, done.stderr
    assert done.returncode == 0


def test_doctor(project: Path) -> None:
    done = plumbline(project, "doctor", "--json")
    found = {finding["about"]: finding["status"] for finding in json.loads(done.stdout)}
    assert {"python", "prefect", "fastapi", "sqlalchemy", "torch", "disk", "mlflow store", "hub"} <= set(found)
    assert found["fastapi"] == found["sqlalchemy"] == "ok"
    assert done.returncode == 0
