"""A service that is up, for the tests of what it does."""

from collections.abc import Iterator

import pytest

from testing.always_on_project import make_always_on
from testing.databases import Databases
from testing.running_service import Up
from testing.waiting import eventually
from testing.webhook_receiver import Receiver, receiving


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """What a webhook is told by the service."""
    with receiving() as found:
        yield found


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, databases: Databases) -> Iterator[Up]:
    """The service that all tests share, because it takes long to start."""
    service = Up(make_always_on(tmp_path_factory.mktemp("always") / "on", webhook=receiver.url))
    databases.give(service.home)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def up(service: Up, monkeypatch: pytest.MonkeyPatch) -> Up:
    """The shared service, up and without a run, whatever the test before has left; this process sends it events."""
    if not service.running:
        service.start()
    eventually(lambda: service.all_are("up"), "up")
    eventually(service.quiet, "the end of earlier runs")
    for name, value in service.client.items():
        monkeypatch.setenv(name, value)
    return service
