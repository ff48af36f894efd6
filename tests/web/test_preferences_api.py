"""`POST /api/preferences`: what a program brings is a batch before it is answered, once."""

import gzip
import json
import re

import pytest
from fastapi.testclient import TestClient

from plumbline.preferences.batches.arrivals import arrivals, folder_of
from plumbline.preferences.batches.batch import ROWS
from plumbline.project.home import Home
from plumbline.web.security import OTHER_BODIES, open_keys
from testing.fake_project import CHECKOUT
from testing.sites import login, visit

ROW = {"kind": "comparison", "prompt": [{"role": "user", "content": "Why?"}], "responses": ["Because.", "No."],
       "label": "A", "source": "house", "annotator": "ada"}


@pytest.fixture
def api(empty: Home) -> TestClient:
    return login(visit(empty), empty)


def post(api: TestClient, body: str | bytes, status: int = 201) -> dict[str, object]:
    answer = api.post("/api/preferences", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    found: dict[str, object] = answer.json()
    return found


@pytest.mark.parametrize("body", [
    json.dumps(ROW), json.dumps(ROW, indent=2), json.dumps([ROW]), json.dumps(ROW) + "\n",
    json.dumps({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}), gzip.compress(json.dumps(ROW).encode())],
    ids=["object", "indented", "array", "lines", "other format", "packed"])
def test_rows_in_every_spelling_become_a_batch(api: TestClient, empty: Home, body: str | bytes) -> None:
    answer = post(api, body)
    assert (answer["accepted"], answer["quarantined"]) == (1, 0)
    arrival, = arrivals(empty.preferences)
    assert arrival.digest == answer["batch"]
    row = json.loads((folder_of(empty.preferences, arrival) / ROWS).read_bytes())
    assert row["responses"] == ["Because.", "No."]


def test_the_same_rows_again_change_nothing(api: TestClient, empty: Home) -> None:
    first, second = post(api, json.dumps(ROW)), post(api, json.dumps(ROW, indent=1), 200)
    assert second["already_there"]
    assert second["batch"] == first["batch"]
    assert len(arrivals(empty.preferences)) == 1


def test_bad_rows_are_set_aside_with_line_field_and_reason_and_the_good_ones_are_taken(api: TestClient) -> None:
    answer = post(api, json.dumps([ROW, {**ROW, "label": "C"}, {**ROW, "responses": ["one"]}]))
    assert answer["accepted"] == 1
    assert [(one["line"], one["field"]) for one in answer["problems"]] == [(2, "label"), (3, "responses")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", ["not json", '{"prompt": "x"}', "[1, 2]", "\0", '"text"'])
def test_where_nothing_is_usable_there_is_no_batch_and_the_answer_says_why(api: TestClient, empty: Home,
                                                                          body: str) -> None:
    answer = post(api, body, 422)
    assert answer["batch"] is None
    assert answer["problems"]
    assert "Nothing in api.jsonl is usable" in str(answer["detail"])
    assert arrivals(empty.preferences) == []


def test_an_empty_request_is_refused(api: TestClient) -> None:
    assert "empty" in str(post(api, " ", 400)["detail"])


def test_without_the_token_nothing_is_taken(empty: Home) -> None:
    answer = visit(empty).post("/api/preferences", json=ROW)
    assert answer.status_code == 403
    assert arrivals(empty.preferences) == []


def test_too_much_at_once_is_refused(api: TestClient, empty: Home) -> None:
    assert api.post("/api/preferences", content=b" " * 33_000_000).status_code == 413
    assert arrivals(empty.preferences) == []


def test_the_documentation_shows_what_to_send(api: TestClient) -> None:
    described = api.get("/api/openapi.json").json()["paths"]["/api/preferences"]["post"]
    assert described["requestBody"]["content"]["application/json"]["example"] == [ROW]
    assert {"201", "200", "422"} <= described["responses"].keys()


def test_the_documents_call_is_taken(empty: Home) -> None:
    """The header, the body and the size of docs/always-on.md."""
    text = (CHECKOUT / "docs/always-on.md").read_text(encoding="utf-8")
    body = re.search(r"--data-binary \\\n +'(.+)'", text)
    assert body
    assert "Authorization: Bearer $(cat .plumbline/token)" in text
    assert "at most 32 MB" in text
    assert OTHER_BODIES["/api/preferences"] == 32_000_000
    api, token = visit(empty), open_keys(empty)[0].token
    assert (empty.folder / "token").read_text().strip() == token
    sent = {"content-type": "application/x-www-form-urlencoded"}  # what curl says of itself
    for wrong in ({}, {"authorization": "Bearer x"}):
        refused = api.post("/api/preferences", content=body[1], headers={**sent, **wrong})
        assert (refused.status_code, "403 that the token is missing or wrong" in text) == (403, True)
    sent["authorization"] = f"Bearer {token}"
    assert [api.post("/api/preferences", content=body[1], headers=sent).status_code for _ in range(2)] == [201, 200]
    assert "/api/preferences" in api.get("/api/openapi.json").json()["paths"]
