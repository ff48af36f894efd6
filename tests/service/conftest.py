"""A service that is up, for the tests of what it does."""

from collections.abc import Iterator

import pytest

from testing.always_on_project import make_always_on
from testing.running_service import Up


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service that the tests of a module share."""
    service = Up(make_always_on(tmp_path_factory.mktemp("always") / "on"))
    try:
        service.start()
        yield service
    finally:
        service.stop()
