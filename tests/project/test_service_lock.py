"""Whether a `plumbline up` runs: told by a lock that dies with its holder."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.service_lock import api_url, is_up, only_one, say_api_url

HOLDER = """
import sys, time
from pathlib import Path
from plumbline.project.service_lock import only_one, say_api_url
with only_one(Path(sys.argv[1])):
    say_api_url(Path(sys.argv[1]), "http://127.0.0.1:4200/api")
    print("held", flush=True)
    time.sleep(600)
"""


def hold(home: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(home)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_nothing_runs_at_first(tmp_path: Path) -> None:
    assert not is_up(tmp_path)
    assert api_url(tmp_path) is None


def test_there_is_one_and_others_find_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = hold(tmp_path)
    try:
        assert is_up(tmp_path)
        with pytest.raises(UserError, match="up for this project already"), only_one(tmp_path):
            pass
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_AUTH_STRING"):
            monkeypatch.delenv(name, raising=False)
        home = Home(tmp_path, tmp_path)
        assert home.environment()["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
        key = home.environment()["PREFECT_API_AUTH_STRING"]
        assert len(key) > 40, "and what that server asks for"
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")  # the same one, named by hand
        assert home.environment()["PREFECT_API_AUTH_STRING"] == key
        monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")  # what the user set wins
        assert not {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"} & set(home.environment())
    finally:
        process.kill()
        process.wait()
    # The file is still there, but nobody believes it.
    assert api_url(tmp_path) is None
    assert not is_up(tmp_path)


@pytest.mark.parametrize(("state", "url"), [
    ('{"host": "elsewhere"}', None), (json.dumps({"host": socket.gethostname()}), "http://127.0.0.1:4200/api"),
    ("{", "http://127.0.0.1:4200/api"), ("[]", "http://127.0.0.1:4200/api")])
def test_the_server_of_another_machine_is_not_looked_for_on_this_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, url: str | None) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    with only_one(tmp_path):
        say_api_url(tmp_path, "http://127.0.0.1:4200/api")
        (tmp_path / "service/state.json").write_text(state)
        assert api_url(tmp_path) == url
        environment = Home(tmp_path, tmp_path).environment()
    assert environment.get("PREFECT_API_URL") == url
    assert ("PREFECT_API_AUTH_STRING" in environment) is (url is not None)


def test_asking_does_not_keep_others_from_starting(tmp_path: Path) -> None:
    for _ in range(20):
        with only_one(tmp_path):
            assert is_up(tmp_path)
        assert not is_up(tmp_path)
    say_api_url(tmp_path, "http://x")
    say_api_url(tmp_path, None)
    say_api_url(tmp_path, None)
    assert api_url(tmp_path) is None
    assert [file.name for file in (tmp_path / "service").iterdir()] == ["lock"]
