"""What is sent to Kubernetes, against its own schemas, which are strict about fields that do not exist."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ruamel.yaml import YAML

from plumbline.compute import kubernetes
from plumbline.compute.kubernetes import PodJob, filled, main, read_template, service_of
from plumbline.errors import UserError
from testing.imports import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="an optional dependency `dev` is not installed")
trainer_models = pytest.importorskip("kubeflow_trainer_api.models")
LAUNCHERS = ROOT / "deploy/launchers"
VERSIONS = ("1.32", "1.37")
COMMAND = ["python", "-m", "plumbline.compute.agent", "ppo", "--processes", "8"]
VARIABLES = {"PLUMBLINE_HOME": "/plumbline/.plumbline", "PYTHONPATH": "/plumbline/runs/a", "HOME": "/root",
             "HF_HOME": "/plumbline/hub"}
SECRETS = dict.fromkeys((
    "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PLUMBLINE_JUDGE_API_KEY", "PLUMBLINE_WEBHOOK_SECRET", "PLUMBLINE_PASSWORD",
    "PLUMBLINE_FEEDBACK_URL"), "Open-Sesame")
FOLDER = Path("/plumbline/runs/a")


def sent(template: str) -> dict:
    return filled(read_template(LAUNCHERS / template), "plumbline-0a1b2c3d", 2, COMMAND, VARIABLES | SECRETS, FOLDER)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_and_its_service_are_valid(version: str) -> None:
    job = sent("kubernetes-job.yaml")
    kubernetes_validate.validate(job, version, strict=True)
    created = {**job, "metadata": {**job["metadata"], "uid": "0123"}}
    kubernetes_validate.validate(service_of(created), version, strict=True)
    job["spec"]["template"]["spec"]["completions"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, version, strict=True)


def test_the_train_job_is_valid() -> None:
    job = sent("kubernetes-trainjob.yaml")
    parsed = trainer_models.TrainerV1alpha1TrainJob.from_dict(job)
    assert json.loads(json.dumps(parsed.to_dict())) == json.loads(json.dumps(job)), "no field is unknown to it"


@pytest.mark.parametrize("template", ["kubernetes-job.yaml", "kubernetes-trainjob.yaml"])
def test_the_command_the_folder_and_our_variables_are_in_it_and_no_key(template: str) -> None:
    text = json.dumps(sent(template))
    assert json.dumps(["sh", "-c", 'cd "$0" && exec "$@"', str(FOLDER), *COMMAND]) in text
    assert "PLUMBLINE_HOME" in text and "HF_HOME" in text
    assert "Open-Sesame" not in text
    given = SECRETS.keys() & {one["name"] for one in variables_of(sent(template))}
    assert not given, "an empty one would hide the Secret's"


def variables_of(job: dict) -> list[dict]:
    if job["kind"] == "TrainJob":
        return job["spec"]["trainer"]["env"]
    return job["spec"]["template"]["spec"]["containers"][0]["env"]


def test_keys_come_from_a_secret_that_the_template_names() -> None:
    pod = sent("kubernetes-job.yaml")["spec"]["template"]["spec"]["containers"][0]
    assert pod["envFrom"] == [{"secretRef": {"name": "plumbline", "optional": True}}]
    template = read_template(LAUNCHERS / "kubernetes-trainjob.yaml")
    line = next(line for line in (LAUNCHERS / "kubernetes-trainjob.yaml").read_text().splitlines() if "# env:" in line)
    template["spec"]["trainer"] |= YAML(typ="safe").load(line.replace("#", ""))
    job = filled(template, "plumbline-0a1b2c3d", 2, COMMAND, VARIABLES, FOLDER)
    assert job["spec"]["trainer"]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "plumbline"
    parsed = trainer_models.TrainerV1alpha1TrainJob.from_dict(job)
    assert json.loads(json.dumps(parsed.to_dict())) == json.loads(json.dumps(job)), "no field is unknown to it"


def test_one_pod_that_fails_fails_all() -> None:
    spec = sent("kubernetes-job.yaml")["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 2, 2)
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(("text", "words"), [
    ("kind: Pod", "must be a Job or a TrainJob"), ("a: [", "cannot be read"),
    ("kind: Job", "is a Job without `spec.template.spec.containers.0`, which gets the command; found None there"),
    ("kind: Job\nspec: {template: {spec: {containers: []}}}", "is a Job without"),
    ("kind: Job\nspec: {template: {spec: {containers: [ranks]}}}", "found 'ranks' there"),
    ("kind: TrainJob\nspec:", "is a TrainJob without `spec`")])
def test_a_template_that_is_none(tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_template(file)
    assert main([str(file), "true"]) == UserError.exit_code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", [
    "kind: Job\nmetadata:\nspec: {template: {spec: {containers: [{name: ranks, env: }]}}}",
    "kind: TrainJob\nmetadata:\nspec: {trainer: {env: }}", "kind: TrainJob\nspec: {trainer: }"])
def test_what_a_template_leaves_empty_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    job = filled(read_template(tmp_path / "job.yaml"), "plumbline-0", 2, COMMAND, {"HF_HOME": "/hub"}, FOLDER)
    assert variables_of(job)[0] == {"name": "HF_HOME", "value": "/hub"}
    assert job["metadata"] == {"name": "plumbline-0"}


def answering(job: PodJob, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[int, str, str]]) -> None:
    """Let kubectl end with these statuses, outputs and errors, one after the other."""
    given = iter(answers)
    monkeypatch.setattr(job, "_kubectl", lambda *_, **__: CompletedProcess([], *next(given)))


def test_kubectl_that_fails_says_so_and_not_for_ever(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    job, now = PodJob({"kind": "Job", "metadata": {"name": "plumbline-0"}}), {"now": 0.0}
    monkeypatch.setattr(kubernetes.time, "monotonic", lambda: now["now"])
    refused, forbidden = (1, "", "E1128 14:55:01.2 memcache.go\nThe connection was refused\n"), (1, "", "Forbidden")
    going_on = (0, json.dumps({"status": {}}), "")
    answering(job, monkeypatch, [refused, refused, going_on, forbidden, forbidden, forbidden])
    for seconds in (0.0, 899.0, 901.0, 1000.0, 1899.0):
        now["now"] = seconds
        assert job._succeeded() is None
    assert capsys.readouterr().err == "kubectl: The connection was refused\nkubectl: Forbidden\n"
    now["now"] = 1900.0
    with pytest.raises(UserError, match="the Job plumbline-0 goes on, and has failed for 15 minutes: Forbidden"):
        job._succeeded()


def test_what_pods_wait_for_is_said_when_it_changes(monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    job = PodJob({"kind": "Job", "metadata": {"name": "plumbline-0"}})
    no_room = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                               "message": "0/3 nodes are available"}]}
    image = {"conditions": [{"type": "PodScheduled", "status": "True"}],
             "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    looks = [[no_room, {}], [no_room, no_room], [image, no_room]]
    answering(job, monkeypatch, [(0, json.dumps({"items": [
        {"metadata": {"name": f"pod-{i}", "labels": {kubernetes.INDEX: str(i)}}, "status": {"phase": "Pending", **one}}
        for i, one in enumerate(look)]}), "") for look in looks])
    for _ in looks:
        job._follow_log()
    words = "Unschedulable: 0/3 nodes are available\n"
    assert capsys.readouterr().err == f"pod-0: {words}pod-1: {words}pod-0: ImagePullBackOff\n"
    assert job._log is None


class Stream:
    """`kubectl logs --follow`, which ends when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks >= 0 else 0

    def wait(self, _seconds: float) -> None:
        """It has ended."""


@pytest.mark.parametrize(("phase", "since"), [
    ("Running", [None, "t4"]),  # seen alive at t3 and t4, broken at t5
    ("Succeeded", [None])])
def test_a_log_that_broke_goes_on_from_when_it_was_last_seen_alive(monkeypatch: pytest.MonkeyPatch, phase: str,
                                                                  since: list[str | None]) -> None:
    job = PodJob({"kind": "Job", "metadata": {"name": "plumbline-0a1b2c3d"}})
    looks, begun = iter(range(1, 8)), []
    now = {"t": 0, "phase": "Pending"}

    def succeeded() -> bool | None:
        now["t"] = next(looks)
        now["phase"] = {1: "Pending", 2: "Running"}.get(now["t"], phase)
        return True if now["t"] == 7 else None

    def follow(command: list[str], **_: object) -> Stream:
        begun.append(next((word.partition("=")[2] for word in command if word.startswith("--since-time=")), None))
        return Stream(2 if len(begun) == 1 else 9)

    monkeypatch.setattr(job, "_succeeded", succeeded)
    monkeypatch.setattr(job, "_pods", lambda: [
        {"status": {"phase": now["phase"] if index == "0" else "Running"},
         "metadata": {"name": "pod", "labels": {kubernetes.INDEX: index}}} for index in ("1", "0")])
    monkeypatch.setattr(kubernetes, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(kubernetes, "_now", lambda: f"t{now['t']}")
    monkeypatch.setattr(kubernetes.subprocess, "Popen", follow)
    assert job._follow() == 0
    assert begun == since
