"""A launcher for Kubernetes: an Indexed Job, or a TrainJob where Kubeflow's Trainer is, of one pod a node.

    launcher: >-
      python -m plumbline.compute.kubernetes --nodes {nodes} {project}/deploy/launchers/kubernetes-job.yaml

The template says which image, GPUs and volumes; the project's folder must be mounted there at its own path.
Here it gets a name, the command and the number of pods. The log of the first pod is copied, the status is the
job's, and the job is deleted at the end, whatever ended it. If this process is killed, the pods miss its
signs of life and fail. A Job deletes itself later; a TrainJob, which has no field for that, stays until
somebody deletes it.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.compute.nodes import FIRST_NODE, NODE
from plumbline.errors import GateFailed, UserError

Manifest = dict[str, Any]
MODULE = "plumbline.compute.kubernetes"
"""The word by which a launcher is known to be this one."""
PASSED = ("PLUMBLINE_", "PYTHON", "HF_", "NCCL_", "TORCH_", "OMP_", "MLFLOW_TRACKING_URI")
"""Beginnings of the names of variables that the pods get, too."""
SECRET = ("TOKEN", "SECRET", "KEY", "PASSWORD", "PLUMBLINE_FEEDBACK_URL")
"""Ends of the names of those that they do not get: whoever may read a job reads them. They belong into a
Secret, which the template names."""
INDEX = "batch.kubernetes.io/job-completion-index"
LABELS = {"Job": "batch.kubernetes.io/job-name={}",
          "TrainJob": "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=node"}
COMMAND_IN = {"Job": ("spec", "template", "spec", "containers", 0), "TrainJob": ("spec",)}
"""Where a template has the block that gets the command."""
ENDED = ("Succeeded", "Failed")
"""Phases of a pod whose log is whole."""
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 900.0
"""For which kubectl may fail without a break, as while a cluster is upgraded."""
LOG_SECONDS = 5.0
"""From the end of the job to that of its log."""
DELETE_SECONDS = 35
LAST_LINES = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command on pods; return its status."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("template", help="YAML of a Job or a TrainJob")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    try:
        template = read_template(Path(asked.template))
        name = f"plumbline-{secrets.token_hex(4)}"
        return PodJob(filled(template, name, asked.nodes, asked.command, os.environ, Path.cwd())).run()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def read_template(file: Path) -> Manifest:
    """Return the template. Raises UserError for a file that is none, or that has no place for a command."""
    try:
        template = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"The launcher's template {file} cannot be read: {said}") from None
    if not isinstance(template, dict) or template.get("kind") not in LABELS:
        raise UserError(f"The launcher's template {file} must be a Job or a TrainJob, such as "
                        "deploy/launchers/kubernetes-job.yaml.")
    found: Any = template
    for name in COMMAND_IN[template["kind"]]:
        if isinstance(name, str):
            found = found.get(name) if isinstance(found, dict) else None
        else:
            found = found[name] if isinstance(found, list) and found else None
    if not isinstance(found, dict):
        place = ".".join(map(str, COMMAND_IN[template["kind"]]))
        raise UserError(f"The launcher's template {file} is a {template['kind']} without `{place}`, which "
                        f"gets the command; found {found!r} there. Write it as deploy/launchers/ does.")
    return template


def filled(template: Manifest, name: str, nodes: int, command: Sequence[str], variables: Mapping[str, str],
           folder: Path) -> Manifest:
    """Return the template with a name, the command in its folder, variables and the number of pods."""
    manifest: Manifest = json.loads(json.dumps(template))
    manifest["metadata"] = (manifest.get("metadata") or {}) | {"name": name}
    words = ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]
    env: list[Manifest] = [{"name": key, "value": value} for key, value in sorted(variables.items())
                           if key.startswith(PASSED) and not key.endswith(SECRET)]
    spec = manifest["spec"]
    if manifest["kind"] == "TrainJob":  # its runtime says which node a pod is
        trainer = spec.get("trainer") or {}
        env = [*(trainer.get("env") or []), *env]
        spec["trainer"] = trainer | {"command": words, "args": [], "numNodes": nodes, "env": env}
        return manifest
    env += [{"name": NODE, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}},
            {"name": FIRST_NODE, "value": f"{name}-0.{name}"}]
    spec |= {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes, "backoffLimit": 0}
    # One pod that fails, or is evicted, fails all: the stage goes on from its checkpoint in a new job.
    spec["podFailurePolicy"] = {"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}
    pod = spec["template"]["spec"]
    pod |= {"restartPolicy": "Never", "subdomain": name}
    container = pod["containers"][0]
    container |= {"command": words, "args": [], "env": [*(container.get("env") or []), *env]}
    return manifest


def service_of(job: Manifest) -> Manifest:
    """Return the service by which the pods of a created Job find each other; it is deleted with the Job."""
    name, labels = job["metadata"]["name"], {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels}}


class PodJob:
    """A job from its creation to its deletion."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._kind, self._name = manifest["kind"], manifest["metadata"]["name"]
        space = manifest["metadata"].get("namespace")
        self._space = ["--namespace", space] if space else []
        self._log: subprocess.Popen[bytes] | None = None
        self._logged = ""
        """When the log was last seen to be followed."""
        self._failing_since: float | None = None
        self._told: dict[str, str] = {}
        """What was last said of a pod, or of kubectl."""

    def run(self) -> int:
        """Create the job, follow it to its end and delete it; return its status. Raises UserError if the
        cluster refuses it, or does not answer any more.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        try:
            created = self._create(self._manifest)
            if self._kind == "Job":
                self._create(service_of(created))
            return self._follow()
        finally:
            if self._log:
                self._log.terminate()
                self._log.wait()
            self._kubectl("delete", self._kind, self._name, "--ignore-not-found", "--cascade=foreground",
                          f"--timeout={DELETE_SECONDS}s")

    def _create(self, manifest: Manifest) -> Manifest:
        done = self._kubectl("create", "--filename", "-", "--output", "json", given=json.dumps(manifest))
        if done.returncode:
            raise UserError(f"Kubernetes did not take the {manifest['kind']} {self._name}: "
                            f"{done.stderr.strip()}")
        created: Manifest = json.loads(done.stdout)
        return created

    def _follow(self) -> int:
        while True:
            succeeded = self._succeeded()
            if self._log and self._log.poll() is None:
                self._logged = _now()
            elif self._log is None or succeeded is None:
                self._follow_log()
            if succeeded is not None:
                break
            time.sleep(LOOK_SECONDS)
        if self._log:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._log.wait(LOG_SECONDS)
        return 0 if succeeded else self._status()

    def _succeeded(self) -> bool | None:
        """Return how the job has ended; None while it goes on, or the cluster does not answer for a while."""
        found = self._kubectl("get", self._kind, self._name, "--ignore-not-found", "--output", "json")
        if found.returncode:
            self._failing(found.stderr.strip())
            return None
        self._failing_since = None
        if not found.stdout.strip():
            sys.stderr.write(f"The {self._kind} {self._name} was deleted by somebody else.\n")
            return False
        for condition in json.loads(found.stdout).get("status", {}).get("conditions", []):
            if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
                if condition["type"] == "Failed":
                    sys.stderr.write(f"{self._kind} {self._name}: {condition.get('message', 'failed')}\n")
                return bool(condition["type"] == "Complete")
        return None

    def _failing(self, said: str) -> None:
        """Say why kubectl fails. Raises UserError if it has for too long."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= PATIENCE_SECONDS:
            raise UserError(f"kubectl cannot say how the {self._kind} {self._name} goes on, and has failed "
                            f"for {PATIENCE_SECONDS / 60:.0f} minutes: {said}. Look whether the cluster "
                            "answers and this account may get the job; if it is still there, delete it, and "
                            "run again: the stage goes on from its last checkpoint.")
        self._tell("kubectl", said.rpartition("\n")[2])  # lines before it have the time

    def _tell(self, who: str, said: str) -> None:
        """Say something of somebody unless it was the last that was said."""
        if self._told.get(who) != said:
            self._told[who] = said
            sys.stderr.write(f"{who}: {said}\n")

    def _follow_log(self) -> None:
        """Copy the log of the first pod once it has one; after a broken connection, go on from there, unless
        it was the pod that has ended. Say what pods wait for.
        """
        for pod in self._pods():
            if waiting := _waits_for(pod):
                self._tell(pod["metadata"]["name"], waiting)
            if not _is_first(pod):
                continue
            if pod["status"]["phase"] not in ("Pending", *(ENDED if self._log else ())):
                since = [f"--since-time={self._logged}"] if self._logged else []
                self._log = subprocess.Popen(["kubectl", *self._space, "logs", "--follow", *since,
                                              pod["metadata"]["name"]], stdin=subprocess.DEVNULL)

    def _status(self) -> int:
        """Return the status of the pods that failed, and copy the end of the logs of all but the first."""
        statuses = []
        for pod in self._pods():
            for one in pod["status"].get("containerStatuses", []):
                statuses.append(one.get("state", {}).get("terminated", {}).get("exitCode", 0))
            if not _is_first(pod):
                last = self._kubectl("logs", f"--tail={LAST_LINES}", pod["metadata"]["name"])
                lines = last.stdout.splitlines()
                sys.stderr.write("".join(f"{pod['metadata']['name']}: {line}\n" for line in lines))
        told = [status for status in statuses if status in (UserError.exit_code, GateFailed.exit_code)]
        return told[0] if told else 1

    def _pods(self) -> list[Manifest]:
        selector = LABELS[self._kind].format(self._name)
        found = self._kubectl("get", "pods", "--selector", selector, "--output", "json")
        pods: list[Manifest] = json.loads(found.stdout)["items"] if found.returncode == 0 else []
        return pods

    def _kubectl(self, *words: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["kubectl", *self._space, *words], input=given or "", capture_output=True,
                              text=True, check=False)


def _is_first(pod: Manifest) -> bool:
    return bool(pod["metadata"].get("labels", {}).get(INDEX) == "0")


def _waits_for(pod: Manifest) -> str:
    """Return why a pod has not started yet, in the cluster's words; nothing where it does not say."""
    if pod["status"]["phase"] != "Pending":
        return ""
    reasons = [one for one in pod["status"].get("conditions", [])
               if one["type"] == "PodScheduled" and one["status"] == "False"]
    reasons += [one["state"]["waiting"] for one in pod["status"].get("containerStatuses", [])
                if "waiting" in one.get("state", {})]
    return "; ".join(": ".join(filter(None, (one.get("reason"), one.get("message")))) for one in reasons)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _leave(number: int, _frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGINT):  # once is enough: deleting must not be interrupted
        signal.signal(again, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
