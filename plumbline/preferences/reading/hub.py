"""Data sets of the Hugging Face hub: `hub:NAME`, `hub:NAME:SPLIT`, `hub:NAME:CONFIG` or
`hub:NAME:CONFIG:SPLIT`.

`datasets.load_dataset` loads them. One name after the data set's is a configuration if there is one that is
called so.

Without a hub, `load_dataset` retries for minutes; here one short request decides first. With HF_HUB_OFFLINE=1
the hub is not asked, and a copy in the local cache serves. A folder in place of NAME is loaded by the same
code.
"""

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from plumbline.errors import UserError
from plumbline.preferences.reading.formats import RECOGNISED, Reading
from plumbline.preferences.reading.read import import_records
from plumbline.preferences.reading.results import Quarantined, Unread
from plumbline.preferences.types import Row

TIMEOUT_SECONDS = 6.0
DEFAULT_SPLIT = "train"
SHOWN_NAMES = 12
BETWEEN = re.compile(r":(?![^\[]*\])")
"""A colon that is not in a slice such as `train[:100]`."""


@dataclass(frozen=True)
class HubDataset:
    """A data set at the revision that the hub has now; without a hub the revision is what the loaded copy
    says.

    The revision names configuration and split too.
    """

    source: str
    revision: str
    read: Callable[[], Iterator[Row | Quarantined | Unread]]


def find(source: str, how: Reading = RECOGNISED) -> HubDataset:
    """Return the data set that `source` names.

    Raises UserError at once if `datasets` is not installed, or the hub does not answer.
    """
    name, *given = BETWEEN.split(source.removeprefix("hub:"))
    if len(given) > len(("config", "split")) or not name or not all(given):
        raise UserError(f"The source {source} is no data set of the hub: expected hub:NAME, hub:NAME:SPLIT, "
                        "hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT.")
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"The source {source} needs the package `datasets`, which is not installed. Install "
                        "the extra: pip install 'plumbline[hub]', or use preference files instead.") from None
    local = Path(name).exists() or bool(datasets.config.HF_HUB_OFFLINE)
    revision = None if local else _revision(name, source)

    def load() -> datasets.Dataset:
        try:
            config, split = _chosen(name, given, revision)
            return datasets.load_dataset(name, config, split=split, revision=revision)
        except UserError:
            raise
        except Exception as error:  # the loaders of the many formats raise whatever they like
            raise UserError(f"The data set {source} cannot be loaded: {type(error).__name__}: "
                            f"{shorten(str(error), 400)} Check its name, configuration and split on the hub."
                            ) from None

    def read() -> Iterator[Row | Quarantined | Unread]:
        return import_records(enumerate(load(), start=1), source, name.rstrip("/").split("/")[-1], how)

    # One commit holds all configurations and splits; a copy's fingerprint is that of the one that is read.
    return HubDataset(source, " ".join([revision, *given]) if revision else str(load()._fingerprint), read)


def _chosen(name: str, given: Sequence[str], revision: str | None) -> tuple[str | None, str]:
    """Return the configuration, None for the default one, and the split.

    Raises UserError if they are not clear.
    """
    import datasets

    if len(given) == len(("config", "split")):
        return given[0], given[1]
    configs = datasets.get_dataset_config_names(name, revision=revision)
    default = datasets.get_dataset_default_config_name(name, revision=revision)
    named = given[0] if given else None
    if named in configs and default is not None and named in datasets.get_dataset_split_names(
            name, default, revision=revision):
        raise UserError(f"The data set {name} has a configuration and a split that are called {named}. Name "
                        f"both: hub:{name}:{named}:SPLIT, or hub:{name}:{default}:{named}.")
    if named in configs:
        return named, DEFAULT_SPLIT
    if default is None:
        raise UserError(f"The data set {name} has several configurations, and none is the default: "
                        f"{', '.join(configs[:SHOWN_NAMES])}. Name one: hub:{name}:{configs[0]}"
                        f"{':' + named if named else ''}.")
    return None, named or DEFAULT_SPLIT


def _revision(name: str, source: str) -> str:
    """Return the commit of the data set's main branch, which makes the source immutable."""
    from huggingface_hub import HfApi, constants

    _require_answer(constants.ENDPOINT, source)
    try:
        return str(HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS).sha)
    except Exception as error:  # besides its own errors, those of whichever HTTP library it uses at the time
        raise UserError(f"The hub at {constants.ENDPOINT} does not give the data set {name!r} of the source "
                        f"{source}: {shorten(str(error), 200)} Check the name; for a private or gated data "
                        "set, log in with `hf auth login` first.") from None


def _require_answer(endpoint: str, source: str) -> None:
    """Raise UserError if the hub does not answer.

    A thread does it, because no timeout bounds the look-up of a host name.
    """
    problems: list[str] = ["no answer"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"),
                                        timeout=TIMEOUT_SECONDS):
                problems.clear()
        except urllib.error.HTTPError:
            problems.clear()  # it answered
        except (OSError, ValueError) as error:
            problems[:] = [str(error)]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TIMEOUT_SECONDS)
    if problems:
        raise UserError(f"The source {source} needs the Hugging Face hub, but {endpoint} cannot be reached "
                        f"from here ({problems[0]}). Use a preference file instead, connect this machine, or "
                        "point HF_ENDPOINT at a mirror; HF_HUB_OFFLINE=1 uses a copy that is already in "
                        f"{_cache()}.")


def _cache() -> str:
    return os.environ.get("HF_HOME", "~/.cache/huggingface")
