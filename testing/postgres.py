"""A PostgreSQL server in a temporary folder, for tests and benchmarks.

PostgreSQL does not run as root; there, the account `postgres` runs it.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testing.servers import free_port


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    folder: Path
    port: int

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """The address of one of its databases."""
        return f"{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """End the server and delete its data."""
        _as_owner([_program("pg_ctl"), "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop"])
        shutil.rmtree(self.folder, ignore_errors=True)


def start_cluster() -> Cluster | None:
    """A server with its defaults, so with durable commits; None where PostgreSQL is not installed."""
    if shutil.which("initdb") is None or (os.getuid() == 0 and not _has_account()):
        return None
    folder = Path(tempfile.mkdtemp(prefix="plumbline-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    port = free_port()
    data = folder / "data"
    _as_owner([_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-instructions"])
    _as_owner([_program("pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "start", "-o",
               f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"])
    return Cluster(folder, port)


def _as_owner(command: list[str]) -> None:
    user = "postgres" if os.getuid() == 0 else None
    done = subprocess.run(command, user=user, group=user, cwd="/tmp", text=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found
    return str(Path(found).resolve())


def _has_account() -> bool:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return False
    return True
