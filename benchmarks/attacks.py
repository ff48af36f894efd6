"""Attacks on the pages by somebody without the token, or with a small file that becomes a large one.

    python benchmarks/attacks.py

It starts `plumbline ui` over an empty project with as few file descriptors as a shell usually gives, and prints what
each attack should come to and what it came to. Exit status 1 where one succeeds. It ends by itself within minutes, and
asks nobody but the server that it has started.
"""

import contextlib
import gzip
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from testing.fake_project import environment  # noqa: E402

DESCRIPTORS, SOCKETS = 1024, 1100
LOG_BYTES = 1_000_000
SECRET = "c2VjcmV0"
SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A running `plumbline ui`."""

    root: Path
    port: int
    pid: int
    log: Path

    @property
    def token(self) -> str:
        return (self.root / ".plumbline/token").read_text().strip()

    def ask(self, path: str = "/api/health", body: bytes | None = None, **headers: str) -> tuple[int, float]:
        """Status (0 for none) and seconds."""
        started = time.monotonic()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body,
                                         {name.replace("_", "-"): value for name, value in headers.items()})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, time.monotonic() - started
        except urllib.error.HTTPError as error:
            return error.code, time.monotonic() - started
        except OSError:
            return 0, time.monotonic() - started

    def peak(self) -> float:
        """Megabytes of memory at the most so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


@contextlib.contextmanager
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        root = Path(name)
        for file in ("params.yaml", "dvc.yaml"):
            shutil.copy(CHECKOUT / file, root)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        log = root / "log"
        command = f"ulimit -n {DESCRIPTORS}; exec {sys.executable} -m plumbline ui --port {port}"
        with log.open("wb") as out:
            process = subprocess.Popen(["sh", "-c", command], cwd=root, stdout=out, stderr=out,
                                       env=environment(PLUMBLINE_ARGILLA_SECRET=SECRET))
        found = Target(root, port, process.pid, log)
        try:
            deadline = time.monotonic() + 120
            while found.ask()[0] != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
            yield found
        finally:
            process.kill()
            process.wait()


def idle_connections(at: Target) -> tuple[bool, str]:
    """More sockets than the server has descriptors, each with half a request."""
    peers = []
    for _ in range(SOCKETS):
        with contextlib.suppress(OSError):
            peer = socket.create_connection(("127.0.0.1", at.port), timeout=5)
            peers.append(peer)
            peer.send(b"GET / HTTP/1.1\r\n")
    status, seconds = at.ask()
    time.sleep(5)
    for peer in peers:
        peer.close()
    size = at.log.stat().st_size
    return status == 200 and seconds < 5 and size < LOG_BYTES, f"{status} after {seconds:.1f} s, log of {size:,} bytes"


def bodies_of_strangers(at: Target) -> tuple[bool, str]:
    """Eight bodies of 31 MB that are not finished, without any token."""
    before, piece = at.peak(), b"x" * 1_000_000

    def send() -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", at.port), timeout=5) as peer:
            peer.sendall(f"POST /api/preferences HTTP/1.1\r\nHost: 127.0.0.1:{at.port}\r\n"
                         "Content-Length: 31000000\r\n\r\n".encode())
            for _ in range(30):
                peer.sendall(piece)
            time.sleep(2)

    senders = [threading.Thread(target=send) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    more = at.peak() - before
    return more < 60, f"{more:.0f} MB more"


def unsigned_webhooks(at: Target) -> tuple[bool, str]:
    """A deep and a wide body with a wrong signature; both used to be decoded."""
    before, logged = at.peak(), at.log.stat().st_size
    signed = {"webhook_id": "x", "webhook_timestamp": "1", "webhook_signature": "v1,AAAA"}
    deep = at.ask("/hooks/argilla", b"[" * 200_000, **signed)
    wide = at.ask("/hooks/argilla", b'{"a":[' + b"{}," * 600_000 + b"{}]}", **signed)
    large = at.ask("/hooks/argilla", b" " * 31_000_000, **signed)
    more, written = at.peak() - before, at.log.stat().st_size - logged
    good = (deep[0], wide[0]) == (401, 401) and large[0] in (413, 0) and more < 60 and written < 1000
    said = f"{deep[0]}, {wide[0]} after {wide[1]:.2f} s, {large[0] or 'hung up'}"
    return good, f"{said}; {more:.0f} MB, {written} bytes of log"


def wrong_tokens(at: Target) -> tuple[bool, str]:
    """A page of another site, and then a program, send wrong tokens; then the right one comes."""
    for number in range(30):
        at.ask(f"/?token=wrong{number}", sec_fetch_site="cross-site")
        at.ask("/api/preferences", b"{}", authorization=f"Bearer wrong{number}")
    status, _ = at.ask("/api/preferences", row(1), authorization=f"Bearer {at.token}")
    return status == 201, f"the right one: {status}"


def a_table_of_nothing(at: Target) -> tuple[bool, str]:
    """A Parquet file of 1.5 KB with one text of 8 MB in two thousand cells."""
    import io

    import pyarrow
    from pyarrow import parquet

    cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1024, pyarrow.int32()),
                                                pyarrow.array(["x" * 8 * 2**20]))
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"prompt": cells, "chosen": cells, "rejected": ["no"] * 1024}), out,
                        compression="zstd", dictionary_pagesize_limit=2**30)
    return posted(at, out.getvalue(), (422,), 400)


def a_packed_file_of_nothing(at: Target) -> tuple[bool, str]:
    """A gzip file of 600 KB that unpacks to 600 MB."""
    return posted(at, gzip.compress(row(2) * 9_000_000)[:700_000], (201, 422), 400)


def unusable_rows(at: Target) -> tuple[bool, str]:
    """13 MB of rows that are none."""
    return posted(at, b"1\n" * 6_500_000, (422,), 400)


def posted(at: Target, body: bytes, expected: tuple[int, ...], most: float) -> tuple[bool, str]:
    before = at.peak()
    status, seconds = at.ask("/api/preferences", body, authorization=f"Bearer {at.token}")
    kept = sum(file.stat().st_size for file in (at.root / "data").rglob("*") if file.is_file()) / 1e6
    more = at.peak() - before
    good = status in expected and more < most and kept < 400
    return good, f"{len(body):,} bytes: {status} after {seconds:.1f} s, {more:.0f} MB more, {kept:.0f} MB on the disk"


def row(number: int) -> bytes:
    return json.dumps({"prompt": f"Why {number}?", "chosen": "yes", "rejected": "no"}).encode() + b"\n"


ATTACKS: dict[str, tuple[Callable[[Target], tuple[bool, str]], str]] = {
    "1,100 idle connections": (idle_connections, "200, and a small log"),
    "bodies without a token": (bodies_of_strangers, "not kept in memory"),
    "unsigned webhooks": (unsigned_webhooks, "401, 401, 413; nothing decoded, nothing logged"),
    "wrong tokens of others": (wrong_tokens, "201 for the right one"),
    "Parquet bomb": (a_table_of_nothing, "422, little memory"),
    "gzip bomb": (a_packed_file_of_nothing, "an answer, little memory, little disk"),
    "unusable rows": (unusable_rows, "422 in seconds, nothing on the disk"),
}


def main() -> None:
    """Try all of them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))  # ours, to hold the sockets
    failed = 0
    with target() as at:
        for name, (attack, expected) in ATTACKS.items():
            held, found = attack(at)
            failed += not held
            sys.stdout.write(f"{'held  ' if held else 'FAILED'}  {name:<24} {expected:<50} {found}\n")
            sys.stdout.flush()
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
