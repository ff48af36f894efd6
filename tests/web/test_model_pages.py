"""The model pages: what is known of a version, and the two forms that change the champion."""

import json
import re
import shutil
import time
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.evaluation import preference_report, reward_report
from plumbline.evaluation.examination import ScoredComparison, examine
from plumbline.evaluation.judging.judges import NamedJudge, ScoreJudge
from plumbline.evaluation.matches import Contestant, evaluate
from plumbline.evaluation.overoptimisation import OptimisedPoint, Overoptimisation, draw_overoptimisation
from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
from plumbline.history.history import Move
from plumbline.history.standings import standings
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.project.home import Home
from plumbline.tracking.registry import NO_CHAMPION, PolicyVersion, Registry
from plumbline.web.security import open_keys
from testing.fake_project import CHECKOUT
from testing.hostile import TEXTS, active_in
from testing.made_up import fill, promotion, run, step, version, workspace
from testing.servers import free_port
from testing.sites import ADDRESS, emulate, login, opens_a_page, problems_in, site_behind, visit

VIEWS = ("about", "curves", "reward", "evaluation", "samples")


def champion(client: TestClient) -> int:
    history = site_behind(client).history
    history.refresh()
    return next(number for number, one in history.versions.items() if "champion" in one.aliases)


def other(client: TestClient) -> int:
    """A version that is not champion."""
    history = site_behind(client).history
    history.refresh()
    return next(number for number, one in history.versions.items()
                if not {"champion", "previous"} & set(one.aliases))


@pytest.fixture
def own(project: Path, tmp_path: Path) -> Home:
    """A copy of the project, whose champion a test may change."""
    root = tmp_path / "own"
    shutil.copytree(project, root, symlinks=True)
    return Home(root, root / ".plumbline")


@pytest.fixture
def owner(own: Home, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.tracking_uri)
    monkeypatch.setenv("PLUMBLINE_HOME", str(own.folder))
    client = login(visit(own), own)
    site_behind(client).history.refresh()
    return client


def test_a_new_project_has_none(empty: Home) -> None:
    client = visit(empty)
    assert "No policy has been registered" in client.get("/models").text
    assert client.get("/models/1").status_code == 404
    assert client.get("/models/champion").status_code == 404
    assert "nothing to go back to" in client.get("/models/roll-back").text


def test_all_versions_with_their_win_rates(client: TestClient) -> None:
    page = client.get("/models").text
    for number, one in site_behind(client).history.versions.items():
        assert f'href="/models/{number}"' in page and one.run in page
    assert "Win rate against SFT" in page and "badge-champion" in page


def test_the_list_has_the_win_rate_against_the_champion_and_no_other(empty: Home) -> None:
    """Where greedy answers and the best of 8 were judged as well, and where there was no champion yet."""
    client, first, second = visit(empty), run("one"), run("two")
    for made, rates in ((first, {"sft": 0.81, "sft_greedy": 0.82}),
                        (second, {"sft": 0.71, "sft_greedy": 0.72, "best_of_8": 0.73, "champion": 0.74})):
        figures = {f"win_rate_vs_{name}": rate for name, rate in rates.items()} | {"kl_policy": 4.25}
        made.steps["preference_eval"] = step("preference_eval", metrics=figures)
    fill(site_behind(client).history, [first, second], [version(1, first), version(2, second)])
    rows = client.get("/models").text.split("<tbody>")[1].split("</tr>")
    cells = [re.sub(r"<[^>]+>", " ", row) for row in rows]
    assert "0.71" in cells[0] and "0.74" in cells[0] and "0.72" not in cells[0] and "0.73" not in cells[0]
    assert "0.81" in cells[1] and "0.82" not in cells[1]
    assert "4.25" in cells[0]


def test_what_it_was_made_from_has_the_names_of_the_lineage(client: TestClient) -> None:
    number = champion(client)
    link = re.compile(r'<a href="/lineage/[^"]*"[^>]*>([^<]+)</a>')
    here = client.get(f"/models/{number}").text.split("<h2>Made from</h2>")[1].split("As a graph")[0]
    there = client.get(f"/lineage/version/{number}").text.split(">Made from</h2>")[1]
    assert "reward model " in here
    assert set(link.findall(here)) <= set(link.findall(there))


def test_an_alias_leads_to_its_version(client: TestClient) -> None:
    answer = client.get("/models/champion")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/models/{champion(client)}")


def test_everything_about_a_version(client: TestClient) -> None:
    number = champion(client)
    one = site_behind(client).history.versions[number]
    about = client.get(f"/models/{number}").text
    assert f'href="/runs/{one.run}"' in about and f'href="/data/{one.run}"' in about and one.md5 in about
    assert "became" in about and 'href="/lineage/' in about
    assert "PPO" in client.get(f"/models/{number}?view=curves").text
    assert "the reward model, held-out" in client.get(f"/models/{number}?view=reward").text
    assert "against SFT" in client.get(f"/models/{number}?view=evaluation").text
    samples = client.get(f"/models/{number}?view=samples").text
    assert samples.count('class="row-card"') == 10 and "reward <b>" in samples


@pytest.fixture
def examined(empty: Home, tmp_path: Path) -> TestClient:
    """Visits a project whose one version has a whole examination and evaluation in its run's workspace."""
    client = visit(empty)
    origin = Origin("web", "ada")
    pairs = [ScoredComparison(Comparison((Message("user", f"Question {i}"),), ("one", "another"), "A", origin),
                              (1.0, i % 4 / 2)) for i in range(40)]
    folder = workspace(tmp_path / "run", {"dvc.yaml": (CHECKOUT / "dvc.yaml").read_text(), "token": "secret"})
    limits = load_params(CHECKOUT, None, ["reward_eval.min_accuracy=0", "reward_eval.beats_length=false",
                                          "reward_eval.min_similar_length_accuracy=null"]).reward_eval
    reward_report.write_report(folder / "reports/reward/report", examine(pairs, None), pairs, [], limits)
    texts = [f"answer {i}" for i in range(12)]
    both = [Contestant.of_one(name, texts, [True] * 12, {"reward": [1.0] * 12}) for name in ("policy", "sft")]
    judge = NamedJudge("gold", ScoreJudge.of_texts(lambda texts: [float(len(text)) for _, text in texts]))
    preference_report.write_report(folder / "reports/preference/report", evaluate(
        [pair.comparison.prompt for pair in pairs[:12]], both, [judge], ["web"] * 12))
    points = [OptimisedPoint(str(kl), float(kl), kl / 2, kl / 4) for kl in range(4)]
    draw_overoptimisation(folder / "reports/preference/report/overoptimisation.png",
                          Overoptimisation("gold", points, [], None))
    steps = {name: replace(step(name), mlflow_run=None) for name in ("reward_eval", "preference_eval")}
    made = run(folder=folder, steps=steps)
    fill(site_behind(client).history, [made], [version(1, made, "champion")])
    return client


def test_the_reports_are_shown(examined: TestClient) -> None:
    reward = examined.get("/models/1?view=reward").text
    assert "Gate passed" in reward and "What the gate asks" in reward and "By annotator" in reward
    assert "/models/1/pictures/calibration" in reward
    assert "Confidently wrong" in reward
    assert "A tie counts as half a win" in examined.get("/models/1?view=evaluation").text
    assert examined.get("/models/1?view=samples").text.count('class="row-card"') == 10
    assert examined.get("/models/1?view=samples&at=10").text.count('class="row-card"') == 2


def test_pictures_are_the_known_ones(examined: TestClient) -> None:
    assert "/models/1/pictures/overoptimisation" in examined.get("/models/1?view=evaluation").text
    assert examined.get("/models/1/pictures/overoptimisation").content.startswith(b"\x89PNG")
    picture = examined.get("/models/1/pictures/scores")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    for name in ("wins", "..%2freport.md", "../../../token", "%2fetc%2fpasswd"):
        assert examined.get(f"/models/1/pictures/{name}").status_code == 404


def test_ratings_are_shown_with_their_intervals(empty: Home) -> None:
    client = visit(empty)
    made, unmeasured = run(), run(id="20261121-100000-bbbbbb", steps={})
    fill(site_behind(client).history, [made, unmeasured], [version(1, made, "champion"), version(2, unmeasured)])
    rating = standings(site_behind(client).history)[1]
    for path in ("/models", "/models/1"):
        page = client.get(path).text
        assert f"{rating.value:+.0f} <span" in page and f"{rating.low:+.0f} to {rating.high:+.0f}" in page
    assert "Elo above SFT" not in client.get("/models/2").text


def test_a_version_whose_run_is_gone(empty: Home) -> None:
    client = visit(empty)
    fill(site_behind(client).history, [], [version(1, run(), "champion")], [promotion(1)])
    for view in VIEWS:
        page = client.get(f"/models/1?view={view}")
        assert page.status_code == 200 and "records of the run that made it are gone" in page.text


@pytest.mark.parametrize("maker", ["dvc repro", "20261119-100000-cccccc"])
def test_a_version_without_a_run_leads_nowhere_in_vain(empty: Home, maker: str) -> None:
    """Of plain `dvc repro`, and of a run whose records are gone: every link of every page about it is there."""
    client, known = visit(empty), run(steps={})
    lost = replace(version(2, known, "champion"), run=maker, compared_with=1)
    fill(site_behind(client).history, [known], [replace(version(3, known, "challenger"), compared_with=2), lost,
                                                replace(version(1, known), compared_with=2)], [promotion(2)])
    pages = ("/", "/models", *(f"/models/{number}" for number in (1, 2, 3)), "/models/1/promote",
             "/lineage/version/2", "/compare")
    links = {link for page in pages for link in re.findall(r'(?:href|value)="([^"]*)"', client.get(page).text)}
    ours = {unescape(link).partition("#")[0] for link in links if link.startswith("/") and "/static/" not in link}
    assert f"/runs/{known.id}" in ours and "/models/2" in ours
    assert {link: status for link in ours if (status := client.get(link).status_code) >= 400} == {}
    choices = re.findall(r'<option value="([^"]+)"', client.get("/compare").text)
    assert "1" in choices and "2" not in choices


def test_a_version_of_plain_dvc_repro_says_so(empty: Home) -> None:
    client = visit(empty)
    fill(site_behind(client).history, [], [replace(version(2, run(), "champion"), run="dvc repro")], [promotion(2)])
    for page in ("/", "/models", "/models/2", "/lineage/version/2"):
        text = client.get(page).text
        assert "<code>dvc repro</code>" in text and "records are gone" not in text, page
    assert "<code>dvc repro</code> made it outside of any run" in client.get("/models/2?view=curves").text


def test_who_registered_a_version_and_who_evaluated_it_last(empty: Home) -> None:
    first, second = run(), run("20261121-100000-bbbbbb")
    client = visit(empty)
    anew = replace(version(1, second, "champion"), tags={"registered_by": first.id})
    fill(site_behind(client).history, [first, second], [anew], [promotion(1)])
    registered, evaluated = (f'<a class="mono" href="/runs/{one.id}">{one.id}</a>' for one in (first, second))
    assert f"by run {registered}, evaluated last by run {evaluated}." in client.get("/models/1").text
    table = client.get("/models").text.partition("<tbody>")[2]
    assert registered in table and evaluated not in table
    assert f"<dt>Made by</dt><dd>{registered}</dd>" in client.get("/").text
    for one, said in ((first, False), (second, True)):
        page = client.get(f"/runs/{one.id}").text
        assert 'href="/models/1"' in page and (", evaluated anew here" in page) is said
    assert client.get("/api/versions").json()["versions"][0]["registered_by"] == first.id


def test_promotion_asks_for_a_reason_and_says_what_it_does(client: TestClient) -> None:
    number = other(client)
    page = client.get(f"/models/{number}/promote").text
    assert f"Promote version {number}?" in page and f"Version {champion(client)} is the champion" in page
    assert "Sign in" in page and "<form" not in page  # who may only read gets no form


def test_promote_then_roll_back(owner: TestClient) -> None:
    before, number = champion(owner), other(owner)
    done = owner.post(f"/models/{number}/promote", data={"reason": "reads better", "by": "Ada", "seen": str(before)})
    assert (done.status_code, done.headers["location"]) == (303, f"/models/{number}?done=promoted")
    assert champion(owner) == number
    page = owner.get(f"/models/{number}?done=promoted").text
    assert f"Version {number} is the champion now" in page and "reads better" in page and "Ada" in page
    back = owner.post("/models/roll-back", data={"reason": "too long", "by": "Ben", "seen": str(number)})
    assert back.headers["location"] == f"/models/{before}?done=rolled-back"
    assert champion(owner) == before
    assert "too long" in owner.get(f"/models/{before}").text


def test_a_champion_that_changed_meanwhile_is_not_overruled(owner: TestClient, own: Home) -> None:
    """As a browser sees it: with a cookie, and the fields of the page that was open meanwhile."""
    token = owner.headers.pop("authorization").removeprefix("Bearer ")
    owner.get("/", params={"token": token})
    before, number = champion(owner), other(owner)
    form = owner.get(f"/models/{number}/promote").text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    assert fields["seen"] == str(before)
    Registry.open(own, "policy").promote(number, "quicker", "Ben", before)
    third = other(owner)
    answer = owner.post(f"/models/{third}/promote", data={**fields, "reason": "my reason", "by": "Ada"},
                        headers={"origin": ADDRESS})
    assert answer.status_code == 409
    assert "has changed meanwhile" in answer.text and ">my reason</textarea>" in answer.text
    assert champion(owner) == number


def test_a_page_without_a_champion_says_that_none_was_seen(empty: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run that promotes while the page is open would be overruled."""
    def promote(number: int, _reason: str, _by: str, seen: int | None) -> PolicyVersion:
        told.append(seen)
        return PolicyVersion(number, "d.dir", "m", None, True, None)

    told: list[int | None] = []
    client, made = visit(empty), run()
    fill(site_behind(client).history, [made], [version(1, made)])
    client.get("/", params={"token": open_keys(empty)[0].token})
    monkeypatch.setattr(Registry, "open", lambda *_: SimpleNamespace(promote=promote))
    form = client.get("/models/1/promote").text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    client.post("/models/1/promote", data={**fields, "reason": "the first", "by": "Ada"}, headers={"origin": ADDRESS})
    assert told == [NO_CHAMPION]


def deciding(client: TestClient, tmp_path: Path, *aliases: str, **decision: object) -> None:
    """Fill the history with one version whose run left this decision."""
    folder = workspace(tmp_path / "run", {"dvc.yaml": (CHECKOUT / "dvc.yaml").read_text(),
                                          "reports/promote/decision.json": json.dumps(decision)})
    made = run(folder=folder, steps={"promote": replace(step("promote"), mlflow_run=None)})
    fill(site_behind(client).history, [made], [version(1, made, *aliases)])


def test_each_rule_of_promotion_is_shown(empty: Home, tmp_path: Path) -> None:
    client = visit(empty)
    rules = [{"rule": "KL to SFT", "required": "at most 10 nats a response", "measured": "12.50 nats",
              "verdict": "failed"},
             {"rule": "judge", "required": "another", "measured": "not measured", "verdict": "not measured"}]
    deciding(client, tmp_path, "challenger", promoted=False, rules=rules,
             reasons=["KL to SFT 12.50 nats; required is at most 10", "there was no champion to compare with"])
    for path in ("/models/1", f"/runs/{run().id}"):
        page = client.get(path).text
        assert "at most 10 nats a response" in page and "12.50 nats" in page and "badge-failed" in page
        assert "not promoted" in page and "there was no champion" in page
        assert "required is at most 10" not in page  # the table says it


def test_a_decision_of_before_there_were_rules_is_shown(empty: Home, tmp_path: Path) -> None:
    client = visit(empty)
    deciding(client, tmp_path, "champion", promoted=True, reasons=["win rate against SFT 0.8: lower end above 0.5"])
    for path in ("/models/1", f"/runs/{run().id}"):
        page = client.get(path).text
        assert "badge-promoted" in page and "lower end above 0.5" in page and ">Measured</th>" not in page


def test_a_version_that_awaits_approval_says_so_here_and_at_home(empty: Home, tmp_path: Path) -> None:
    client = visit(empty)
    deciding(client, tmp_path, "awaiting", "challenger", promoted=False, awaiting=True, reasons=[], rules=[])
    page = client.get("/models/1").text
    assert "waits for a person" in page and 'href="/models/1/promote">Approve</a>' in page
    assert "badge-awaiting" in page
    assert "waits for a person" in client.get("/").text
    assert client.get("/models/awaiting").headers["location"] == "/models/1"


def test_without_a_reason_or_a_name_nothing_happens(owner: TestClient) -> None:
    before, number = champion(owner), other(owner)
    for fields in ({"reason": " ", "by": "Ada"}, {"reason": "good", "by": ""}, {"reason": "x" * 3000, "by": "Ada"}):
        answer = owner.post(f"/models/{number}/promote", data=fields)
        assert answer.status_code == 409 and "Say who you are and why" in answer.text
    assert owner.post("/models/999/promote", data={"reason": "good", "by": "Ada"}).status_code == 404
    assert champion(owner) == before


def test_while_mlflow_is_away_the_form_is_shown_again_with_its_reason(
        empty: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    client, made = visit(empty), run(steps={})
    fill(site_behind(client).history, [made], [version(2, made, "champion"), version(1, made, "previous")])
    client.get("/", params={"token": open_keys(empty)[0].token})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"http://127.0.0.1:{free_port()}")
    for change in ("1/promote", "roll-back"):
        form = client.get(f"/models/{change}").text
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
        answer = client.post(f"/models/{change}", data={**fields, "reason": "my reason", "by": "Ada"},
                             headers={"origin": ADDRESS})
        assert answer.status_code == 409
        assert f"MLflow at {address} does not answer" in answer.text and ">my reason</textarea>" in answer.text


def test_a_change_that_cannot_be_read_back_yet_is_made_all_the_same(
        empty: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise UserError("MLflow's store cannot be read")

    client, made = login(visit(empty), empty), run()
    history = site_behind(client).history
    fill(history, [made], [version(2, made, "champion"), version(1, made)])
    monkeypatch.setattr(history, "refresh", gone)
    registry = SimpleNamespace(promote=lambda number, *_: PolicyVersion(number, "d.dir", "m", None, True, None))
    monkeypatch.setattr(Registry, "open", lambda *_: registry)
    answer = client.post("/models/1/promote", data={"reason": "reads better", "by": "Ada", "seen": "2"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models/1?done=promoted")


def test_without_the_token_nothing_happens(client: TestClient) -> None:
    before = champion(client)
    assert client.post(f"/models/{other(client)}/promote", data={"reason": "good", "by": "Eve"}).status_code == 403
    assert client.post("/models/roll-back", data={"reason": "good", "by": "Eve"}).status_code == 403
    assert champion(client) == before


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(empty: Home, tmp_path: Path, text: str) -> None:
    client = visit(empty)
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    table = f"| {text} | b |\n|---|---|\n| {text} | {text} |"
    report = f"# {text}\n\n{text}\n\n{table}\n\n- {text}\n\n**{text}**\n\n{lines}\n"
    curve = json.dumps({"what": text, "step": 1, "loss": 1.0, text: 2.0}) + "\n"
    rule = dict.fromkeys(("rule", "required", "measured", "verdict"), text)
    decision = json.dumps({"promoted": False, "reasons": [text, "one"], "rules": [rule, text, {"rule": text}]})
    folder = workspace(tmp_path / "run", {
        "dvc.yaml": (CHECKOUT / "dvc.yaml").read_text(), "models/policy/curves.jsonl": curve,
        "models/sft/curves.jsonl": curve, "reports/promote/decision.json": decision,
        "reports/reward/report/report.md": report,
        "reports/reward/report/worst.md": report, "reports/preference/report/report.md": report})
    write_samples(folder / "reports/preference/report/samples.jsonl", [
        Sample((Message("user", text),), {"policy": SampleAnswer(text, False, {"reward": 1.0}),
                                          text: SampleAnswer(text, True, {})}, {text: 0.0})])
    steps = {name: replace(step(name), mlflow_run=None)
             for name in ("sft", "ppo", "reward_eval", "preference_eval", "promote")}
    made = run(folder=folder, steps=steps, git_commit=text)
    fill(site_behind(client).history, [made], [replace(version(1, made, "champion", text), md5=text),
                                               version(2, run(text[:50]), "previous")],
         [Move(made.created, text, 2, 1, text, text), Move(made.created, "champion", None, 1, text, text)])
    for path in ("/models", *(f"/models/1?view={view}" for view in VIEWS), "/models/2", "/models/1/promote",
                 "/models/roll-back"):
        page = client.get(path)
        assert page.status_code == 200
        assert active_in(page.text) == []
    assert active_in(client.get("/models/" + re.sub("[^a-z]", "", text)).text) == []
    assert active_in(client.get("/models/1", params={"view": text, "done": text}).text) == []


@pytest.mark.slow
def test_warm_pages_are_quick(client: TestClient) -> None:
    number = champion(client)
    for path in ("/models", *(f"/models/{number}?view={view}" for view in VIEWS)):
        client.get(path)
        took = []
        for _ in range(20):
            clock = time.perf_counter()
            client.get(path)
            took.append(time.perf_counter() - clock)
        assert sorted(took)[18] < 0.25, path  # a bench on a quiet machine states 0.1


@pytest.mark.slow
def test_promoting_and_rolling_back_in_the_browser(own: Home, serve, browser: Chrome) -> None:
    server = serve(own.root)
    client = visit(own)
    before, number = champion(client), other(client)
    emulate(browser, False, 1280, 900)
    browser.get(f"{server.url}/?token={server.token}")
    browser.get(f"{server.url}/models/{number}")
    opens_a_page(browser, browser.find_element(By.LINK_TEXT, "Promote").click)
    browser.find_element(By.ID, "reason").send_keys("answers <b>read</b> better")
    browser.find_element(By.ID, "by").send_keys("Ada")
    opens_a_page(browser, browser.find_element(By.CSS_SELECTOR, "main form button").click)
    assert f"Version {number} is the champion now" in browser.find_element(By.TAG_NAME, "main").text
    assert "answers <b>read</b> better" in browser.find_element(By.CSS_SELECTOR, ".moves").text
    opens_a_page(browser, browser.find_element(By.LINK_TEXT, "Roll back").click)
    browser.find_element(By.ID, "reason").send_keys("too long")
    browser.find_element(By.ID, "by").send_keys("Ada")
    opens_a_page(browser, browser.find_element(By.CSS_SELECTOR, "main form button").click)
    assert f"Version {before} is the champion again" in browser.find_element(By.TAG_NAME, "main").text
    assert problems_in(browser) == []
    for width in (1280, 390):
        emulate(browser, width == 390, width, 900)
        for path in ("/models", *(f"/models/{before}?view={view}" for view in VIEWS), f"/models/{number}/promote"):
            browser.get(server.url + path)
            assert problems_in(browser) == [], path
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path
