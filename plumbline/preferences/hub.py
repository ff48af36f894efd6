"""Data sets of the Hugging Face hub: `hub:NAME` or `hub:NAME:SPLIT`, loaded by `datasets.load_dataset`.

Without a hub, `load_dataset` retries for minutes; here one short request decides first. With HF_HUB_OFFLINE=1 the hub
is not asked, and a copy in the local cache serves. A folder in place of NAME is loaded by the same code.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from plumbline.errors import UserError
from plumbline.preferences.batches import Quarantined, Unread
from plumbline.preferences.formats import RECOGNISED, Reading
from plumbline.preferences.reading import import_records
from plumbline.preferences.types import Row

TIMEOUT_SECONDS = 6.0
DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class HubDataset:
    """A data set at the revision that the hub has now; without a hub the revision is what the loaded copy says."""

    source: str
    revision: str
    read: Callable[[], Iterator[Row | Quarantined | Unread]]


def find(source: str, how: Reading = RECOGNISED) -> HubDataset:
    """The data set that `source` names. Raises UserError at once without `datasets`, or without a hub that answers."""
    name, _, split = source.removeprefix("hub:").partition(":")
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(f"The source {source} needs the package `datasets`, which is not installed. Install the extra: "
                        "pip install 'plumbline[hub]', or use preference files instead.") from None
    local = Path(name).exists() or bool(datasets.config.HF_HUB_OFFLINE)
    revision = None if local else _revision(name, source)

    def load() -> datasets.Dataset:
        try:
            return datasets.load_dataset(name, split=split or DEFAULT_SPLIT, revision=revision)
        except Exception as error:  # the loaders of the many formats raise whatever they like
            raise UserError(f"The data set {source} cannot be loaded: {type(error).__name__}: "
                            f"{shorten(str(error), 400)} Check its name and split on the hub.") from None

    def read() -> Iterator[Row | Quarantined | Unread]:
        return import_records(enumerate(load(), start=1), source, name.rstrip("/").split("/")[-1], how)

    return HubDataset(source, revision or str(load()._fingerprint), read)


def _revision(name: str, source: str) -> str:
    """The commit that the data set's main branch is at; it makes the source immutable."""
    from huggingface_hub import HfApi, constants

    _require_answer(constants.ENDPOINT, source)
    try:
        return str(HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS).sha)
    except Exception as error:  # besides its own errors, those of whichever HTTP library it uses at the time
        raise UserError(f"The hub at {constants.ENDPOINT} does not give the data set {name!r} of the source {source}: "
                        f"{shorten(str(error), 200)} Check the name; for a private or gated data set, log in with "
                        "`hf auth login` first.") from None


def _require_answer(endpoint: str, source: str) -> None:
    """One short request. In a thread, because no timeout bounds the look-up of a host name."""
    problems: list[str] = ["no answer"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=TIMEOUT_SECONDS):
                problems.clear()
        except urllib.error.HTTPError:
            problems.clear()  # it answered
        except (OSError, ValueError) as error:
            problems[:] = [str(error)]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TIMEOUT_SECONDS)
    if problems:
        raise UserError(f"The source {source} needs the Hugging Face hub, but {endpoint} cannot be reached from here "
                        f"({problems[0]}). Use a preference file instead, connect this machine, or point HF_ENDPOINT "
                        f"at a mirror; HF_HUB_OFFLINE=1 uses a copy that is already in {_cache()}.")


def _cache() -> str:
    return os.environ.get("HF_HOME", "~/.cache/huggingface")
