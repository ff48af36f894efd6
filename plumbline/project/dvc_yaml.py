"""What `dvc.yaml` declares about the stages: the one place where inputs and outputs are named."""

from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from plumbline.errors import UserError

ROOMS = ("data", "models", "reports")


@dataclass(frozen=True)
class Declared:
    """One stage of dvc.yaml; paths are relative to the file."""

    name: str
    command: str
    """One line or more; each must succeed."""
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    always_changed: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """What other stages left for this one."""
        return tuple(path for path in self.deps if path.split("/")[0] in ROOMS)

    @property
    def code(self) -> tuple[str, ...]:
        """The files and folders of code that this stage depends on."""
        return tuple(path for path in self.deps if path.split("/")[0] not in ROOMS)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What this stage leaves, without its receipt, which describes them."""
        return tuple(path for path in (*self.outs, *self.metrics) if path != self.receipt)

    @property
    def receipt(self) -> str | None:
        """Where the receipt goes; the stages that only fix the outside world have none."""
        return next((path for path in self.outs if path.endswith("/receipt.json")), None)

    @property
    def folder(self) -> str:
        """The folder that a person reads: where the receipt is, or the only output."""
        return self.receipt.rsplit("/", 1)[0] if self.receipt else self.outs[0]

    def file(self, name: str) -> str | None:
        """The declared output of that name in the stage's folder, if there is one."""
        path = f"{self.folder}/{name}"
        return path if path in (*self.outs, *self.metrics) else None


def read_stages(root: Path) -> dict[str, Declared]:
    """All stages of `root/dvc.yaml`, in the order of the file."""
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {
        name: Declared(
            name=name,
            command="\n".join(stage["cmd"]) if isinstance(stage["cmd"], list) else stage["cmd"],
            deps=tuple(stage.get("deps", ())),
            params=tuple(stage.get("params", ())),
            outs=tuple(stage.get("outs", ())),
            metrics=tuple(stage.get("metrics", ())),
            always_changed=stage.get("always_changed", False),
        )
        for name, stage in stages.items()
    }


def read_stage(root: Path, name: str) -> Declared:
    """One stage. Raises UserError for a name that dvc.yaml does not declare."""
    stages = read_stages(root)
    if name not in stages:
        raise UserError(f"dvc.yaml in {root} declares no stage `{name}`; it has {', '.join(stages)}.")
    return stages[name]


def producer_of(stages: dict[str, Declared], path: str) -> Declared | None:
    """The stage that leaves `path`."""
    return next((stage for stage in stages.values() if path in (*stage.outs, *stage.metrics)), None)
