"""Webhooks of Argilla and Label Studio, as these tools send them."""

import asyncio
import base64
import errno
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from plumbline.data import annotation_hooks, changes
from plumbline.data.annotations import Entry, known_annotations, note
from plumbline.data.changes import add, supersede
from plumbline.data.dvc_tracking import track, untracked
from plumbline.errors import UserError
from plumbline.preferences.batches import index
from plumbline.preferences.batches.arrivals import arrivals, removed_rows
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading import read as reading
from plumbline.preferences.reading.formats import Reading
from plumbline.project.home import Home, enter
from plumbline.web.app import create_app
from testing.fake_project import CHECKOUT

ARGILLA_SECRET = base64.b64encode(b"known to two").decode()
STUDIO_SECRET = "also known to two"
EVENT_TIME, SEND_TIME = "2026-11-21T10:00:00.250000Z", "1795255207"
EVENT_SECONDS = "1795255200"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, tmp_path / file)
    params = tmp_path / "params.yaml"  # without the simulated world, which each change would look through
    params.write_text(re.sub(r"(?m)^  sources: .*$", "  sources: [added]", params.read_text()))
    monkeypatch.setattr("plumbline.data.changes.track", lambda _: None)  # DVC takes a second for each batch
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


def studio_body(action: str = "ANNOTATION_CREATED", side: str = "left", second: int = 8, **more: object) -> bytes:
    result = {"id": "x", "from_name": "tag", "to_name": "answers", "type": "pairwise", "value": {"selected": side}}
    annotation = {"id": 5, "completed_by": 7, "was_cancelled": False, "task": 1, "result": [result],
                  "created_at": "2026-03-09T22:16:08.728353Z", "updated_at": f"2026-03-09T22:16:{second:02}Z", **more}
    task = {"id": 1, "data": {"prompt": "Why is the sky blue?", "answer1": "Scattering.", "answer2": "Paint."}}
    return json.dumps({"action": action, "annotation": annotation, "task": task, "project": {"id": 1}}).encode()


def studio_deleted(action: str, key: str, *ids: int, project: int = 1) -> bytes:
    return json.dumps({"action": action, key: [{"id": one} for one in ids], "project": {"id": project}}).encode()


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
    from plumbline.notify.webhook_signatures import sign

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


HOLDER = """
import sys
from pathlib import Path
from dvc.repo import Repo
from plumbline.project.locks import file_lock
with file_lock(Path(sys.argv[2])), Repo(sys.argv[1]) as repo, repo.lock:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_request_does_not_wait_for_the_locks_of_dvc(client: TestClient, home: Home,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline.data.changes.track", track)
    subprocess.run(["git", "init", "-q"], cwd=home.root, check=True)
    shutil.copytree(CHECKOUT / ".dvc", home.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(home.root), str(home.folder / "tracking.lock")],
                              cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with ThreadPoolExecutor(1) as threads:
        try:
            for body in (argilla_body(), argilla_body("response.updated", "response-2")):
                answer = threads.submit(client.post, "/hooks/argilla", content=body, headers=signed(body)).result(60)
                assert answer.status_code == 200, answer.text
        finally:  # or the thread, and so the test, would wait for ever
            holder.communicate()
    assert [action for action, _ in kinds(home)] == ["add", "supersede"]
    assert len(untracked(home)) == 2
    assert (track(home), untracked(home)) == (None, [])


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


STUDIO = {"authorization": f"Bearer {STUDIO_SECRET}"}


def post(client: TestClient, body: bytes) -> dict[str, str | None]:
    """Send it as its tool does; what the answer says."""
    tool = "argilla" if b'"version"' in body else "label-studio"
    answer = client.post(f"/hooks/{tool}", content=body, headers=signed(body) if tool == "argilla" else STUDIO)
    assert answer.status_code == 200, answer.text
    said: dict[str, str | None] = answer.json()
    return said


def learned(home: Home, tmp_path: Path) -> list[str]:
    """What the next snapshot says is better, one a judgement."""
    fix_snapshot(["added"], Simulation(0, 0, 0, 0), Folders(home.root, home.folder), tmp_path / "out")
    rows = [json.loads(line) for file in sorted((tmp_path / "out").glob("*.jsonl")) if "quarantine" not in file.name
            for line in file.read_text().splitlines()]
    return sorted(row["responses"]["AB".index(row["label"])] for row in rows)


def of_argilla(event: str, seconds: int, **more: object) -> bytes:
    return argilla_body(event, updated_at=f"2026-11-21T10:00:{seconds:02}.000000", **more)  # type: ignore[arg-type]


def argilla_deleted(event: str, name: str) -> bytes:
    return json.dumps({"type": event, "version": 1, "timestamp": EVENT_TIME, "data": {"id": name}}).encode()


TAKEN_BACK = {
    "skipped": (studio_body(), studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True)),
    "skipped, without its results": (
        studio_body(), studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True, result=[])),
    "deleted": (studio_body(), studio_deleted("ANNOTATIONS_DELETED", "annotations", 5)),
    "deleted with its task": (studio_body(), studio_deleted("TASKS_DELETED", "tasks", 3, 1)),
    "discarded": (argilla_body(), argilla_body("response.updated", status="discarded")),
    "discarded, without its answers": (
        argilla_body(), argilla_body("response.updated", status="discarded", values=None)),
    "a draft again": (argilla_body(), argilla_body("response.updated", status="draft")),
    "response deleted": (argilla_body(), argilla_deleted("response.deleted", "a1")),
    "record deleted": (argilla_body(), argilla_deleted("record.deleted", "r1")),
}


@pytest.mark.parametrize("how", TAKEN_BACK)
def test_what_was_taken_back_leaves_the_next_snapshot(client: TestClient, home: Home, tmp_path: Path, how: str) -> None:
    given, back = TAKEN_BACK[how]
    post(client, given)
    assert learned(home, tmp_path) == ["Scattering."]
    said = post(client, back)
    assert "1 row leaves the next snapshot" in str(said["detail"])
    assert learned(home, tmp_path) == []
    last = arrivals(home.preferences)[-1]
    assert (last.action, last.digest, last.removes) == ("remove", said["batch"], 1)
    assert "annotation" in last.reason or "task" in last.reason
    for again in (given, back, given):
        assert post(client, again)["detail"] == "It had come before."
    assert learned(home, tmp_path) == []
    assert len(kinds(home)) == 2


@pytest.mark.parametrize(("bodies", "better"), [
    ((studio_body(), studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True),
      studio_body("ANNOTATION_UPDATED", "right", second=10)), "Paint."),
    ((studio_body(), studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True),
      studio_body("ANNOTATION_UPDATED", second=10)), "Scattering."),
    ((studio_body(), studio_deleted("ANNOTATIONS_DELETED", "annotations", 5), studio_body(second=9, id=6)),
     "Scattering."),
    ((of_argilla("response.created", 1), of_argilla("response.updated", 2, status="discarded"),
      of_argilla("response.updated", 3)), "Scattering."),
    ((argilla_body(), argilla_deleted("response.deleted", "a1"), argilla_body(id="a2")), "Scattering.")])
def test_what_is_submitted_again_is_back(client: TestClient, home: Home, tmp_path: Path, bodies: tuple[bytes, ...],
                                         better: str) -> None:
    for body in bodies:
        post(client, body)
    assert learned(home, tmp_path) == [better]


@pytest.mark.parametrize(("bodies", "left"), [
    ((studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True), studio_body()), []),
    ((studio_body("ANNOTATION_UPDATED", "right", second=9), studio_body()), ["Paint."]),
    ((studio_body(), studio_body("ANNOTATION_UPDATED", "right", second=10),
      studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True)), ["Paint."]),
    ((studio_deleted("ANNOTATIONS_DELETED", "annotations", 5), studio_body()), []),
    ((studio_deleted("TASKS_DELETED", "tasks", 1), studio_body()), []),
    ((of_argilla("response.updated", 2, status="discarded"), of_argilla("response.created", 1)), []),
    ((of_argilla("response.updated", 3, label="response-2"), of_argilla("response.updated", 2, status="draft"),
      of_argilla("response.created", 1)), ["Paint."])])
def test_what_comes_late_does_not_win(client: TestClient, home: Home, tmp_path: Path, bodies: tuple[bytes, ...],
                                      left: list[str]) -> None:
    for body in bodies:
        said = post(client, body)
    assert "newer" in str(said["detail"])
    assert learned(home, tmp_path) == left


def test_only_the_annotation_that_is_named_goes(client: TestClient, home: Home, tmp_path: Path) -> None:
    other = {"id": 6, "completed_by": 8}
    twice = {"id": 7, "updated_at": "2026-03-10T00:00:00Z"}
    for body in (studio_body(), studio_body(side="right", **other), studio_body(**twice)):
        post(client, body)
    assert learned(home, tmp_path) == ["Paint.", "Scattering.", "Scattering."]
    post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 5, 6))
    assert learned(home, tmp_path) == ["Scattering."], "the same annotator's other annotation stands"


def test_what_is_not_known_is_said(client: TestClient, home: Home) -> None:
    post(client, studio_body())
    for body in (studio_deleted("ANNOTATIONS_DELETED", "annotations", 5, project=2),
                 argilla_deleted("record.deleted", "x"),
                 studio_deleted("TASKS_DELETED", "tasks", 9), studio_deleted("ANNOTATIONS_DELETED", "annotations", 99)):
        said = post(client, body)
        assert said["batch"] is None
        assert "had arrived here" in str(said["detail"])
        assert "plumbline data supersede" in str(said["detail"])
    assert len(kinds(home)) == 1


def test_what_cannot_be_used_any_more_goes_too(client: TestClient, home: Home, tmp_path: Path) -> None:
    post(client, studio_body())
    said = post(client, studio_body("ANNOTATION_UPDATED", second=9, result=[]))
    assert "cannot be used any more" in str(said["detail"])
    assert learned(home, tmp_path) == []


def test_what_became_of_an_annotation_outlives_the_home(client: TestClient, home: Home, tmp_path: Path) -> None:
    post(client, studio_body())
    shutil.rmtree(home.folder / "hooks", ignore_errors=True)
    shutil.rmtree(home.preferences.indexes)
    assert post(client, studio_body())["detail"] == "It had come before."
    assert "1 row leaves" in str(post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 5))["detail"])
    assert learned(home, tmp_path) == []


def exported(tmp_path: Path, **more: object) -> str:
    """An export of Label Studio with the annotation of `studio_body`."""
    body = json.loads(studio_body(**more))  # type: ignore[arg-type]
    file = tmp_path / "export.json"
    file.write_text(json.dumps([{**body["task"], "annotations": [body["annotation"]]}]))
    return str(file)


def test_what_came_in_an_export_is_taken_back_by_a_webhook(client: TestClient, home: Home, tmp_path: Path) -> None:
    add(home, exported(tmp_path), Reading())
    assert learned(home, tmp_path) == ["Scattering."]
    post(client, studio_body("ANNOTATION_UPDATED", second=9, was_cancelled=True))
    assert learned(home, tmp_path) == []


def test_what_is_taken_back_in_an_export_goes_when_it_supersedes(home: Home, tmp_path: Path) -> None:
    add(home, exported(tmp_path), Reading())
    changed = supersede(home, exported(tmp_path, was_cancelled=True), Reading(), "exported anew", None)
    assert (changed.arrival.removes, changed.arrival.batch.rows, changed.arrival.batch.quarantined) == (1, 0, 1)
    assert learned(home, tmp_path) == []


def test_an_export_that_fails_half_way_takes_nothing_back(
        home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(home, exported(tmp_path), Reading())
    (tmp_path / "anew").mkdir()
    cancelled = exported(tmp_path / "anew", was_cancelled=True)
    Path(cancelled).with_name("second.jsonl").write_text("{}\n")
    whole = reading.read_records

    def failing(file: Path) -> Iterator[tuple[int, object]]:
        if file.name == "second.jsonl":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield from whole(file)

    monkeypatch.setattr(reading, "read_records", failing)
    with pytest.raises(UserError, match=r"second\.jsonl cannot be read: Input/output error"):
        supersede(home, str(tmp_path / "anew"), Reading(), "exported anew", None)
    assert learned(home, tmp_path) == ["Scattering."]


def test_what_is_discarded_in_an_export_of_argilla_goes_when_it_supersedes(home: Home, tmp_path: Path) -> None:
    record = {"fields": {"prompt": "Why is the sky blue?", "response-1": "Scattering.", "response-2": "Paint."}}
    for i, states in enumerate([("submitted", "submitted"), ("discarded", "submitted")]):
        given = [{"value": "response-1", "user_id": f"u{n}", "status": status} for n, status in enumerate(states)]
        (tmp_path / f"{i}.json").write_text(json.dumps([{**record, "responses": {"preference": given}}]))
    add(home, str(tmp_path / "0.json"), Reading())
    assert len(learned(home, tmp_path)) == 2
    supersede(home, str(tmp_path / "1.json"), Reading(), "exported anew", None)
    assert learned(home, tmp_path) == ["Scattering."]


def test_several_annotations_in_one_delivery(client: TestClient, home: Home, tmp_path: Path) -> None:
    one = json.loads(studio_body("ANNOTATIONS_CREATED"))
    two = json.loads(studio_body(side="right", id=6, completed_by=8))
    both = one | {"annotation": [one["annotation"], two["annotation"]], "task": [one["task"]]}
    post(client, json.dumps(both).encode())
    assert learned(home, tmp_path) == ["Paint.", "Scattering."]
    post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 6))
    assert learned(home, tmp_path) == ["Scattering."]


def test_one_delivery_from_many_senders_at_once_counts_once(client: TestClient, home: Home, tmp_path: Path) -> None:
    post(client, studio_body())
    deleted = studio_deleted("ANNOTATIONS_DELETED", "annotations", 5)
    with ThreadPoolExecutor(6) as senders:
        said = list(senders.map(lambda _: post(client, deleted), range(6)))
    assert sum("1 row leaves" in str(answer["detail"]) for answer in said) == 1
    assert [action for action, _ in kinds(home)] == ["add", "remove"]


def test_the_question_of_webhooks_is_a_variable(client: TestClient, home: Home, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    body = argilla_body(values={"helpful": {"value": "response-2"}, "polite": {"value": "response-1"}})
    refused = client.post("/hooks/argilla", content=body, headers=signed(body))
    assert refused.status_code == 422
    assert all(word in refused.json()["detail"] for word in ("helpful, polite", "PLUMBLINE_ARGILLA_QUESTION"))
    monkeypatch.setenv("PLUMBLINE_ARGILLA_QUESTION", "helpful")
    post(client, body)
    assert learned(home, tmp_path) == ["Paint."]


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

    monkeypatch.setattr("plumbline.data.annotation_hooks.json.loads", decoded)
    wrong = {"webhook-id": "m", "webhook-timestamp": SEND_TIME, "webhook-signature": "v1,AAAA"}
    started = time.monotonic()
    answer = client.post("/hooks/argilla", content=body, headers=wrong)
    assert time.monotonic() - started < 10
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


def set_sources(home: Home, sources: str) -> None:
    params = home.root / "params.yaml"
    params.write_text(re.sub(r"(?m)^  sources: .*$", f"  sources: {sources}", params.read_text()))


@pytest.mark.parametrize("sources", ["[added, gone.jsonl]", "[gone.jsonl]", "3", "["],
                         ids=["a file is away", "without added", "of another kind", "no YAML"])
def test_a_source_that_cannot_be_read_keeps_no_row_that_was_taken_back(client: TestClient, home: Home, tmp_path: Path,
                                                                       sources: str) -> None:
    export = exported(tmp_path, id=6)
    add(home, export, Reading())
    post(client, studio_body())
    post(client, studio_body(id=7, completed_by=8))
    assert learned(home, tmp_path) == ["Scattering."] * 3
    set_sources(home, sources)
    said = post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 5))
    assert learned(home, tmp_path) == ["Scattering."], "of the export as well"
    changed = post(client, studio_body("ANNOTATION_UPDATED", "right", second=9, id=7, completed_by=8))
    assert learned(home, tmp_path) == ["Paint."]
    for answer, arrival in zip((said, changed), arrivals(home.preferences)[-2:], strict=True):
        assert "Not all data could be looked through for the same judgement: " in str(answer["detail"])
        assert "; not looked through: " in arrival.reason
        assert ("gone.jsonl" if "gone" in sources else "params.yaml") in arrival.reason
    assert post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 5))["detail"] == "It had come before."


def test_nor_does_an_arrival_that_is_damaged(client: TestClient, home: Home, tmp_path: Path) -> None:
    post(client, studio_body())
    post(client, studio_body(id=6, completed_by=8, side="right"))
    other = home.preferences.arrived / arrivals(home.preferences)[1].digest[:16] / "batch.json"
    whole = other.read_bytes()
    other.write_text("{}")
    said = post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 5))
    assert f"{other} is damaged" in str(said["detail"])
    other.write_bytes(whole)
    assert learned(home, tmp_path) == ["Paint."]


def test_a_delivery_looks_through_all_data_once_and_opens_no_index_again(client: TestClient, home: Home, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        post(client, studio_body(id=number, completed_by=number))
    post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 0))
    looked, opened = [], []
    readable, load = changes._readable, index.np.load
    monkeypatch.setattr(changes, "_readable", lambda home: (looked.append(home), readable(home))[1])
    monkeypatch.setattr(index.np, "load", lambda file, **more: (opened.append(file), load(file, **more))[1])
    post(client, studio_deleted("ANNOTATIONS_DELETED", "annotations", 1, 2, 3, 4))
    assert (len(looked), len(opened)) == (1, 1), "of what the first deletion brought"
    assert learned(home, tmp_path) == ["Scattering."]


def test_a_newer_word_that_cannot_be_used_is_not_overtaken_by_an_older_one(
        client: TestClient, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"helpful": {"value": "response-2"}, "polite": {"value": "response-1"}}
    newer, older = of_argilla("response.updated", 3, values=two), of_argilla("response.created", 1)
    assert client.post("/hooks/argilla", content=newer, headers=signed(newer)).status_code == 422
    assert "newer" in str(post(client, older)["detail"])
    assert learned(home, tmp_path) == []
    assert client.post("/hooks/argilla", content=newer, headers=signed(newer)).status_code == 422, "it is read again"
    monkeypatch.setenv("PLUMBLINE_ARGILLA_QUESTION", "helpful")
    post(client, newer)
    assert learned(home, tmp_path) == ["Paint."]


@pytest.mark.parametrize("secret", ["no base64!", "pässword"])
@pytest.mark.parametrize(("path", "name"), [("argilla", "PLUMBLINE_ARGILLA_SECRET"),
                                            ("label-studio", "PLUMBLINE_LABEL_STUDIO_SECRET")])
def test_a_signature_by_a_secret_that_is_no_key_is_refused_like_a_wrong_one(
        client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, secret: str, path: str,
        name: str) -> None:
    annotation_hooks._say_once.cache_clear()
    monkeypatch.setenv(name, secret)
    body = argilla_body() if path == "argilla" else studio_body()
    for _ in range(2):
        answer = client.post(f"/hooks/{path}", content=body, headers=signed(body))
        assert answer.status_code == 401
        assert answer.json()["detail"] == f"The signature is not that of this body with the secret in {name}."
    said = [record.getMessage() for record in caplog.records if record.name == "plumbline.web"]
    assert len(said) == 1 and name in said[0] and "must be base64" in said[0]


@pytest.mark.parametrize("secret", [STUDIO_SECRET, "no base64!", "pässword"])
def test_the_right_token_is_enough_whatever_signature_a_proxy_adds(
        client: TestClient, home: Home, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("PLUMBLINE_LABEL_STUDIO_SECRET", secret)
    headers = {**signed(studio_body()), "authorization": f"Bearer {secret}".encode()}
    assert client.post("/hooks/label-studio", content=studio_body(), headers=headers).status_code == 200
    assert kinds(home) == [("add", {"comparison": 1})]


def test_a_name_with_another_line_separator_does_not_end_its_entry(home: Home) -> None:
    entry = Entry("label-studio", "a\u2028b", "1", "2", "2026-01-01", "2026-01-01", (), "d")
    note(home, [entry])
    assert list(known_annotations(home).newest.values()) == [entry]
