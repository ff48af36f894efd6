"""Stand-ins for `srun`, `kubectl` and `sky` that start the nodes of a stage as processes of this machine.

`put_on_path` makes the commands; each is this file with the command's name. A node is a process in a session of its
own, so that signals to the launcher do not reach it, as on another machine. What they know is in a folder that
FAKE_CLUSTER names: `NAME/manifest.json`, and for each node a log, a process id and in the end a status.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from ruamel.yaml import YAML

COMMANDS = ("srun", "kubectl", "sky")
INDEX = "batch.kubernetes.io/job-completion-index"
HERE = "127.0.0.1"
POD = '"$@" > "$0.log" 2>&1; echo $? > "$0.new"; mv "$0.new" "$0.status"'


def put_on_path(folder: Path) -> dict[str, str]:
    """Make the commands in a folder; return the variables with which they are found."""
    folder.mkdir()
    for command in COMMANDS:
        file = folder / command
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {command} "$@"\n')
        file.chmod(0o755)
    (folder / "cluster").mkdir()
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "FAKE_CLUSTER": str(folder / "cluster")}


def srun(*words: str) -> int:
    """Run the command on `--nodes`; with --kill-on-bad-exit one that fails ends the others."""
    options = list(takewhile(lambda word: word.startswith("--"), words))
    nodes = next(int(word.partition("=")[2]) for word in options if word.startswith("--nodes="))
    tasks = [subprocess.Popen(words[len(options):], start_new_session=True, env={
        **os.environ, "SLURM_NODEID": str(node), "SLURM_STEP_NODELIST": HERE}) for node in range(nodes)]

    def end(*_: object) -> None:
        for task in tasks:
            if task.poll() is None:
                task.terminate()

    signal.signal(signal.SIGTERM, end)
    while any(task.poll() is None for task in tasks):
        if "--kill-on-bad-exit=1" in options and any(task.returncode for task in tasks):
            end()
        time.sleep(0.1)
    return max(task.returncode % 256 for task in tasks)


def kubectl(*words: str) -> int:
    """Create, get, log and delete jobs of pods."""
    verb = words[0]
    if verb == "create":
        return _create(json.load(sys.stdin))
    if verb == "logs":
        return _logs(cluster() / words[-1].rpartition("-")[0], words[-1].rpartition("-")[2], "--follow" in words)
    if verb == "get" and words[1] == "pods":
        name = words[3].partition("=")[2].partition(",")[0]
        found = [_pod(cluster() / name, node) for node in _nodes(cluster() / name)]
        only_first = words[3].endswith(f"{INDEX}=0")
        print(json.dumps({"items": found[:1] if only_first else found}))
    elif verb == "get" and (cluster() / words[2]).is_dir():
        print(json.dumps({"status": {"conditions": _conditions(cluster() / words[2])}}))
    elif verb == "delete":
        _end(cluster() / words[2])
    return 0


def sky(*words: str) -> int:
    """Launch the nodes of a task on a cluster of their own, or take it down."""
    if words[0] == "down":
        _end(cluster() / words[-1])
        return 0
    name, nodes = (words[words.index(option) + 1] for option in ("--cluster", "--num-nodes"))
    given = [words[place + 1] for place, word in enumerate(words) if word == "--env"]
    task = YAML(typ="safe").load(Path(words[-1]).read_text())
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    kept |= {one.partition("=")[0]: one.partition("=")[2] if "=" in one else os.environ[one] for one in given}
    addresses = "\n".join([HERE] * int(nodes))
    _start(cluster() / name, ["sh", "-c", task["run"]], [
        {**kept, "SKYPILOT_NODE_RANK": str(node), "SKYPILOT_NODE_IPS": addresses} for node in range(int(nodes))])
    while not _conditions(cluster() / name):
        time.sleep(0.1)
    for node in _nodes(cluster() / name):
        _logs(cluster() / name, node, follow=False)
    return 0 if _conditions(cluster() / name)[0]["type"] == "Complete" else 100


def cluster() -> Path:
    return Path(os.environ["FAKE_CLUSTER"])


def _create(manifest: dict) -> int:
    manifest["metadata"]["uid"] = "0123"
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if manifest["kind"] == "Job":
        pod = spec["template"]["spec"]["containers"][0]
        _start(cluster() / name, pod["command"], [_variables(pod["env"], node) for node in range(spec["completions"])])
    elif manifest["kind"] == "TrainJob":
        pod = spec["trainer"]
        _start(cluster() / name, pod["command"], [
            {**_variables(pod["env"], node), "PET_NODE_RANK": str(node), "PET_MASTER_ADDR": HERE}
            for node in range(pod["numNodes"])])
    (cluster() / name / f"{manifest['kind']}.json").write_text(json.dumps(manifest))
    print(json.dumps(manifest))
    return 0


def _variables(env: Sequence[Mapping], node: int) -> dict[str, str]:
    """The variables of a pod; there is no name service, so the first node has its address."""
    found = {one["name"]: one.get("value", str(node)) for one in env}
    if "PLUMBLINE_FIRST_NODE" in found:
        found["PLUMBLINE_FIRST_NODE"] = HERE
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **found}


def _start(folder: Path, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
    folder.mkdir()
    for node, environment in enumerate(environments):
        process = subprocess.Popen(["sh", "-c", POD, str(folder / str(node)), *command], env=environment,
                                   start_new_session=True)
        (folder / f"{node}.pid").write_text(str(process.pid))


def _nodes(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.pid"))


def _status(folder: Path, node: str) -> int | None:
    file = folder / f"{node}.status"
    return int(file.read_text()) if file.exists() else None


def _conditions(folder: Path) -> list[dict[str, str]]:
    statuses = [_status(folder, node) for node in _nodes(folder)]
    if any(statuses):
        _kill(folder)
        return [{"type": "Failed", "status": "True", "message": "Pod failed"}]
    return [] if None in statuses else [{"type": "Complete", "status": "True"}]


def _pod(folder: Path, node: str) -> dict:
    status = _status(folder, node)
    state = {} if status is None else {"terminated": {"exitCode": status}}
    return {"metadata": {"name": f"{folder.name}-{node}", "labels": {INDEX: node}},
            "status": {"phase": "Running", "containerStatuses": [{"state": state}]}}


def _logs(folder: Path, node: str, follow: bool) -> int:
    for part in _parts(folder, node, follow):
        sys.stdout.write(part)
        sys.stdout.flush()
    return 0


def _parts(folder: Path, node: str, follow: bool) -> Iterator[str]:
    with (folder / f"{node}.log").open() as log:
        while True:
            ended = not follow or _status(folder, node) is not None or not folder.exists()
            yield log.read()
            if ended:
                return
            time.sleep(0.1)


def _kill(folder: Path) -> None:
    for node in _nodes(folder):
        if _status(folder, node) is None:
            group = int((folder / f"{node}.pid").read_text())
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(group, number)
                except ProcessLookupError:
                    break
                time.sleep(1)
            (folder / f"{node}.status").write_text("143")


def _end(folder: Path) -> None:
    if folder.is_dir():
        _kill(folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    raise SystemExit({"srun": srun, "kubectl": kubectl, "sky": sky}[sys.argv[1]](*sys.argv[2:]))
