"""Why a stage ran: the difference between what it was given now and what it was given the last time.

Both sides are entries of dvc.lock, so the answer rests on exactly what DVC compared.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from plumbline.project.dvc_yaml import ROOMS
from plumbline.runs.dvc_stage import LockEntry

FileNames = Callable[[str], list[str]]
"""The files that differ inside a folder that both runs depend on; empty when unknown."""
SHOWN_FILES = 3
NOT_CACHED = "its earlier result is no longer in the cache"


def why(now: LockEntry, before: LockEntry | None, changed_files: FileNames) -> str:
    """One line: `parameter ppo.kl_coef 0.05 -> 0.1; input models/sft/model changed`."""
    if before is None:
        return "first run"
    found = [*_parameters(now, before), *_dependencies(now, before, changed_files)]
    if now.get("cmd") != before.get("cmd"):
        found.append("command changed")
    return "; ".join(found) or NOT_CACHED


def _parameters(now: LockEntry, before: LockEntry) -> Iterator[str]:
    new, old = _flat(now.get("params")), _flat(before.get("params"))
    for key in [*new, *(key for key in old if key not in new)]:
        if new.get(key, "(absent)") != old.get(key, "(absent)"):
            yield f"parameter {key} {_text(old, key)} -> {_text(new, key)}"


def _dependencies(now: LockEntry, before: LockEntry, changed_files: FileNames) -> Iterator[str]:
    new, old = _digests(now), _digests(before)
    for path in [*new, *(path for path in old if path not in new)]:
        kind = "input" if path.split("/")[0] in ROOMS else "code"
        if path not in old:
            yield f"{kind} {path} is new"
        elif path not in new:
            yield f"{kind} {path} is no longer used"
        elif new[path] != old[path]:
            yield _changed(kind, path, changed_files(path))


def _changed(kind: str, path: str, files: list[str]) -> str:
    if not files:
        return f"{kind} {path} changed"
    more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
    if kind == "code":
        return f"code {', '.join(f'{path}/{name}' for name in files[:SHOWN_FILES])}{more} changed"
    return f"input {path} changed ({', '.join(files[:SHOWN_FILES])}{more})"


def code_digests(entry: LockEntry | None) -> dict[str, str]:
    """The digest of each file and folder of code that a stage used; nothing for a stage that was not done."""
    return {path: md5 for path, md5 in _digests(entry or {}).items() if path.split("/")[0] not in ROOMS}


def _digests(entry: LockEntry) -> dict[str, str]:
    deps = cast(list[dict[str, str]], entry.get("deps") or [])
    return {dep["path"]: dep.get("md5", "") for dep in deps}


def _flat(values: object, prefix: str = "") -> dict[str, object]:
    """{"params.yaml": {"ppo": {"clip": 0.2}}} as {"ppo.clip": 0.2}: the file's name says nothing here."""
    flat: dict[str, object] = {}
    for block in cast(Mapping[str, object], values or {}).values():
        flat |= _leaves(block, prefix)
    return flat


def _leaves(value: object, prefix: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _leaves(inner, f"{prefix}{key}.")
    return flat


def _text(values: Mapping[str, object], key: str) -> str:
    if key not in values:
        return "(absent)"
    value = values[key]
    return "null" if value is None else str(value)
