"""A part that dies or cannot be started is started again; the status says meanwhile that it is down."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from subprocess import Popen
from threading import Thread

import pytest

from plumbline.commands.service import down
from plumbline.errors import UserError
from plumbline.project.home import Home, enter
from plumbline.project.service_lock import only_one
from plumbline.service import supervisor
from plumbline.service.parts import ServicePart
from plumbline.service.process import start
from plumbline.service.state import PartState, ServiceState, read_state
from plumbline.service.status import Status, lines
from testing.waiting import eventually

STAYS, DIES = ("sleep", "600"), ("sh", "-c", "echo its last words; exit 3")
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
SAID = f"could not be started: {NO_PROCESS}"
Start = Callable[..., "Popen[bytes]"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "STARTING_SECONDS"):
        monkeypatch.setattr(supervisor, name, 0.05)


def failing(*times: int) -> Start:
    """Return a `start` that finds no process at these times, counted from the first."""
    tried = 0

    def start_or_not(*arguments: object) -> "Popen[bytes]":
        nonlocal tried
        tried += 1
        if tried in times:
            raise NO_PROCESS
        return start(*arguments)  # type: ignore[arg-type]

    return start_or_not


@contextmanager
def supervised(home: Home, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A service with one part; gives what it says."""
    said: list[str] = []
    part = ServicePart("pages", "Plumbline", command, home.folder / "service" / "pages.log", end_seconds=1.0)
    monkeypatch.setattr(supervisor, "make_parts", lambda home, host: [part])
    with only_one(home.folder):
        service = supervisor.Service(home, "127.0.0.1", said.append)
        thread = Thread(target=service.run)
        thread.start()
        try:
            yield said
        finally:
            service.stop.set()
            thread.join()


def state(home: Home) -> ServiceState:
    found = read_state(home.folder)
    assert found is not None
    return found


def pages(home: Home) -> PartState:
    return state(home).parts[0]


def line(home: Home) -> str:
    """What `plumbline status` says of the part."""
    found: Status = {"up": True, "service": state(home), "prefect_key": None, "running": [], "damaged": [],
                     "due": "unknown", "not_run": None}
    return " ".join(next(one for one in lines(found) if "pages" in one).split())


def is_in(home: Home, status: str) -> Callable[[], bool]:
    def holds() -> bool:
        found = read_state(home.folder)
        return found is not None and found.parts[0].status == status

    return holds


@pytest.mark.parametrize("times", [(1,), (1, 2), (1, 2, 3, 4)])
def test_what_cannot_be_started_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch,
                                               times: tuple[int, ...]) -> None:
    monkeypatch.setattr(supervisor, "PAUSES", (0.0,))
    monkeypatch.setattr(supervisor, "start", failing(*times))
    with supervised(home, STAYS, monkeypatch) as said:
        eventually(is_in(home, "up"), "the start")
        found = pages(home)
        assert found.pid is not None
        os.kill(found.pid, 0)
        assert (found.restarts, found.problem) == (0, None)
        often = [f", {number} times now" if number >= supervisor.OFTEN else "" for number in times]
        assert said[:len(times)] == [f"Plumbline {SAID}{more}; starting it again." for more in often]


def test_what_died_and_cannot_be_started_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSES", (0.0,))
    monkeypatch.setattr(supervisor, "start", failing(2))
    with supervised(home, STAYS, monkeypatch) as said:
        eventually(is_in(home, "up"), "the start")
        first = pages(home).pid
        assert first is not None
        os.killpg(first, 9)
        eventually(lambda: is_in(home, "up")() and pages(home).pid != first, "the return")
        assert pages(home).restarts == 1
        assert [one for one in said if "again" in one] == ["Plumbline ended by signal 9; starting it again.",
                                                           f"Plumbline {SAID}; starting it again."]


def test_down_leaves_the_processes_of_this_machine_alone_where_up_runs_on_another(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / file).touch()
    monkeypatch.setenv("PLUMBLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    killed: list[int] = []
    monkeypatch.setattr("plumbline.commands.service.os.kill", lambda pid, _: killed.append(pid))
    with only_one(tmp_path / "home"):
        with pytest.raises(UserError, match=r"does not say as which process: .*state\.json is not there") as unsaid:
            down()
        ServiceState(4711, "elsewhere", "2026-11-21").save(tmp_path / "home")
        with pytest.raises(UserError, match=r"on elsewhere, as process 4711, and this is .*down` there"):
            down()
        assert "as process 4711 on elsewhere" in supervisor.already_up(Home(tmp_path, tmp_path / "home"))
    assert (killed, unsaid.value.exit_code) == ([], 2)


@pytest.mark.parametrize(("command", "times", "problem"), [(DIES, (), "ended with exit status 3"),
                                                           (STAYS, (1,), SAID)], ids=["died", "not started"])
def test_status_says_at_the_first_death_that_the_part_is_down(
        home: Home, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], times: tuple[int, ...],
        problem: str) -> None:
    monkeypatch.setattr(supervisor, "PAUSES", (600.0,))
    monkeypatch.setattr(supervisor, "start", failing(*times))
    with supervised(home, command, monkeypatch) as said:
        eventually(lambda: any("again" in one for one in said), "the death")
        found = pages(home)
        assert (found.status, found.pid, found.restarts, found.problem) == ("waiting", None, 0, problem)
        assert line(home) == f"pages waiting {problem}"
        assert said[-1] == f"Plumbline {problem}; starting it again in 600 s."


@pytest.mark.parametrize(("command", "times", "problem"), [
    (DIES, (), "ended with exit status 3, 3 times now: its last words. See {log}"),
    (STAYS, (1, 2, 3), f"{SAID}, 3 times now")], ids=["died", "not started"])
def test_who_died_again_and_again_is_failing(
        home: Home, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], times: tuple[int, ...],
        problem: str) -> None:
    monkeypatch.setattr(supervisor, "PAUSES", (0.0, 0.0, 600.0))
    monkeypatch.setattr(supervisor, "start", failing(*times))
    with supervised(home, command, monkeypatch):
        eventually(is_in(home, "failing"), "the third death")
        found = pages(home)
        assert (found.pid, found.restarts) == (None, 0 if times else 2)
        assert found.problem == problem.format(log=Path(found.log))


def test_a_part_is_asked_directly_where_there_is_a_proxy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as part:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
        enter(home)
        Thread(target=part.serve_forever, daemon=True).start()
        assert supervisor.answers(f"http://127.0.0.1:{part.server_port}/")
        part.shutdown()
