"""How many verdicts a second the feedback page takes, and whether any is lost when the server is killed.

    python benchmarks/feedback_load.py                              # SQLite and PostgreSQL, a minute each
    python benchmarks/feedback_load.py sqlite --seconds 5 --rate 200

The server is the real `plumbline ui`, as a process of its own; the clients send real HTTP with the token, each on a
connection that it keeps. They send at a steady rate, whether or not the answers come, so that waiting shows. Then the
same again, with kill -9 of the server in the middle: a client that got no answer sends the same verdict again. At the
end the store is read: every acknowledged verdict must be there exactly once, and nothing that nobody sent.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from sqlalchemy import create_engine, select, text  # noqa: E402

from plumbline.feedback.schema import verdicts  # noqa: E402
from plumbline.feedback.store import FeedbackStore  # noqa: E402
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair  # noqa: E402
from plumbline.preferences.types import Message  # noqa: E402
from plumbline.project.home import Home  # noqa: E402
from testing.fake_project import environment  # noqa: E402
from testing.postgres import start_cluster  # noqa: E402

CLIENTS = 50
PAIRS = 200
CHOICES = ("A", "B", "tie", "both bad", "skip")
STARTUP_SECONDS = 60
GIVE_UP_SECONDS = 60


@dataclass
class Tally:
    """What the clients saw."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    """Seconds from the moment at which a verdict was due until its acknowledgement, by key."""
    sent: set[str] = field(default_factory=set)
    again: int = 0
    """Verdicts sent once more because no answer came."""
    seconds: float = 0.0
    """From the first verdict to the last answer."""
    refused: list[str] = field(default_factory=list)


class Server:
    """`plumbline ui` over a project."""

    def __init__(self, home: Home, variables: dict[str, str]) -> None:
        self.home, self.variables = home, variables
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.home.root / "server.log").open("a")
        self.process = subprocess.Popen([sys.executable, "-m", "plumbline", "ui", "--port", str(self.port)],
                                        cwd=self.home.root, env=environment(PYTHONPATH=str(CHECKOUT), **self.variables),
                                        stdout=log, stderr=log)
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=30).close()
                return
            time.sleep(0.05)
        raise SystemExit(f"the server did not start: {(self.home.root / 'server.log').read_text()}")

    def kill(self) -> None:
        """As the kernel does when memory runs out: no handler runs."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Client:
    """One person, on one connection."""

    def __init__(self, number: int, server: Server, token: str, tally: Tally) -> None:
        self.server, self.tally, self.number = server, tally, number
        self.head = (f"Host: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {token}\r\n"
                     f"Cookie: plumbline-annotator=client{number}; plumbline-session=session{number}\r\n"
                     "Content-Type: application/x-www-form-urlencoded\r\n")
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, pairs: list[str], rate: float, seconds: float) -> None:
        """Send verdicts at `rate` a second."""
        begin = time.perf_counter() + secrets.randbelow(1000) / 1000 / rate
        for turn in range(int(rate * seconds)):
            due = begin + turn / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            key = f"{self.number}-{turn}-{secrets.token_hex(8)}"
            body = urlencode({"pair": pairs[(self.number * 7 + turn) % len(pairs)], "key": key, "shown": "1,0",
                              "choice": CHOICES[turn % len(CHOICES)]})
            self.tally.sent.add(key)
            await self.until_answered(key, body, due)
        if self.stream:
            self.stream[1].close()

    async def until_answered(self, key: str, body: str, due: float) -> None:
        """Send a verdict, again and again where no answer comes."""
        while time.perf_counter() - due < GIVE_UP_SECONDS:
            try:
                status = await self.post(body)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.stream = None
                self.tally.again += 1
                await asyncio.sleep(0.2)
                continue
            if status == 303:
                self.tally.acknowledged[key] = time.perf_counter() - due
            else:
                self.tally.refused.append(f"{status} for {key}")
            return
        self.tally.refused.append(f"no answer for {key}")

    async def post(self, body: str) -> int:
        """One request; the status of its answer."""
        if self.stream is None:
            self.stream = await asyncio.open_connection("127.0.0.1", self.server.port)
        reader, writer = self.stream
        length = f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(f"POST /feedback/verdicts HTTP/1.1\r\n{self.head}{length}{body}".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode()
        rest = next((int(line.split(":")[1]) for line in head.lower().split("\r\n")
                     if line.startswith("content-length:")), 0)
        await reader.readexactly(rest)
        return int(head.split()[1])


async def load(server: Server, pairs: list[str], rate: float, seconds: float, kill: bool) -> Tally:
    """All clients at once; halfway the server dies, if it is to, and comes back."""
    token, tally = (server.home.folder / "token").read_text().strip(), Tally()
    clients, begun = [Client(number, server, token, tally) for number in range(CLIENTS)], time.perf_counter()
    tasks = [asyncio.create_task(client.run(pairs, rate / CLIENTS, seconds)) for client in clients]
    if kill:
        await asyncio.sleep(seconds / 2)
        server.kill()
        await asyncio.to_thread(server.start)
    await asyncio.gather(*tasks)
    tally.seconds = time.perf_counter() - begun
    return tally


def make_project(folder: Path) -> Home:
    """A checkout with nothing in it but its parameters."""
    folder.mkdir(parents=True)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(CHECKOUT / file, folder / file)
    return Home(folder, folder / ".plumbline")


def make_pairs(store: FeedbackStore) -> list[str]:
    """Something to judge."""
    made = [OfferedPair((Message("user", f"Question {number}? " + "word " * 40),),
                        (OfferedAnswer(f"Answer {number}. " + "good " * 40, "champion", "c.dir", 1.0),
                         OfferedAnswer(f"Answer {number}. " + "fine " * 40, "SFT", "s.dir", 0.9)),
                        "close", "question", "feedback") for number in range(PAIRS)]
    store.add_pairs(made)
    return [pair.id for pair in made]


def check(store: FeedbackStore, tallies: list[Tally]) -> tuple[int, list[str]]:
    """How many verdicts the store holds, and what is wrong with them."""
    with store.reading.connect() as connection:
        kept = [row.key for row in connection.execute(select(verdicts.c.key))]
    acknowledged = {key for tally in tallies for key in tally.acknowledged}
    sent = {key for tally in tallies for key in tally.sent}
    problems = [f"{len(acknowledged - set(kept))} acknowledged verdicts are lost"] if acknowledged - set(kept) else []
    problems += [f"{len(kept) - len(set(kept))} are there twice"] if len(kept) > len(set(kept)) else []
    problems += [f"{len(set(kept) - sent)} were sent by nobody"] if set(kept) - sent else []
    return len(kept), problems + [one for tally in tallies for one in tally.refused][:5]


def measure(database: str, rate: float, seconds: float, folder: Path) -> bool:
    """Both loads on one kind of database, and what came of them; whether all was well."""
    cluster, variables = None, {}
    if database == "postgresql":
        cluster = start_cluster()
        if cluster is None:
            print(f"| {database} | not installed here |")
            return True
        engine = create_engine(cluster.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE feedback"))
        variables = {"PLUMBLINE_FEEDBACK_URL": cluster.url("feedback", "postgresql")}
    home = make_project(folder / database)
    server = None
    try:
        os.environ.update(variables)
        store = FeedbackStore.open(home)
        pairs, server = make_pairs(store), Server(home, variables)
        plain = asyncio.run(load(server, pairs, rate, seconds, kill=False))
        killed = asyncio.run(load(server, pairs, rate, seconds, kill=True))
        kept, problems = check(store, [plain, killed])
        show(database, "steady", rate, plain)
        show(database, "kill -9 halfway", rate, killed)
        print(f"\n{database}: {len(plain.acknowledged) + len(killed.acknowledged):,} acknowledged, {kept:,} in the "
              f"store; {'; '.join(problems) or 'each acknowledged one exactly once'}\n", flush=True)
        store.close()
        return not problems
    finally:
        if server:
            server.kill()
        if cluster:
            cluster.stop()


def show(database: str, what: str, rate: float, tally: Tally) -> None:
    """A line of the table."""
    waits = sorted(tally.acknowledged.values())
    middle, late = statistics.median(waits), waits[int(0.99 * len(waits))]
    figures = (rate, len(waits) / tally.seconds, 1000 * middle, 1000 * late, 1000 * waits[-1], tally.again)
    print(f"| {database} | {what} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |", flush=True)


def main() -> None:
    """Run the loads that were asked for. Exit status 1: a verdict was lost, doubled or refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("databases", nargs="*", default=["sqlite", "postgresql"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500, help="verdicts a second, of all clients together")
    options = parser.parse_args()
    print("| database | load | sent a second | acknowledged a second | median ms | 99 % ms | longest ms | sent again |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="feedback-load-"))
    try:
        well = [measure(database, options.rate, options.seconds, folder) for database in options.databases]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
