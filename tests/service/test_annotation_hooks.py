"""Webhooks of Argilla and Label Studio, as these tools send them."""

import asyncio
import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_project import CHECKOUT
from fastapi.testclient import TestClient
from starlette.types import Message

from plumbline.lineage.home import Home, enter
from plumbline.preferences.arrivals import arrivals, removed_rows
from plumbline.preferences.folders import Folders
from plumbline.web.app import create_app

ARGILLA_SECRET = base64.b64encode(b"known to two").decode()
STUDIO_SECRET = "also known to two"
EVENT_TIME, SEND_TIME = "2026-11-21T10:00:00.250000Z", "1795255207"
EVENT_SECONDS = "1795255200"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, tmp_path / file)
    shutil.copytree(CHECKOUT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("PREFECT_API_URL", "PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLUMBLINE_ARGILLA_SECRET", ARGILLA_SECRET)
    monkeypatch.setenv("PLUMBLINE_LABEL_STUDIO_SECRET", STUDIO_SECRET)
    return Home(tmp_path, tmp_path / ".plumbline")


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    enter(home)
    return TestClient(create_app(home), base_url="http://127.0.0.1:4280")


def argilla_body(event: str = "response.created", label: str = "response-1", **more: object) -> bytes:
    record = {"id": "r1", "status": "completed", "metadata": None, "external_id": None, "dataset": {"name": "d"},
              "fields": {"prompt": "Why is the sky blue?", "response-1": "Scattering.", "response-2": "Paint."}}
    user = {"id": "u1", "first_name": "Ada", "last_name": None, "username": "ada", "role": "annotator"}
    data = {"id": "a1", "values": {"preference": {"value": label}}, "status": "submitted", "record": record,
            "user": user, **more}
    return json.dumps({"type": event, "version": 1, "timestamp": EVENT_TIME, "data": data}).encode()


def signed(body: bytes, seconds: str = SEND_TIME) -> dict[str, str]:
    content = f"msg_1.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.new(base64.b64decode(ARGILLA_SECRET), content, hashlib.sha256).digest()).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": SEND_TIME, "webhook-signature": f"v1,{signature}",
            "content-type": "application/json"}


def studio_body(action: str = "ANNOTATION_CREATED", side: str = "left") -> bytes:
    result = {"id": "x", "from_name": "tag", "to_name": "answers", "type": "pairwise", "value": {"selected": side}}
    annotation = {"id": 5, "completed_by": 7, "was_cancelled": False, "task": 1, "result": [result],
                  "created_at": "2026-03-09T22:16:08.728353Z", "updated_at": "2026-03-09T22:16:08Z"}
    task = {"id": 1, "data": {"prompt": "Why is the sky blue?", "answer1": "Scattering.", "answer2": "Paint."}}
    return json.dumps({"action": action, "annotation": annotation, "task": task, "project": {"id": 1}}).encode()


def kinds(home: Home) -> list[tuple[str, Mapping[str, int]]]:
    return [(one.action, one.batch.kinds) for one in arrivals(Folders(home.root, home.folder))]


@pytest.mark.parametrize("seconds", [SEND_TIME, EVENT_SECONDS], ids=["delivery's time", "event's time"])
def test_argilla(client: TestClient, home: Home, seconds: str) -> None:
    body = argilla_body()
    answer = client.post("/hooks/argilla", content=body, headers=signed(body, seconds))
    assert answer.status_code == 200, answer.text
    assert kinds(home) == [("add", {"comparison": 1})]
    again = client.post("/hooks/argilla", content=body, headers=signed(body, seconds))
    assert again.json()["batch"] == answer.json()["batch"]
    assert len(kinds(home)) == 1


def test_the_standard_webhooks_example() -> None:
    """The values of the specification's own libraries."""
    from plumbline.lineage.signatures import sign

    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


@pytest.mark.parametrize("headers", [
    {}, {"webhook-id": "m", "webhook-timestamp": SEND_TIME, "webhook-signature": "v1,AAAA"},
    {"authorization": f"Bearer {ARGILLA_SECRET}"}], ids=["none", "wrong", "a token"])
def test_what_is_not_signed_is_refused(client: TestClient, home: Home, headers: dict[str, str]) -> None:
    assert client.post("/hooks/argilla", content=argilla_body(), headers=headers).status_code == 401
    assert kinds(home) == []


def test_a_changed_body_is_refused(client: TestClient, home: Home) -> None:
    headers = signed(argilla_body())
    assert client.post("/hooks/argilla", content=argilla_body(label="response-2"), headers=headers).status_code == 401
    assert kinds(home) == []


def test_a_changed_answer_takes_the_place_of_the_first(client: TestClient, home: Home) -> None:
    for body in (argilla_body(), argilla_body("response.updated", "response-2")):
        answer = client.post("/hooks/argilla", content=body, headers=signed(body))
        assert answer.status_code == 200, answer.text
    assert [action for action, _ in kinds(home)] == ["add", "supersede"]
    assert len(removed_rows(Folders(home.root, home.folder), arrivals(Folders(home.root, home.folder)))) == 1
    # Somebody sends the first one again.
    client.post("/hooks/argilla", content=argilla_body(), headers=signed(argilla_body()))
    assert len(kinds(home)) == 2


@pytest.mark.parametrize("body", [argilla_body("record.completed"), argilla_body(status="draft")])
def test_what_holds_no_judgement_is_taken_note_of(client: TestClient, home: Home, body: bytes) -> None:
    answer = client.post("/hooks/argilla", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["batch"]) == (200, None)
    assert kinds(home) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": "response.created"}', b"\xff",
                                  b'{"type": "response.created", "data": {"status": "submitted", "record": 1}}'])
def test_what_is_no_webhook_is_said(client: TestClient, body: bytes) -> None:
    answer = client.post("/hooks/argilla", content=body, headers=signed(body))
    assert answer.status_code == 400
    assert "not a webhook of argilla" in answer.json()["detail"]


def test_an_answer_that_judges_nothing(client: TestClient) -> None:
    body = argilla_body(values={"comment": {"value": "Nice."}})
    assert client.post("/hooks/argilla", content=body, headers=signed(body)).status_code == 422


def test_label_studio(client: TestClient, home: Home) -> None:
    headers = {"authorization": f"Bearer {STUDIO_SECRET}"}
    assert client.post("/hooks/label-studio", content=studio_body(), headers=headers).status_code == 200
    assert client.post("/hooks/label-studio", content=studio_body(), headers=headers).json()["detail"]
    changed = client.post("/hooks/label-studio", content=studio_body("ANNOTATION_UPDATED", "right"), headers=headers)
    assert changed.status_code == 200, changed.text
    assert kinds(home) == [("add", {"comparison": 1}), ("supersede", {"comparison": 1})]
    for wrong in ({}, {"authorization": "Bearer guess"}, {"authorization": STUDIO_SECRET}):
        assert client.post("/hooks/label-studio", content=studio_body(), headers=wrong).status_code == 401


def test_without_a_secret_nothing_is_taken(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUMBLINE_LABEL_STUDIO_SECRET")
    answer = client.post("/hooks/label-studio", content=studio_body(), headers={"authorization": "Bearer "})
    assert answer.status_code == 503
    assert "PLUMBLINE_LABEL_STUDIO_SECRET is not set" in answer.json()["detail"]


def unread(home: Home, headers: dict[str, str], path: str = "/hooks/argilla") -> int:
    """The status for a request whose body must not even be asked for."""
    async def body() -> Message:
        raise AssertionError("the body was read")

    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    head = {"host": "127.0.0.1", "content-length": "1900000", **headers}
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "scheme": "http", "root_path": "",
             "headers": [(name.encode(), value.encode()) for name, value in head.items()],
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 4280), "http_version": "1.1"}
    asyncio.run(create_app(home)(scope, body, send))
    return int(answers[0]["status"])


def test_what_cannot_be_signed_is_not_read(client: TestClient, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unread(home, {}) == unread(home, {"authorization": "Bearer x"}) == 401
    assert unread(home, {"authorization": "Bearer x"}, "/hooks/label-studio") == 401
    assert unread(home, {"webhook-signature": "v1,x", "content-length": "31000000"}) == 413
    monkeypatch.delenv("PLUMBLINE_ARGILLA_SECRET")
    assert unread(home, {"webhook-signature": "v1,x"}) == 503


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":[' + b"{}," * 500_000 + b"{}]}",
                                  b'{"timestamp": "' + b"9" * 1_000_000, b'"timestamp":' * 100_000],
                         ids=["deep", "wide", "long", "often"])
def test_nothing_unsigned_is_understood(client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    def decoded(_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("plumbline.service.annotation_hooks.json.loads", decoded)
    wrong = {"webhook-id": "m", "webhook-timestamp": SEND_TIME, "webhook-signature": "v1,AAAA"}
    started = time.monotonic()
    answer = client.post("/hooks/argilla", content=body, headers=wrong)
    assert time.monotonic() - started < 1
    assert answer.status_code == 401


def test_a_signed_body_that_is_too_deep_is_said(client: TestClient) -> None:
    body = b'{"type": "response.created", "data": ' + b"[" * 200_000
    answer = client.post("/hooks/argilla", content=body, headers=signed(body))
    assert answer.status_code == 400
    assert "not a webhook of argilla" in answer.json()["detail"]


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_event_time_is_found_at_either_end(client: TestClient, home: Home, place: str) -> None:
    values = json.loads(argilla_body())
    time_of = values.pop("timestamp")
    values["data"]["record"]["metadata"] = {"long": "x" * 5000}
    body = json.dumps({"timestamp": time_of, **values} if place == "first" else {**values, "timestamp": time_of})
    answer = client.post("/hooks/argilla", content=body, headers=signed(body.encode(), EVENT_SECONDS))
    assert answer.status_code == 200, answer.text
