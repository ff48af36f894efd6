"""`plumbline ui` as a process: the address, the token, the port, and a quiet end."""

import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from testing.fake_project import environment
from testing.sites import Serve, Server

pytestmark = pytest.mark.slow


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A project in which nothing has been run."""
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / file).write_text((Path(__file__).parents[2] / file).read_text())
    return tmp_path


def ui(root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "plumbline", "ui", *options], cwd=root, env=environment(),
                          capture_output=True, text=True, timeout=60, check=False)


def ended(server: Server, by: signal.Signals) -> tuple[int, float, str]:
    """Exit status, seconds, and everything it said."""
    server.process.send_signal(by)
    started = time.monotonic()
    output, _ = server.process.communicate(timeout=20)
    return server.process.returncode, time.monotonic() - started, output


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_quietly(serve: Serve, bare: Path, by: signal.Signals) -> None:
    server = serve(bare)
    with httpx.Client() as visitor:  # keeps its connection open
        assert visitor.get(server.url).status_code == 200
        status, seconds, output = ended(server, by)
    assert (status, "Traceback" in output, "Cancelled" in output) == (0, False, False)
    assert seconds < 10  # far less than the time that an open connection would be waited for


def test_the_token_is_printed_at_the_first_start_only(serve: Serve, bare: Path) -> None:
    first = serve(bare)
    output = ended(first, signal.SIGTERM)[2]
    assert output.count(first.token) == 1
    address = next(word for word in output.split() if word.startswith("http"))
    assert address == f"{first.url}/?token={first.token}"
    assert stat.S_IMODE((bare / ".plumbline/token").stat().st_mode) == 0o600
    second = serve(bare)
    assert second.token == first.token
    with httpx.Client(follow_redirects=True) as visitor:
        assert "Signed in" in visitor.get(f"{second.url}/?token={second.token}").text
    output = ended(second, signal.SIGTERM)[2]
    assert second.token not in output
    assert "--show-token" in output


def test_it_can_be_printed_again(bare: Path) -> None:
    shown = ui(bare, "--show-token", "--port", "1234")
    token = (bare / ".plumbline/token").read_text().strip()
    assert (shown.returncode, shown.stdout) == (0, f"http://127.0.0.1:1234/?token={token}\n")


def test_a_taken_port_is_one_sentence(bare: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = ui(bare, "--port", str(port))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Port {port} is in use")
    assert len(refused.stderr.strip().splitlines()) == 1


def test_an_address_of_another_machine_is_one_sentence(bare: Path) -> None:
    refused = ui(bare, "--host", "192.0.2.1")
    assert refused.returncode == 2
    assert "Cannot listen on 192.0.2.1" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_outside_of_a_project(tmp_path: Path) -> None:
    refused = ui(tmp_path)
    assert refused.returncode == 2
    assert "not inside a Plumbline project" in refused.stderr


def test_only_this_machine_reaches_it(serve: Serve, bare: Path) -> None:
    port = int(serve(bare).url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.connect(("127.0.0.1", port))
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((str(address), port)) != 0


def test_a_run_that_another_process_recorded_appears(serve: Serve, project: Path, tmp_path: Path) -> None:
    """The server reads MLflow again by itself."""
    server = serve(project)
    runs = sorted(folder.name for folder in (project / "runs").iterdir())
    page = httpx.get(f"{server.url}/runs").text
    assert runs[-1] in page
