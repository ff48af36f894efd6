"""Keeps the parts of the service running: `python -m plumbline.service.supervisor HOST`, which `plumbline up`
becomes.

One thread a part starts it, asks it how it is, and starts it again when it died or no longer answers: at once
the first time, then after longer and longer pauses. A part that dies again and again is said so in one line.
The process that supervises imports next to nothing, so that it stays small and has little that could break.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen
from types import FrameType

from plumbline.errors import UserError
from plumbline.project.home import Home, enter, find_home
from plumbline.project.processes import end_group
from plumbline.project.service_lock import is_up, key_file, only_one, say_api_url
from plumbline.service.parts import LOCAL, ServicePart, common, make_parts, prefect_url
from plumbline.service.process import kill_marked, start
from plumbline.service.state import PartState, PartStatus, ServiceState, forget_state, read_state

LOOK_SECONDS = 1.0
STARTING_SECONDS = 0.3
"""Between two looks at a part that is well, and at one that starts."""
ASK_SECONDS = 15.0
"""Between two questions to a part how it is."""
ANSWER_SECONDS = 20.0
MOST_MISSED = 3
"""Questions in a row without an answer after which a part is started again."""
SETTLED_SECONDS = 300.0
"""A part that has been well for so long starts anew at the shortest pause."""
PAUSES = (0.0, 1.0, 5.0, 15.0, 60.0)
OFTEN = 3
LARGEST_LOG = 10_000_000

Say = Callable[[str], None]


class SupervisedPart(threading.Thread):
    """Thread that keeps one part running until the service stops."""

    def __init__(self, part: ServicePart, environment: dict[str, str], root: Path,
                 service: "Service") -> None:
        super().__init__(name=part.name, daemon=True)
        self.part, self.well = part, threading.Event()
        self.state = PartState(part.name, part.address, log=str(part.log))
        self._environment = {**environment, **part.environment}
        self._root, self._service = root, service
        self._deaths = 0

    def run(self) -> None:
        """Start the part, watch it, and start it again, until the service stops."""
        before = self._service.supervised.get(self.part.after or "")
        while before and not before.well.wait(STARTING_SECONDS):
            if self._service.stop.is_set():
                return
        started = False
        while not self._service.stop.is_set():
            sockets = [self.part.listener.fileno()] if self.part.listener else []
            try:
                process = start(self.part.command, self._environment, self.part.log, self._root, sockets)
            except OSError as error:  # no memory, process or disk is left for it, perhaps for a while only
                self._died(f"could not be started: {error}")
                continue
            if started:
                self.state.restarts += 1
            started = True
            self._is("starting", process.pid)
            problem = self._watch(process)
            self.well.clear()
            if self._service.stop.is_set():
                self._before_end()
            end_group(process, self.part.end_seconds)
            if self._service.stop.is_set():
                break
            self._died(problem, self.part.log)
        self._is("stopped", None)

    def _before_end(self) -> None:
        """Wait for the parts that still need this one while they end, and do what comes before its end."""
        for other in self._service.supervised.values():
            if other.part.after == self.part.name:
                other.join()
        if self.part.before_end:
            self.part.before_end()

    def _watch(self, process: "Popen[bytes]") -> str:
        """Return what is wrong with the process as soon as something is, or when the service stops."""
        started = asked = time.monotonic()
        missed = 0
        while not self._service.stop.wait(LOOK_SECONDS if self.well.is_set() else STARTING_SECONDS):
            _rotate(self.part.log)
            code = process.poll()
            if code is not None:
                return f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
            now = time.monotonic()
            if self.well.is_set() and now - asked < ASK_SECONDS:
                continue
            asked = now
            if answers(self.part.health):
                missed = 0
                if not self.well.is_set():
                    self.well.set()
                    self._is("up", process.pid)
                if now - started > SETTLED_SECONDS:
                    self._deaths = 0
            elif self.well.is_set():
                missed += 1
                if missed >= MOST_MISSED:
                    return f"did not answer {missed} times"
            elif now - started > self.part.start_seconds:
                return f"did not answer within {self.part.start_seconds:.0f} s of its start"
        return "stopped"

    def _died(self, problem: str, log: Path | None = None) -> None:
        """Say that the part is down, and wait until it is time to start it again. `log` may say why."""
        pause = PAUSES[min(self._deaths, len(PAUSES) - 1)]
        self._deaths += 1
        again = f"starting it again in {pause:.0f} s" if pause else "starting it again"
        often = self._deaths >= OFTEN
        if often:
            problem = f"{problem}, {self._deaths} times now"
            if log:
                last = _last_line(log)
                problem = f"{problem}{f': {last}' if last else ''}. See {log}"
        self._is("failing" if often else "waiting", None, problem)
        self._service.say(f"{self.part.title} {problem}; {again}.")
        self._service.stop.wait(pause)

    def _is(self, status: PartStatus, pid: int | None, problem: str | None = None) -> None:
        self.state.status, self.state.pid, self.state.since = status, pid, _now()
        if status == "up" or problem:
            self.state.problem = problem
        self._service.changed()


class Service:
    """All parts of a project, each supervised by a thread of this process."""

    def __init__(self, home: Home, host: str, say: Say) -> None:
        self.say, self.stop = say, threading.Event()
        self._home = home
        self._saving = threading.Lock()
        parts = make_parts(home, host)
        self._url = prefect_url(parts)
        environment = common(home)
        self.supervised = {part.name: SupervisedPart(part, environment, home.root, self) for part in parts}
        self._state = ServiceState(os.getpid(), socket.gethostname(), _now())
        self._state.parts = [one.state for one in self.supervised.values()]

    def run(self) -> None:
        """Keep all parts running until `stop` is set, then end them."""
        self.changed()
        say_api_url(self._home.folder, self._url)
        for one in self.supervised.values():
            one.start()
        self._announce()
        while not self.stop.wait(1.0):
            continue
        say_api_url(self._home.folder, None)
        for one in self.supervised.values():
            one.join()
        left = kill_marked(self._home.folder)
        self.say("Stopped." if not left else f"Stopped; {left} processes had to be ended separately.")

    def changed(self) -> None:
        """Save the state of the parts."""
        with self._saving, contextlib.suppress(OSError):  # a full disk must not end the service
            self._state.save(self._home.folder)

    def _announce(self) -> None:
        """Print the address of each part as soon as it is up."""
        waiting = dict(self.supervised)
        deadline = time.monotonic() + 2 * max(one.part.start_seconds for one in waiting.values())
        while waiting and time.monotonic() < deadline and not self.stop.wait(STARTING_SECONDS):
            for name in [name for name, one in waiting.items() if one.well.is_set()]:
                part = waiting.pop(name).part
                self.say(f"{part.title:<10} {part.address or 'serves the deployments'}")
        if not waiting:
            if self._url:
                self.say(f"Prefect's pages ask for a key: it is in {key_file(self._home.folder)}.")
            self.say("Up. Ctrl-C stops everything; `plumbline status` says more. `plumbline ui --show-token "
                     f"--port {self.supervised['pages'].part.port}` prints the address that signs you in.")


def answers(health: str | None) -> bool:
    """True if the health address answers 200, or if there is none."""
    if health is None:
        return True
    try:
        with urllib.request.urlopen(health, timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def already_up(home: Home) -> str:
    """Return a message with the addresses of the service that is running."""
    state = read_state(home.folder)
    if state is None:
        return "Plumbline is being started for this project by another process. `plumbline status` says more."
    places = ", ".join(f"{part.name} {part.address}" for part in state.parts if part.address)
    return (f"Plumbline is up for this project already, since {state.started} as process {state.pid} "
            f"on {state.host}: {places}. `plumbline status` says more; `plumbline down` stops it.")


def _rotate(log: Path) -> None:
    """Copy a log that has grown too large and empty it: the part goes on adding to the same file."""
    with contextlib.suppress(OSError):  # the disk is full, or there is no log yet
        if log.stat().st_size > LARGEST_LOG:
            before = log.with_suffix(".log.1")
            with contextlib.suppress(OSError):
                shutil.copy(log, before)  # its permissions too: only its owner reads it
            os.truncate(log, 0)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace")[-4000:].strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300].rstrip(".") if lines else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever listened may be gone
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def main(host: str = LOCAL) -> None:
    """Run the service of the project in the current folder until SIGINT, SIGTERM or SIGHUP."""
    home = find_home()
    enter(home)
    try:
        with only_one(home.folder):
            say_api_url(home.folder, None)  # what a killed one has left
            forget_state(home.folder)  # it would speak of processes that end now
            kill_marked(home.folder)  # before the ports are looked for, which they may still hold
            service = Service(home, host, _say)

            def stop(_signal: int, _frame: FrameType | None) -> None:
                service.stop.set()

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, stop)
            service.run()
    except UserError as error:
        sys.stderr.write(f"{already_up(home) if is_up(home.folder) else error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
