"""Tiny language models, made once a session; and which tests run beside which."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testing.depth import register_depths
from testing.homes import empty_store, home, recording_home
from testing.recorded_project import recorded_project
from testing.remotes import s3
from testing.stored_runs import here, there

if TYPE_CHECKING:
    from plumbline.lm.base import LanguageModel

__all__ = ["empty_store", "here", "home", "recorded_project", "recording_home", "s3", "there"]

LONGEST = ("service", "flows", "test_end_to_end", "deploy/test_compose_services", "web/test_browser",
           "history/test_history", "tracking/test_outage", "web/test_try_it", "commands/test_data")
"""The groups that take minutes: they begin first, so that none of them is alone at the end."""

# Where the tests are started in the background SIGINT is ignored, and every process that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
register_depths()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run all tests of a file, unless they have a wider group: `--dist loadgroup` goes by it."""
    groups: dict[pytest.Item, str] = {}
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        if marker is None:
            file = item.path.relative_to(Path(__file__).parent).with_suffix("")
            marker = pytest.mark.xdist_group(file.as_posix()).mark
            item.add_marker(pytest.mark.xdist_group(file.as_posix()))
        groups[item] = marker.args[0]
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tokenizer():
    from testing.tiny_models import small_tokenizer

    return small_tokenizer()


@pytest.fixture(scope="session")
def random_lm(tokenizer) -> "LanguageModel":
    """Untrained; do not change its weights."""
    from plumbline.lm.base import LanguageModel
    from testing.tiny_models import small_model

    return LanguageModel(small_model(tokenizer), tokenizer)


@pytest.fixture(scope="session")
def taught_lm(random_lm):
    """Fine-tuned to answer anything with one to three colors; do not change its weights."""
    from plumbline.alignment.sft import train_sft
    from testing.tiny_models import copy_of, demonstrations, sft_params, silent

    lm = copy_of(random_lm)
    train_sft(lm, demonstrations(), [], sft_params(epochs=8), seed=0, report=silent)
    return lm


@pytest.fixture(scope="session")
def taught_folder(taught_lm, tmp_path_factory):
    from testing.tiny_models import copy_of

    folder = tmp_path_factory.mktemp("taught")
    copy_of(taught_lm).save(folder)
    return folder
