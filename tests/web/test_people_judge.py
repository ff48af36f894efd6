"""People as judges: from the button on a version's page over the feedback page to the figures beside Approve."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
from plumbline.feedback.collect import collect_from
from plumbline.preferences.types import Message
from plumbline.project.home import Home
from plumbline.web.annotator import NAME, feedback_service
from plumbline.web.security import open_keys
from testing.fake_project import CHECKOUT
from testing.made_up import fill, run, step, version, workspace
from testing.sites import ADDRESS, site_behind, visit


@pytest.fixture
def client(empty: Home, tmp_path: Path) -> TestClient:
    """Signed in as Ada; version 1 waits for approval, and its run left answers to three held-out prompts."""
    client, keys = visit(empty), open_keys(empty)[0]
    client.cookies.set(keys.cookie_name, keys.cookie)
    client.cookies.set(NAME, "Ada")
    client.headers.update({"sec-fetch-site": "same-origin", "origin": ADDRESS})
    folder = workspace(tmp_path / "run", {"dvc.yaml": (CHECKOUT / "dvc.yaml").read_text()})
    (folder / "reports/preference/report").mkdir(parents=True)
    answers = {name: SampleAnswer(f"{name}'s answer", True, {"reward": 1.0}) for name in ("policy", "sft")}
    write_samples(folder / "reports/preference/report/samples.jsonl", [
        Sample((Message("user", f"Held out {number}?"),), answers, {"sft": 1.0}) for number in range(3)])
    evaluated = replace(step("preference_eval"), mlflow_run=None, facts={"judge": "second"})
    made = run(folder=folder, steps={"preference_eval": evaluated})
    fill(site_behind(client).history, [made], [version(1, made, "awaiting"), version(2, run("gone"))])
    return client


def ask(client: TestClient, number: int = 1) -> Response:
    """Press the button `Ask people` as the page of version 1 has it, on the page of this version."""
    token = re.findall(r'action="/models/1/judge">\s*<input type="hidden" name="token" value="([^"]*)"',
                       client.get("/models/1").text)
    return client.post(f"/models/{number}/judge", data={"token": token[0]})


def judge(client: TestClient, wanted: str) -> str:
    """Choose this model's answer on the page; return the page."""
    page = client.get("/feedback").text
    form = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"',
                           page.split('action="/feedback/verdicts"')[1].split("</form>")[0]))
    sides = re.findall(r"(policy|sft)&#39;s answer", page)
    answer = client.post("/feedback/verdicts", data={**form, "choice": "AB"[sides.index(wanted)]})
    assert answer.status_code == 303, answer.text
    return page


def test_from_the_button_to_the_figures_beside_approve(client: TestClient, empty: Home) -> None:
    assert "Nobody has judged its held-out answers" in client.get("/models/1").text
    assert ask(client).headers["location"] == "/feedback"
    for wanted in ("policy", "policy", "sft"):
        page = judge(client, wanted)
        assert "Held out" in page and "reward 1" not in page
    told = client.get("/feedback").text  # the reveal after the last verdict
    assert "you judge more of them" in told and "reward" not in told and "policy:" not in told
    page = client.get("/models/1").text
    assert re.search(r"People: 0\.667 \[0\.\d+, 0\.\d+\], n = 3 against SFT", page)
    assert "Win rates by people" in page and ">1.000<" in page
    assert "0.67 <span" in page and "of 3" in page  # with the judge
    assert "3 of 3" in page and "Win rates by people" in client.get(f"/runs/{run().id}").text
    assert "What people say of version 1" in client.get("/models/1/promote").text
    assert collect_from(feedback_service(client.app).store(), empty) == []  # type: ignore[arg-type]


def test_asking_again_asks_nothing_twice(client: TestClient) -> None:
    for _ in range(2):
        assert ask(client).status_code == 303
    pages = {re.findall(r"Held out (\d)", judge(client, "policy"))[0] for _ in range(3)}
    assert len(pages) == 3
    assert "Held out" not in client.get("/feedback").text.split("</aside>")[-1]


def test_what_cannot_be_asked_says_why(client: TestClient) -> None:
    assert ask(client, 2).status_code == 404
    assert ask(client, 9).status_code == 404
    fill(site_behind(client).history, [run()], [version(1, run())])
    answer = ask(client)
    assert answer.status_code == 400 and "no answers to held-out prompts" in answer.text


def test_asking_needs_the_token(client: TestClient) -> None:
    client.cookies.clear()
    assert client.post("/models/1/judge").status_code == 403
    assert "Ask people" not in client.get("/models/1").text


def test_a_store_that_cannot_be_used_does_not_hide_the_version(
        client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_FEEDBACK_URL", "mysql://there/name")
    page = client.get("/models/1")
    assert page.status_code == 200 and "expected postgresql or sqlite" in page.text
    assert "expected postgresql or sqlite" in client.get("/models/1/promote").text


def test_an_empty_answer_is_judged_like_any_other(client: TestClient) -> None:
    samples = next(Path(site_behind(client).home.root, "run").rglob("samples.jsonl"))
    samples.write_text(samples.read_text().replace("policy's answer", ""))
    assert ask(client).status_code == 303
    assert "(an empty answer)" in client.get("/feedback").text
