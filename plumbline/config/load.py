"""Read `params.yaml`, lay the file of `--params` and the settings of `--set` over it, and check the whole."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.config.params import Params
from plumbline.config.values import SECRETS
from plumbline.errors import UserError

RENAMED = {
    "ppo.missing_stop_reward": "`ppo.missing_stop_deviations`: standard deviations below the SFT policy's "
                               "mean reward, such as 2.0",
    "preference_eval.bootstrap_samples": "needless, because intervals are computed without resampling: leave "
                                         "it out",
    "preference_eval.judge": "`preference_eval.judges`: a list such as [auto], of which the first decides",
    "reward_eval.bootstrap_samples": "needless, because intervals are computed without resampling: leave it "
                                     "out"}
"""What became of parameters that older files have."""
FREE = ("candidates", "compare")
"""Blocks whose keys are not fixed."""
WHOLE = "rewards"
"""A mapping that is one value, in `ppo` and in a candidate: what is given replaces all of it."""


def load_params(root: Path, file: Path | None = None, settings: Sequence[str] = ()) -> Params:
    """Read `params.yaml` in `root`, then lay `file` and the `key=value` settings over it.

    Raises UserError for a missing or broken file, an unknown key, a value of the wrong type or out of range.
    """
    values = read_yaml(root / "params.yaml")
    if file is not None:
        _lay_over(values, read_yaml(file), str(file))
    for setting in settings:
        _lay_over(values, _parse_setting(setting), f"--set {setting}")
    return check_params(values, "params.yaml" if file is None else str(file))


def registered_name(root: Path) -> str:
    """Return `promote.model_name` of `params.yaml` in `root`, whatever else the file holds.

    So what was recorded can be read beside parameters that another version of Plumbline wrote. Raises
    UserError for a missing or broken file, and where the name is not there or of another type.
    """
    block = read_yaml(root / "params.yaml").get("promote")
    name = block.get("model_name") if isinstance(block, dict) else None
    if not isinstance(name, str):
        raise UserError(f"params.yaml must hold `promote.model_name`, a name such as policy; found {name!r}.")
    return name


def check_params(values: Mapping[str, object], where: str) -> Params:
    """Turn plain values into Params. Raises UserError, which names every offending key."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        found = [_describe(problem["loc"], problem["msg"], problem["type"], problem["input"])
                 for problem in error.errors()]
        raise UserError(f"Parameters in {where} cannot be used: " + "; ".join(found) + ".") from None


def keys(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that exists, blocks included: `seed`, `ppo`, `ppo.kl_coef`."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield prefix + name
            yield from keys(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_yaml(file: Path) -> dict[str, object]:
    """Read a parameter file as plain values. Raises UserError for a missing or broken one."""
    try:
        return read_blocks(file, "Parameter file", "ppo")
    except FileNotFoundError:
        raise UserError(f"Parameter file {file} does not exist. Give one with --params FILE, or run "
                        "plumbline in a checkout that has params.yaml.") from None


def read_blocks(file: Path, called: str, block: str) -> dict[str, object]:
    """Read a YAML file of blocks such as `block`, which messages call what it is `called`.

    Raises FileNotFoundError for a missing file, and UserError for a broken one.
    """
    try:
        values = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, YAMLError) as error:  # a ValueError is a date that there is not, or no text
        raise UserError(f"{called} {file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{called} {file} must hold blocks such as `{block}:`; found "
                        f"{type(values).__name__}.")
    return values


def _parse_setting(setting: str) -> dict[str, object]:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes KEY=VALUE, such as --set ppo.kl_coef=0.1; found {setting!r}.")
    try:
        value = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):  # such as 2026-99-99, which would be a date
        shown = key if SECRETS.search(key.strip()) else setting
        raise UserError(f"The value in --set {shown} is not valid YAML.") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _lay_over(
    values: dict[str, object], over: Mapping[str, object], where: str, prefix: str = ""
) -> None:
    """Replace `values` by those in `over`. Raises UserError for a key that does not exist."""
    for key, value in over.items():
        dotted = f"{prefix}{key}"
        if prefix.partition(".")[0] in FREE:  # names are the user's own here
            values.setdefault(key, {} if isinstance(value, Mapping) else value)
        if key not in values:
            raise UserError(f"{where}: there is no parameter `{dotted}`.{_closest(dotted)}")
        below = values[key]
        if isinstance(below, dict) and key != WHOLE:
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: `{dotted}` is a block of parameters; found the value {value!r}. "
                                f"Set one of its keys, such as {dotted}.{next(iter(below), 'NAME')}.")
            _lay_over(below, value, where, f"{dotted}.")
        else:
            values[key] = value


def _closest(dotted: str) -> str:
    """Return a sentence with what the key became, the closest one that exists, or all blocks."""
    if dotted in RENAMED:
        return f" It has become {RENAMED[dotted]}."
    match = difflib.get_close_matches(dotted, list(keys()), n=1, cutoff=0.5)
    known = f" Known blocks: {', '.join(Params.model_fields)}."
    return f" The closest that exists is `{match[0]}`." if match else known


def _describe(location: tuple[int | str, ...], message: str, kind: str, found: object) -> str:
    """Return one problem that pydantic found, in the words of a parameter file."""
    key = ".".join(str(part) for part in location)
    if kind == "candidate":
        return message
    if kind == "extra_forbidden":
        return f"there is no parameter `{key}`.{_closest(key)}".rstrip(".")
    if kind == "missing":
        return f"`{key}` is missing"
    allowed = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    shown = "a secret that is not shown" if SECRETS.search(key) else repr(found)
    return f"`{key}` is {shown}, but must be {allowed}"
