"""DVC remotes: any, and a bucket on an S3-compatible server of the session."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from plumbline.project.home import Home

KEYS = {"access_key_id": "anyone", "secret_access_key": "anything"}


def add_remote(home: Home, name: str, url: str, **options: str) -> None:
    lines = "".join(f"    {key} = {value}\n" for key, value in options.items())
    with (home.root / ".dvc/config").open("a") as out:
        out.write(f"['remote \"{name}\"']\n    url = {url}\n{lines}")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3-compatible server with an empty bucket `kept`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/kept", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()
