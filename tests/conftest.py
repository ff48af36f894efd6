"""Tiny language models, made once a session; and which tests run beside which."""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from testing.databases import databases, mlflow_database, tables_made_before
from testing.depth import register_depths
from testing.homes import empty_store, home, recording_home
from testing.recorded_project import recorded_project
from testing.remotes import s3
from testing.stored_runs import here, there

if TYPE_CHECKING:
    from plumbline.lm.base import LanguageModel

__all__ = ["databases", "empty_store", "here", "home", "mlflow_database", "recorded_project", "recording_home", "s3",
           "tables_made_before", "there"]

SHARED = {"tests/service/test_always_on": "service", "tests/service/test_prefect_guard": "service",
          "tests/service/test_up": "service", "tests/flows/": "flows"}
"""Files whose tests share servers, by the beginnings of their names: one worker runs them all."""
LONGEST = ("service", "flows", "tests/test_end_to_end.py", "tests/deploy/test_compose_services.py",
           "tests/web/test_browser.py", "tests/history/test_history.py", "tests/tracking/test_outage.py",
           "tests/web/test_try_it.py", "tests/commands/test_data.py")
"""What takes minutes: it begins first, so that none of it is alone at the end."""

# Where the tests are started in the background SIGINT is ignored, and every process that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
register_depths()


def group_of(test: str) -> str:
    """Return the group of a test, by its node id: its file, or the group whose servers it shares."""
    file = test.partition("::")[0]
    return next((group for start, group in SHARED.items() if file.startswith(start)), file)


class ByGroup(LoadScopeScheduling):
    """Gives all tests of a group to one worker; with pytest 9.2 `--dist loadgroup` does not."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return LONGEST.index(group) if group in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """Take back what a test wrote into the environment, such as the project that it entered."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


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
    from testing.tiny_models import NOWHERE, copy_of, demonstrations, sft_params, silent

    lm = copy_of(random_lm)
    train_sft(lm, demonstrations(), [], sft_params(epochs=9.4), seed=0, report=silent, checkpoint_folder=NOWHERE)
    return lm


@pytest.fixture(scope="session")
def taught_folder(taught_lm, tmp_path_factory):
    from testing.tiny_models import copy_of

    folder = tmp_path_factory.mktemp("taught")
    copy_of(taught_lm).save(folder)
    return folder
