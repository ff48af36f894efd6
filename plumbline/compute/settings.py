"""`compute.yaml`: on how many processes and nodes a stage runs, and who starts them there.

    ppo:
      processes: 8          # on each node
      nodes: 2
      launcher: srun --nodes={nodes} --ntasks-per-node=1 --gpus-per-node={processes} --kill-on-bad-exit=1
    candidate: {processes: 2}  # all candidates; `candidate@dpo` is one of them

The file stands beside params.yaml and may be missing; a stage that it does not name is one process here. It
is about machines and not about results: no digest, no parameter and no stage of dvc.yaml depends on it.
"""

import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from plumbline.compute.kubernetes import MODULE, read_template
from plumbline.config import ParamsBlock, read_yaml
from plumbline.errors import UserError
from plumbline.project.dvc_yaml import JOIN, declared_stages

FILE = "compute.yaml"
WITH_RANKS = ("sft", "reward_model", "judge", "ppo", "candidate")
"""The stages whose training shares its work out to ranks."""
INSIDE_THE_FLOW = ("snapshot", "champion", "promote")
"""The stages that ask and tell stores, and have no process of their own that a launcher could start."""
PLACES = ("{nodes}", "{processes}", "{project}")
"""What a launcher may hold in place of the numbers, and of the project's folder."""


def _is_launcher(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"a command ({error})") from None
    rest = text
    for place in PLACES:
        rest = rest.replace(place, "")
    if not words or "{" in rest or "}" in rest:
        raise ValueError("a command before the command, such as `srun --nodes={nodes}`, in which only "
                         f"{', '.join(PLACES)} stand in braces")
    return text


class StageCompute(ParamsBlock):
    """Where one stage runs."""

    processes: Annotated[int, Field(ge=1)] = 1
    """Processes on each node: one a GPU, or a few on the cores of a machine without."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines."""
    launcher: Annotated[str, AfterValidator(_is_launcher)] | None = None
    """The beginning of a command that runs the rest of it on the nodes; ARCHITECTURE.md has its contract."""

    @model_validator(mode="after")
    def _reaches_its_nodes(self) -> "StageCompute":
        if self.nodes > 1 and self.launcher is None:
            raise ValueError(f"with a `launcher` that starts the {self.nodes} nodes, such as "
                             "`srun --nodes={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1`")
        return self

    @property
    def ranks(self) -> int:
        """Return the number of processes on all nodes together."""
        return self.processes * self.nodes

    @property
    def here(self) -> bool:
        """Return True for a stage that is one process of this machine, as without the file."""
        return self.ranks == 1 and self.launcher is None

    @property
    def described(self) -> str:
        """Return it in words: `2 processes`, `8 processes on each of 2 nodes, started by srun`."""
        return describe_compute(self.processes, self.nodes, self.launcher)

    def launch(self, root: Path) -> list[str]:
        """Return the words of the launcher for the project in `root`, all in place; none without one."""
        text = self.launcher or ""
        for place, value in zip(PLACES, (self.nodes, self.processes, shlex.quote(str(root))), strict=True):
            text = text.replace(place, str(value))
        return shlex.split(text)


def describe_compute(processes: int, nodes: int, launcher: str | None) -> str:
    """Return where a stage runs, or ran, in words."""
    each = f" on each of {nodes} nodes" if nodes > 1 else ""
    by = f", started by {launcher.split()[0]}" if launcher else ""
    return f"{processes} {'process' if processes == 1 else 'processes'}{each}{by}"


def described_host(host: Mapping[str, str]) -> str | None:
    """Return on what a stage was made, in words, by its receipt's host; None for one process there."""
    if "processes" not in host:
        return None
    return describe_compute(int(host["processes"]), int(host["nodes"]), host.get("launcher"))


def read_compute(root: Path) -> dict[str, StageCompute]:
    """Return what `compute.yaml` in `root` says of stages, by their names; nothing without the file.

    Raises UserError for a broken file, a stage that dvc.yaml does not have, and what a stage cannot have.
    """
    if not (root / FILE).exists():
        return {}
    known = declared_stages(root)
    found = {}
    for name, block in read_yaml(root / FILE).items():
        group = str(name).partition(JOIN)[0]  # YAML's keys may be numbers, too
        if group not in known:
            close = difflib.get_close_matches(group, known, n=1, cutoff=0.4)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise UserError(f"{FILE} has `{name}`, but dvc.yaml has no such stage.{hint} The stages are "
                            f"{', '.join(known)}.")
        found[name] = _checked(name, group, block)
    return found


def compute_of(root: Path, stage: str) -> StageCompute:
    """Return where a stage runs: what `compute.yaml` says of `candidate@dpo`, or else of all of its group."""
    said = read_compute(root)
    return said.get(stage) or said.get(stage.partition(JOIN)[0]) or StageCompute()


def path_of_stages() -> str:
    """Return the PATH of stages and their launchers: `python` is this one, whether or not its environment was
    activated.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def check_compute(root: Path, items: Mapping[str, object]) -> None:
    """Raise UserError for the first mistake in `compute.yaml`: one that `read_compute` finds, a candidate
    that is not among `items`, a launcher that is no command of this machine, or its template for Kubernetes.
    """
    for name, compute in read_compute(root).items():
        group, join, item = name.partition(JOIN)
        if join and item not in items:
            raise UserError(f"{FILE} has `{name}`, but `candidates` of params.yaml has no `{item}`; it has "
                            f"{', '.join(items) or 'none'}. `{group}` alone stands for all of them.")
        words = compute.launch(root)
        if words and shutil.which(words[0], path=path_of_stages()) is None:
            raise UserError(f"The launcher of `{name}` in {FILE} begins with `{words[0]}`, which is no "
                            "command on this machine. Install it, or correct the line.")
        if MODULE in words:
            # A relative path is one of the run's folder, which is not there yet.
            for template in [Path(word) for word in words if word.endswith((".yaml", ".yml"))]:
                if template.is_absolute():
                    read_template(template)


def _checked(name: str, group: str, block: object) -> StageCompute:
    """Return one block of the file. Raises UserError, which names what cannot be used."""
    if not isinstance(block, dict):
        raise UserError(f"{FILE}: `{name}` must hold `processes`, `nodes` or `launcher`; found {block!r}.")
    try:
        compute = StageCompute.model_validate(block)
    except ValidationError as error:
        problems = [_in_words(name, problem["loc"], problem["msg"], problem["input"])
                    for problem in error.errors()]
        raise UserError(f"{FILE} cannot be used: {'; '.join(problems)}.") from None
    if compute.ranks > 1 and group not in WITH_RANKS:
        raise UserError(f"{FILE} asks for {compute.ranks} processes for `{name}`, which runs as one: it does "
                        f"not share its work out. Those that do are {', '.join(WITH_RANKS)}; leave "
                        f"`processes` and `nodes` of `{name}` out.")
    if compute.launcher and group in INSIDE_THE_FLOW:
        raise UserError(f"{FILE} has a launcher for `{name}`, which runs inside the flow's own process. "
                        f"Leave `{name}` out.")
    return compute


def _in_words(name: str, location: tuple[int | str, ...], message: str, found: object) -> str:
    where = ".".join([name, *map(str, location)])
    if message.startswith("Extra inputs"):
        return f"there is no `{where}`; a stage has {', '.join(StageCompute.model_fields)}"
    must = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    return f"`{where}` is {found!r}, but must be {must}"
