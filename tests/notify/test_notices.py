"""Notices reach a webhook signed, survive a receiver that is away, and are given up in the end."""

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plumbline.notify import notices
from plumbline.notify.notices import MOST_ATTEMPTS, deliver, notify, waiting
from plumbline.notify.prefect_events import send
from plumbline.project.home import Home
from testing.webhook_receiver import Receiver, receiving

SECRET = base64.b64encode(b"between us").decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PLUMBLINE_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(notices, "PAUSES", (0.0,))
    return Home(tmp_path, tmp_path / ".plumbline")


def test_it_arrives_signed(home: Home, receiver: Receiver) -> None:
    notify(home, receiver.url, "plumbline.run.finished", "plumbline.run.1", {"run": "1", "text": "größer"})
    headers, body = receiver.got[0]
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(base64.b64decode(SECRET), content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    values = json.loads(body)
    assert (values["type"], values["data"]["text"], values["id"]) == ("plumbline.run.finished", "größer",
                                                                      headers["webhook-id"])
    assert waiting(home) == []


def test_without_a_secret_it_is_not_signed(home: Home, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUMBLINE_WEBHOOK_SECRET")
    notify(home, receiver.url, "plumbline.run.finished", "plumbline.run.1", {})
    assert "webhook-signature" not in receiver.got[0][0]


def test_a_receiver_that_is_away_gets_it_later(home: Home, receiver: Receiver) -> None:
    receiver.status = 503
    notify(home, receiver.url, "plumbline.gate.failed", "plumbline.run.1", {"run": "1"})
    assert "503" in str(waiting(home)[0].problem)
    deliver(home)
    receiver.status = 204
    deliver(home)
    assert waiting(home) == []
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 3
    deliver(home)
    assert len(receiver.got) == 3


def test_nobody_at_the_address(home: Home) -> None:
    notify(home, "http://127.0.0.1:9/hook", "plumbline.run.failed", "plumbline.run.1", {})
    assert "did not take it" in str(waiting(home)[0].problem)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_delivery(home: Home, receiver: Receiver, status: int) -> None:
    """It would lose the body, and carry the signature to another server."""
    with receiving() as elsewhere:
        receiver.status, receiver.headers = status, {"location": elsewhere.url}
        notify(home, receiver.url + "/SECRETPATH", "plumbline.run.failed", "plumbline.run.1", {})
        assert str(status) in str(waiting(home)[0].problem)
        assert elsewhere.got == []
    problem = str(waiting(home)[0].problem)
    assert problem.startswith(f"{receiver.url.removesuffix('/hook')}/*** did not take it")
    receiver.status, receiver.headers = 200, {}
    deliver(home)
    assert waiting(home) == []


def test_the_key_of_prefect_goes_to_no_other_server(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as elsewhere:
        receiver.status, receiver.headers = 307, {"location": elsewhere.url}
        monkeypatch.setenv("PREFECT_API_URL", receiver.url)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "a key")
        assert "307" in str(send("plumbline.run.failed", "plumbline.run.1", {}))
        assert "authorization" in receiver.got[0][0]
        assert elsewhere.got == []


def test_it_is_given_up_in_the_end(home: Home, receiver: Receiver) -> None:
    receiver.status = 500
    notify(home, receiver.url, "plumbline.run.failed", "plumbline.run.1", {})
    lost = [given_up for _ in range(MOST_ATTEMPTS) for given_up in deliver(home)]
    assert [notice.event for notice in lost] == ["plumbline.run.failed"]
    assert waiting(home) == []


def test_the_next_attempt_waits(home: Home, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "PAUSES", (3600.0,))
    receiver.status = 500
    notify(home, receiver.url, "plumbline.run.failed", "plumbline.run.1", {})
    deliver(home)
    assert len(receiver.got) == 1


def test_nobody_to_tell(home: Home) -> None:
    notify(home, None, "plumbline.run.finished", "plumbline.run.1", {})
    assert waiting(home) == []


def test_a_broken_file_stops_no_other(home: Home, receiver: Receiver) -> None:
    receiver.status = 500
    notify(home, receiver.url, "plumbline.run.failed", "plumbline.run.1", {})
    (home.folder / "notices" / "half.json").write_text('{"id": ')
    receiver.status = 200
    deliver(home)
    assert waiting(home) == []
    assert len(receiver.got) == 2


@pytest.mark.parametrize("spoil", [lambda values: values | {"colour": "red"},
                                   lambda values: {key: values[key] for key in values if key != "to"},
                                   lambda values: values | {"to": 3}, lambda values: [values]],
                         ids=["another field", "a field less", "of another kind", "no object"])
def test_a_notice_of_another_version_stops_no_other(home: Home, receiver: Receiver,
                                                    spoil: Callable[[dict[str, object]], object]) -> None:
    receiver.status = 500
    notify(home, receiver.url, "plumbline.run.failed", "plumbline.run.1", {})
    file, = (home.folder / "notices").glob("*.json")
    file.write_text(json.dumps(spoil(json.loads(file.read_text()))))
    receiver.status = 200
    notify(home, receiver.url, "plumbline.run.failed", "plumbline.run.2", {})
    assert (len(receiver.got), waiting(home), deliver(home)) == (2, [], [])
    assert [kept.suffix for kept in (home.folder / "notices").iterdir()] == [".broken"]


def test_what_answers_and_speaks_no_http(home: Home, receiver: Receiver) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65_536)
                connection.send(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        banner = f"http://127.0.0.1:{other.getsockname()[1]}/hook"
        for url in (banner, "http://host:port/hook"):
            notify(home, url, "plumbline.run.finished", "plumbline.run.1", {})
    problems = "\n".join(str(notice.problem) for notice in waiting(home))
    assert f"{banner.removesuffix('hook')}*** did not take it: BadStatusLine: SSH-2.0" in problems
    assert "http://host:port/*** did not take it: InvalidURL: nonnumeric port" in problems
    notify(home, receiver.url, "plumbline.run.finished", "plumbline.run.2", {})
    deliver(home)
    assert len(receiver.got) == 1
