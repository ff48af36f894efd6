"""`plumbline run` from end to end: what runs, what is reused, and why."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from plumbline.config import load_params
from plumbline.project.digests import digest
from plumbline.project.dvc_yaml import lock_entry
from plumbline.project.run_record import read_record
from testing.fake_project import environment, newest, plumbline
from testing.in_process import command

pytestmark = [pytest.mark.slow]
STAGES = ["snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge", "ppo", "champion",
          "preference_eval", "promote"]


def run(root: Path, *arguments: str) -> dict[str, object]:
    done = plumbline(root, "run", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def statuses(found: dict[str, object]) -> dict[str, str]:
    return {name: stage["status"] for name, stage in found["stages"].items()}  # type: ignore[attr-defined]


def reasons(found: dict[str, object]) -> dict[str, str]:
    return {name: stage["reason"] for name, stage in found["stages"].items()}  # type: ignore[attr-defined]


def test_the_first_run_does_everything(project: Path) -> None:
    first = json.loads((project / "first.json").read_text())
    assert list(first["stages"]) == STAGES
    assert set(statuses(first).values()) == {"ran"}
    assert set(reasons(first).values()) == {"first run"}
    decision = first["results"]["reports/promote"]
    assert (decision["promoted"], decision["version"]) == (True, 1)


def test_mlflow_alone_tells_the_run(project: Path, tmp_path: Path) -> None:
    """What the pages and another machine read: the record, a tag for each stage, and the moves of the aliases."""
    folder = project / "runs" / json.loads((project / "first.json").read_text())["id"]
    record = read_record(folder)
    client = MlflowClient(f"sqlite:///{project / '.plumbline/mlflow.db'}")
    assert record.mlflow_run is not None
    kept = Path(client.download_artifacts(record.mlflow_run, "record", str(tmp_path)))
    for file in ("run.json", "params.yaml", "dvc.yaml", "dvc.lock", "data/snapshot/manifest.json"):
        assert (kept / Path(file).name).read_text() == (folder / file).read_text()
    tags = client.get_run(record.mlflow_run).data.tags
    assert {tags[f"stage.{stage}"] for stage in STAGES} == {"ran"}
    assert {tags[f"stage.{stage}.reason"] for stage in STAGES} == {"first run"}
    assert tags["stage.ppo.run"] == record.stages["ppo"].mlflow_run
    assert float(tags["stage.ppo.seconds"]) == record.stages["ppo"].seconds
    moves = [json.loads(value) for name, value in client.get_registered_model("policy").tags.items()
             if name.startswith("plumbline.move.")]
    champion = next(move for move in moves if move["alias"] == "champion" and move["after"] == 1)
    assert (champion["before"], champion["by"]) == (None, record.id)
    assert "win rate against SFT" in champion["reason"]


def test_a_run_and_its_stages_name_what_waits_for_mlflow_as_they_do_themselves(project: Path) -> None:
    """Whoever closes them after a kill adds to the same outbox, and not before it."""
    folder = project / "runs" / json.loads((project / "first.json").read_text())["id"]
    client, record = MlflowClient(f"sqlite:///{project / '.plumbline/mlflow.db'}"), read_record(folder)
    begun = [json.loads(file.open().readline()) for file in folder.glob("logs/*.progress.jsonl")]
    named = {record.mlflow_run: record.outbox, **{line["mlflow_run"]: line["outbox"] for line in begun}}
    assert len(named) == 1 + len(STAGES) - 2  # snapshot and champion are not recorded
    assert {run: client.get_run(str(run)).data.tags["plumbline.id"] for run in named} == named


def test_digests_in_receipts_are_those_of_dvc_lock(project: Path) -> None:
    workspace = project / "runs" / json.loads((project / "first.json").read_text())["id"]
    receipt = json.loads((workspace / "models/policy/receipt.json").read_text())
    entry = lock_entry(workspace, "ppo")
    assert entry is not None
    deps = {dep["path"]: dep["md5"] for dep in entry["deps"]}  # type: ignore[attr-defined]
    outs = {out["path"]: out["md5"] for out in entry["outs"]}  # type: ignore[attr-defined]
    assert receipt["inputs"] == {path: md5 for path, md5 in deps.items() if path in receipt["inputs"]}
    assert {path: output["md5"] for path, output in receipt["outputs"].items()} == {
        path: md5 for path, md5 in outs.items() if not path.endswith("receipt.json")}


def test_a_parameter_a_file_of_code_and_force_rerun_their_stages_and_what_follows(project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project / '.plumbline/mlflow.db'}")
    before = int(client.get_model_version_by_alias("policy", "champion").version)
    file = project / "tasks" / "reward_eval.py"
    code, clip = file.read_text(), load_params(newest(project)).ppo.clip
    file.write_text(code + "\n# a change\n")
    try:
        changed = run(project, "--set", "ppo.clip=0.3", "--force", "sft")
    finally:
        file.write_text(code)
    assert statuses(changed) == dict.fromkeys(STAGES, "ran") | {
        "snapshot": "reused", "ingest": "reused", "base": "reused", "judge": "reused",
        "reward_model": "reused"}  # from a forced sft the same bytes came out
    assert reasons(changed)["sft"] == "forced"
    assert reasons(changed)["reward_eval"] == "code tasks/reward_eval.py changed"
    assert reasons(changed)["ppo"] == f"parameter ppo.clip {clip:g} -> 0.3"
    assert reasons(changed)["preference_eval"] == ("input models/champion changed (champion.json, "
        "model/model.safetensors); input models/policy/model changed (model.safetensors)")
    decision = changed["results"]["reports/promote"]  # type: ignore[index]
    assert (decision["promoted"], decision["version"], decision["compared_with"]) == (True, before + 1, before)
    # The new champion is not evaluated against itself, and the code of before has its results still.
    again = run(project, "--set", "ppo.clip=0.3")
    assert set(statuses(again).values()) == {"reused"}
    assert all(reason.startswith("nothing changed since ") for reason in reasons(again).values())


@pytest.mark.evidence
def test_what_went_wrong_with_a_training_is_told_as_its_stage_ends(project: Path) -> None:
    file = project / "tasks/base.py"
    code = file.read_text()
    file.write_text(code.replace("range(1, 2 + 1)", "range(1, 12 + 1)").replace('1.0 / step}, "training"', "1.0}"))
    try:
        done = plumbline(project, "run", "--until", "base")
    finally:
        file.write_text(code)
    assert done.returncode == 0, done.stderr
    told = "base: loss does not fall: The loss is 1 at steps 1 to 3, and 1 at steps 10 to 12."
    assert f"\n{told}" in done.stdout and f"diagnosis of {told}" in done.stdout
    shown = json.loads(plumbline(project, "show", "latest", "--json").stdout)
    assert [finding["name"] for finding in shown["diagnosis"]["base"]] == ["loss does not fall"]


@pytest.mark.evidence
def test_going_back_reuses_what_the_first_run_made(project: Path) -> None:
    assert statuses(run(project, "--set", "ppo.clip=0.4"))["ppo"] == "ran"
    assert set(statuses(run(project)).values()) == {"reused"}


def test_a_failed_gate_stops_before_ppo(project: Path) -> None:
    done = plumbline(project, "run", "--set", "reward_eval.min_accuracy=0.9")
    assert done.returncode == 3
    assert "accuracy 0.70 is too low" in done.stderr
    assert "Traceback" not in done.stderr
    shown = json.loads(command(project, "show", "latest", "--json").stdout)
    assert shown["status"] == "failed"
    assert "ppo" not in shown["stages"]


def test_bad_input_is_one_paragraph(project: Path) -> None:
    for arguments, words in ((["--set", "ppo.max_response=4000"], "tokens, but ppo.max_prompt + ppo.max_response is"),
                             (["--set", "snapshot.sources=[missing.jsonl]"], "missing.jsonl does not exist")):
        done = plumbline(project, "run", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.evidence
def test_plain_dvc_repro_gives_the_same_outputs(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=project, env=environment(), check=True)
    workspace = project / "runs" / json.loads((project / "first.json").read_text())["id"]
    for folder in ("data/prepared", *(f"models/{name}/model" for name in ("base", "sft", "reward", "policy"))):
        assert digest(project / folder) == digest(workspace / folder)
    # The checkout shares the cache: what the run had done was restored, down to the receipt.
    receipt = json.loads((project / "models/policy/receipt.json").read_text())
    assert receipt["pipeline_run"] == workspace.name


def test_plain_dvc_repro_from_nothing(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "alone"
    shutil.copytree(project, root, ignore=shutil.ignore_patterns("runs", ".plumbline", "data", "models", "reports",
                                                                "dvc.lock", "tmp"))
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "base"], cwd=root, env=environment(), check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    workspace = project / "runs" / json.loads((project / "first.json").read_text())["id"]
    for file in ("model", "metrics.json", "curves.jsonl"):
        assert digest(root / "models/base" / file) == digest(workspace / "models/base" / file)
    assert json.loads((root / "models/base/receipt.json").read_text())["pipeline_run"] is None
