"""The stages as `dvc.yaml` declares them, and as `dvc.lock` says that they were done.

dvc.yaml is the one place where inputs and outputs are named. dvc.lock has an entry for each stage that was
done in its folder: command, digests of code and inputs, parameters, digests of outputs.

A stage with `foreach: ${compare}` is one stage for each item of that block of params.yaml, named as DVC names
it: `candidate@dpo`, of the group `candidate`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.config import Params, read_blocks, read_yaml
from plumbline.errors import UserError
from plumbline.project.digests import require_inside

OUTPUT_ROOTS = ("data", "models", "reports")
"""The folders that stages write to; all else that a stage depends on is code."""
LOCK = "dvc.lock"
LockEntry = Mapping[str, object]
"""The keys cmd, deps, params and outs."""
JOIN = "@"
"""Between the group and the item in the name of a stage."""
INTERPOLATED = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class StageSpec:
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
    def item(self) -> str:
        """Return the name behind `@`, such as `dpo` of `candidate@dpo`; empty without `foreach`."""
        return self.name.partition(JOIN)[2]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The paths that other stages leave for this one."""
        return tuple(path for path in self.deps if not is_code(path))

    @property
    def code(self) -> tuple[str, ...]:
        """The files and folders of code that this stage depends on."""
        return tuple(path for path in self.deps if is_code(path))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The paths that this stage leaves, without its receipt, which describes them."""
        return tuple(path for path in (*self.outs, *self.metrics) if path != self.receipt)

    @property
    def receipt(self) -> str | None:
        """The path of the receipt; stages that pin what is outside, such as the snapshot, have none."""
        return next((path for path in self.outs if path.endswith("/receipt.json")), None)

    @property
    def folder(self) -> str:
        """The folder that a person reads: where the receipt is, or the only output."""
        return self.receipt.rsplit("/", 1)[0] if self.receipt else self.outs[0]

    def file(self, name: str) -> str | None:
        """Return the declared output of that name in the stage's folder, if there is one."""
        path = f"{self.folder}/{name}"
        return path if path in (*self.outs, *self.metrics) else None


def read_stages(root: Path, params: Mapping[str, object] | None = None) -> dict[str, StageSpec]:
    """Return all stages of `root/dvc.yaml`, in the order of the file.

    Those with `foreach` are as `params` say, or else `root/params.yaml`. There are none where the file is
    missing, or from before there was what they are of. Raises UserError for anything else that is not there,
    and for a broken dvc.yaml.
    """
    found = {}
    for name, stage in declared_stages(root).items():
        if "foreach" not in stage:
            found[name] = _spec(name, stage)
            continue
        if params is None:
            params = read_yaml(root / "params.yaml") if (root / "params.yaml").exists() else {}
        for key, known in _items(stage["foreach"], params):
            found[f"{name}{JOIN}{key}"] = _spec(f"{name}{JOIN}{key}", _filled_in(stage.get("do"), known))
    return found


def declared_stages(root: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return what `root/dvc.yaml` says of each stage, by its name; one with `foreach` is one stage here.

    Raises FileNotFoundError for a missing file, and UserError for a broken one.
    """
    file = root / "dvc.yaml"
    declared = read_blocks(file, "The pipeline", "stages").get("stages")
    if not isinstance(declared, dict) or not all(isinstance(stage, dict) for stage in declared.values()):
        raise UserError(f"The pipeline {file} must hold a block `stages:` with a block for each stage. Bring "
                        "the file back, such as with `git checkout dvc.yaml`.")
    return declared


def _spec(name: str, stage: object) -> StageSpec:
    if not isinstance(stage, dict) or "cmd" not in stage:
        raise UserError(f"dvc.yaml must say of the stage `{name}` which command it runs, as its `cmd`.")
    return StageSpec(
        name=name,
        command="\n".join(stage["cmd"]) if isinstance(stage["cmd"], list) else stage["cmd"],
        deps=tuple(stage.get("deps") or ()),
        params=tuple(stage.get("params") or ()),
        outs=tuple(stage.get("outs") or ()),
        metrics=tuple(stage.get("metrics") or ()),
        always_changed=stage.get("always_changed", False),
    )


def _items(foreach: object, params: Mapping[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the key of each item, and all values that stand for something in its stage."""
    named_block = INTERPOLATED.fullmatch(foreach) if isinstance(foreach, str) else None
    if named_block and named_block[1].split(".")[0] not in params:
        return
    block = _filled_in(foreach, params)
    if isinstance(block, Mapping):
        for key, item in block.items():
            yield str(key), {**params, "key": str(key), "item": item}
    elif isinstance(block, list):  # a stage is named like its item, or by its place where that is no name
        named = not any(isinstance(item, dict | list) for item in block)
        for place, item in enumerate(block):
            yield str(item if named else place), {**params, "item": item}
    else:
        raise UserError(f"dvc.yaml has a stage for each item of {foreach}: expected a block or a list in "
                        f"params.yaml, found {block!r}.")


def _filled_in(declared: object, known: Mapping[str, object]) -> object:
    """Put values in place of `${item}`, `${key}` and `${sft.epochs}`, wherever they stand."""
    if isinstance(declared, dict):
        return {name: _filled_in(inner, known) for name, inner in declared.items()}
    if isinstance(declared, list):
        return [_filled_in(inner, known) for inner in declared]
    if not isinstance(declared, str):
        return declared
    if whole := INTERPOLATED.fullmatch(declared):
        return _at(known, whole[1])
    return INTERPOLATED.sub(lambda found: _text(_at(known, found[1])), declared)


def _at(known: Mapping[str, object], dotted: str) -> object:
    value: object = known
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"dvc.yaml has ${{{dotted}}}, but params.yaml has no `{dotted}`.")
        value = value[part]
    return value


def _text(value: object) -> str:
    """Return a value as DVC writes it into a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def producer_of(stages: Mapping[str, StageSpec], path: str) -> StageSpec | None:
    """Return the stage that leaves `path`, if one does."""
    return next((stage for stage in stages.values() if path in (*stage.outs, *stage.metrics)), None)


def stage_params(params: Params, stage: StageSpec) -> dict[str, object]:
    """Return the parameters that dvc.yaml names for a stage, flat: {"seed": 0, "sft.epochs": 2, ...}."""
    flat: dict[str, object] = {}
    values = params.model_dump()
    for key in stage.params:
        value: object = values
        for part in key.split("."):
            assert isinstance(value, dict)
            value = value[part]
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def version_of(used: Mapping[str, object]) -> str:
    """Return the version of a stage from what `stage_params` returns: that of the first block with one."""
    return next(str(value) for name, value in used.items() if name.endswith(".version"))


def read_lock(folder: Path) -> dict[str, LockEntry]:
    """Return the entries of dvc.lock by stage; empty without the file. Raises YAMLError for a damaged one."""
    try:
        lock = YAML(typ="safe").load((folder / LOCK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return dict((lock or {}).get("stages", {}))


def lock_entry(folder: Path, stage: str) -> LockEntry | None:
    """Return a stage's entry in dvc.lock, or None if the stage has not been done in this folder."""
    try:
        return read_lock(folder).get(stage) or None
    except YAMLError:  # another run writes its lock at this moment, and has not done the stage yet
        return None


def outputs_of(folder: Path, *only: str) -> dict[str, str]:
    """Return the digests of the outputs that dvc.lock names, of all stages or of `only` some, by path.

    Raises UserError for a path that leads out of the folder, and YAMLError for a damaged dvc.lock.
    """
    found: dict[str, str] = {}
    for name, entry in read_lock(folder).items():
        if not only or name in only:
            outs = cast(list[dict[str, str]], entry.get("outs") or [])
            found |= {require_inside(out["path"], str(folder / LOCK)): out["md5"] for out in outs}
    return found


def dependencies_of(entry: LockEntry) -> dict[str, str]:
    """Return the digests of the inputs and the code that a stage was done with, by path."""
    deps = cast(list[dict[str, str]], entry.get("deps") or [])
    return {dep["path"]: dep.get("md5", "") for dep in deps}


def is_code(path: str) -> bool:
    """True if a dependency of a stage is code and not what another stage left."""
    return path.split("/")[0] not in OUTPUT_ROOTS
