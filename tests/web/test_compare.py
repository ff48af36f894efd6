"""The compare page: what one sees of two policies, and what of hostile answers."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from plumbline.evaluation.comparing.comparison import PolicyComparison, Row, SurelyBetter
from plumbline.evaluation.comparing.report import write_comparison_report
from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
from plumbline.lineage.records import RegisteredVersion, Run
from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.types import Message
from plumbline.project.home import Home
from plumbline.statistics import Interval
from testing.accessibility import structure_problems
from testing.fake_project import CHECKOUT
from testing.hostile import TEXTS, active_in
from testing.made_up import fill, run, step, version
from testing.sites import emulate, opens_a_page, problems_in, served, site_behind, visit


def test_without_a_policy_it_says_what_is_missing(empty: Home) -> None:
    page = visit(empty).get("/compare")
    assert page.status_code == 200 and "nothing to compare" in page.text


def test_without_names_the_newest_meets_the_champion(client: TestClient) -> None:
    page = client.get("/compare")
    newest = next(iter(site_behind(client).history.versions))
    assert page.status_code == 200
    assert f'value="{newest}" selected' in page.text


def test_answers_and_settings_of_two_versions(client: TestClient) -> None:
    history = site_behind(client).history
    a = next(one for one in history.versions.values() if one.compared_with)
    page = client.get(f"/compare?a={a.number}&b={a.compared_with}").text
    assert "was evaluated against" in page and page.count('class="answer') > 10
    assert 'href="/compare?a=' in page
    settings = client.get(f"/compare?a={a.number}&b={a.compared_with}&view=settings").text
    assert "Parameters" in settings and ("Row by row" in settings or "same batches" in settings)


def won_and_lost(client: TestClient) -> RegisteredVersion:
    """A version that is better than the other one on some prompts, and worse on others."""
    for one in site_behind(client).history.versions.values():
        base = f"/compare?a={one.number}&b={one.compared_with}&better="
        if one.compared_with and all(f"{side.upper()}: better" in client.get(base + side).text for side in "ab"):
            return one
    raise AssertionError("no two versions of the project have won and lost against each other")


def test_the_filters_are_in_the_address(client: TestClient) -> None:
    a = won_and_lost(client)
    base = f"/compare?a={a.number}&b={a.compared_with}"
    wins, losses = (client.get(f"{base}&better={side}").text for side in "ab")
    assert "A: better" in wins and "B: better" not in wins
    assert "B: better" in losses and "A: better" not in losses
    assert "No answers are like that" in client.get(f"{base}&q=nobodysaysthis").text
    assert client.get(f"{base}&sort=nonsense&at=-4").status_code == 200


def test_an_unknown_policy_is_not_found(client: TestClient) -> None:
    page = client.get("/compare?a=nonsense")
    assert page.status_code == 404 and "nonsense" in page.text


@pytest.mark.parametrize("page", ["/compare?a=1&b=2", "/data/{id}"])
def test_what_mlflow_did_not_have_is_not_asked_for_with_every_request(
        empty: Home, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    asked: list[Home] = []
    monkeypatch.setattr("plumbline.history.reports.connect", asked.append)
    client, one, other = visit(empty), run(), run("20261120-110000-bbbbbb")
    fill(site_behind(client).history, [one, other], [version(1, one), version(2, other)])
    assert client.get(page.format(id=one.id)).status_code == 200
    before = len(asked)
    assert client.get(page.format(id=one.id)).status_code == 200
    assert len(asked) == before > 0


def test_a_stage_is_no_policy_and_not_found(empty: Home) -> None:
    client, made = visit(empty), run()
    fill(site_behind(client).history, [made])
    page = client.get("/compare", params={"a": f"{made.id}:ppo"})
    assert page.status_code == 404 and "There is no policy" in page.text


def test_sft_and_the_champion_then_have_no_win_rate_against_sft(empty: Home) -> None:
    client, made = visit(empty), run(steps={"preference_eval": step("preference_eval", mlflow_run=None)})
    fill(site_behind(client).history, [made], [version(1, made)])
    for other in ("sft", "champion"):
        page = client.get("/compare", params={"a": "1", "b": f"{made.id}:{other}", "view": "settings"}).text
        figures = page.split("<td>win rate against SFT</td>")[1].split("</tr>")[0]
        assert re.findall(r">([^<]+)</td>", figures) == ["0.625", "–"]


def test_policies_without_answers_say_what_brings_them(empty: Home) -> None:
    client = visit(empty)
    one, two = run("20261120-100000-aaaaaa"), run("20261120-110000-bbbbbb")
    fill(site_behind(client).history, [one, two], [version(2, two), version(1, one, "champion")])
    page = client.get("/compare?a=2&b=1")
    assert page.status_code == 200
    assert f"plumbline restore {two.id}" in page.text
    assert client.get("/compare?a=2&b=2").status_code == 200


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(empty: Home, tmp_path: Path, text: str) -> None:
    client, made = visit(empty), []
    for number in (1, 2):
        folder = tmp_path / str(number)
        (folder / "reports/preference/report").mkdir(parents=True)
        (folder / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
        answers = {name: SampleAnswer(f"{text} {number}", False, {"reward": float(number)})
                   for name in ("policy", "sft", "champion")}
        asked = (Message("system", text), Message("user", text))
        write_samples(folder / "reports/preference/report/samples.jsonl",
                      [Sample(asked, answers, {"sft": 0.0, "champion": 1.0})])
        evaluated = step("preference_eval", mlflow_run=None, params={"preference_eval.judge": text}, version=text,
                         code=text, inputs={"models/reward/model": text})
        made.append(run(f"20261120-10000{number}-aaaaaa", folder=folder, steps={"preference_eval": evaluated},
                        params={f"ppo.{text}": f"{text} {number}"}, git_commit=text,
                        batches=(Batch(str(number) * 64, text, 1, {"comparison": 1}, 0, False),)))
    fill(site_behind(client).history, made,
         [replace(version(2, made[1], text), compared_with=1), version(1, made[0], "champion")])
    for params in ({}, {"view": "settings"}, {"q": text, "better": text, "sort": text}, {"q": text},
                   {"a": text, "b": text}):
        page = client.get("/compare", params={"a": "2", "b": "1", **params})
        assert page.status_code in (200, 404)
        assert active_in(page.text) == []
    assert "A: better" in client.get("/compare?a=2&b=1").text


def compared(folder: Path, names: tuple[str, ...]) -> Run:
    """A run that set candidates of these names beside its PPO."""
    rate = Interval(0.6, 0.55, 0.65, 400, 100)
    rows = [Row(name, "ppo", {"sft": rate, "sft_greedy": rate}, 2.0, 90.0, 12.0, None if name == "ppo" else rate)
            for name in ("ppo", *names)]
    write_comparison_report(folder / "comparison", PolicyComparison(
        "gold", 100, 100.0, rows, [SurelyBetter(names[0], "ppo", Interval(0.2, 0.1, 0.3, 100, 100))]))
    made = run(folder=folder, compare=names, params={f"compare.{name}": "ppo" for name in names})
    return replace(made, steps={**made.steps, **{f"{stage}@{name}": step(f"{stage}@{name}") for name in names
                                                 for stage in ("candidate", "candidate_eval")}})


def test_the_candidates_of_a_run_have_a_page(empty: Home, tmp_path: Path) -> None:
    client, made = visit(empty), compared(tmp_path, ("near", "far"))
    fill(site_behind(client).history, [made], [version(1, made, "champion")])
    page = client.get(f"/runs/{made.id}/comparison")
    assert page.status_code == 200
    assert "near is better than ppo" in page.text and "far is better" not in page.text
    assert "60.0 % [55.0, 65.0]" in page.text and "against SFT, greedy" in page.text
    assert f"a={made.id}%3Acandidate%40near" in page.text
    assert client.get(f"/runs/{made.id[:10]}/comparison").headers["location"] == f"/runs/{made.id}/comparison"
    for other in (f"/runs/{made.id}", "/compare"):
        assert f'href="/runs/{made.id}/comparison"' in client.get(other).text
    assert "plumbline compare near far --set seed=0" in client.get(f"/runs/{made.id}").text


def test_a_run_without_candidates_has_no_such_page(empty: Home) -> None:
    client, made = visit(empty), run()
    fill(site_behind(client).history, [made])
    page = client.get(f"/runs/{made.id}/comparison")
    assert page.status_code == 404 and "plumbline compare NAME" in page.text
    assert "/comparison" not in client.get(f"/runs/{made.id}").text


def test_a_damaged_comparison_is_no_page(empty: Home, tmp_path: Path) -> None:
    client, made = visit(empty), compared(tmp_path, ("near",))
    fill(site_behind(client).history, [made])
    (tmp_path / "comparison/comparison.json").write_text('{"rows": [')
    assert client.get(f"/runs/{made.id}/comparison").status_code == 404
    assert client.get(f"/runs/{made.id}").status_code == 200


@pytest.mark.slow
def test_the_candidates_in_the_browser(empty: Home, tmp_path: Path, browser: Chrome) -> None:
    client, made = visit(empty), compared(tmp_path, tuple(f"candidate-{i}" for i in range(9)))
    fill(site_behind(client).history, [made], [version(1, made, "champion")])
    with served(client.app) as url:
        for width in (1280, 390):
            emulate(browser, width == 390, width, 900)
            browser.get(f"{url}/runs/{made.id}/comparison")
            assert [*problems_in(browser), *structure_problems(browser)] == []
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        opens_a_page(browser, browser.find_element(By.CSS_SELECTOR, "form.filter").submit)
        assert "candidate candidate-8" in browser.find_element(By.CSS_SELECTOR, ".side-a").text


@pytest.mark.slow
def test_in_the_browser(server, client: TestClient, browser: Chrome) -> None:
    a = won_and_lost(client)
    for width in (1280, 390):
        emulate(browser, width == 390, width, 900)
        for view in ("answers", "settings"):
            browser.get(f"{server.url}/compare?a={a.number}&b={a.compared_with}&view={view}")
            assert problems_in(browser) == []
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.get(f"{server.url}/compare?a={a.number}&b={a.compared_with}")
    Select(browser.find_element(By.ID, "better")).select_by_value("a")
    opens_a_page(browser, browser.find_element(By.ID, "better").submit)
    marks = [mark.text for mark in browser.find_elements(By.CSS_SELECTOR, ".answer.best .mark")]
    assert marks and all("A: better" in mark for mark in marks)
