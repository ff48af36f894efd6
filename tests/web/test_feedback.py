"""The feedback pages: blind comparison, ranking, undo, people; and a whole session by keyboard in a real browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from plumbline.feedback.collect import collect_from
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair, Verdict
from plumbline.preferences.types import Message
from plumbline.project.home import Home
from plumbline.retraining.due import Due, due
from plumbline.web.annotator import NAME, feedback_service
from plumbline.web.security import open_keys
from plumbline.web.site import COUNTING
from plumbline.web.views import feedback as progress
from plumbline.web.views.feedback import feedback_progress
from testing.hostile import MARK, TEXTS, active_in
from testing.sites import Serve, emulate, login, opens_a_page, problems_in, site_behind, visit, wait
from testing.verdict_makers import count

SAME_SITE = {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:4280"}
BLANK = {f"rank-{place}": "" for place in range(3)}
"""What a browser sends of fields that nobody filled in."""


def make_pair(number: int, answers: int = 2) -> OfferedPair:
    models = ("champion", "SFT", "challenger")
    made = tuple(OfferedAnswer(f"Answer {place} of {number}.", models[place], "d", 0.5 - place)
                 for place in range(answers))
    return OfferedPair((Message("user", f"Question {number}?"),), made, f"reason {number}", "question", "feedback")


@pytest.fixture
def person(empty: Home) -> TestClient:
    """A signed-in browser in which Ada judges; there are pairs and a ranking."""
    client = visit(empty)
    keys = open_keys(empty)[0]
    client.cookies.set(keys.cookie_name, keys.cookie)
    client.cookies.set(NAME, "Ada")
    client.headers.update(SAME_SITE)
    store_of(client).add_pairs([make_pair(1), make_pair(2), make_pair(3, answers=3)])
    return client


def store_of(client: TestClient) -> FeedbackStore:
    return feedback_service(client.app).store()  # type: ignore[arg-type]


def fields(page: str, action: str = "/feedback/verdicts") -> dict[str, str]:
    """The hidden fields of the form with this action."""
    form = page.split(f'action="{action}"')[1].split("</form>")[0]
    return dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form))


def unordered(person: TestClient) -> dict[str, str]:
    """The fields of a page that say all but the order of the answers: a program adds `shown`, as `try it` does."""
    form = fields(person.get("/feedback").text)
    del form["order"]
    return form


def judge(person: TestClient, choice: str, page: str = "/feedback", **more: str) -> Verdict:
    """Load the page, send a verdict on what it shows, and read what was kept."""
    answer = person.post("/feedback/verdicts", data={**fields(person.get(page).text), "choice": choice, **more})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == page
    kept = store_of(person).last(person.cookies["plumbline-session"])
    assert kept
    return kept


def test_which_model_gave_which_answer_is_told_after_the_verdict_and_not_before(person: TestClient) -> None:
    page = person.get("/feedback").text
    assert "Question 1?" in page
    assert "Answer 0 of 1." in page
    assert not re.search("champion|SFT|reward|reason 1", page)
    judge(person, "A")
    page = person.get("/feedback").text
    assert re.search(r"A was better\..*reason 1", page, re.DOTALL)
    assert "champion (reward 0.50)" in page


def test_the_source_of_the_page_does_not_say_which_side_is_the_policys(person: TestClient) -> None:
    for page, orders in (("/feedback", permutations("01")), ("/feedback/ranking", permutations("012"))):
        assert not set(fields(person.get(page).text).values()) & {",".join(order) for order in orders}


def test_a_verdict_is_kept_as_it_was_shown_though_the_name_was_changed_in_another_tab(person: TestClient) -> None:
    shown, kept = [], []
    for name in "abcdefgh":
        person.cookies.set(NAME, "Ada")
        page = person.get("/feedback?pair=" + make_pair(1).id).text
        person.cookies.set(NAME, name)
        assert person.post("/feedback/verdicts", data={**fields(page), "choice": "A"}).status_code == 303
        last = store_of(person).last(person.cookies["plumbline-session"])
        assert last
        shown.append(tuple(map(int, re.findall(r"Answer (\d) of 1\.", page))))
        kept.append(last.shown)
    assert kept == shown


def test_a_verdict_is_kept_as_it_was_shown_with_strength_and_comment(person: TestClient) -> None:
    page = person.get("/feedback").text
    first = re.findall(r"Answer (\d) of 1\.", page)
    kept = judge(person, "B", strength="3", comment=" fine ")
    assert [str(place) for place in kept.shown] == first
    assert (kept.choice, kept.strength, kept.comment, kept.annotator) == ("B", 3, "fine", "Ada")


def test_the_same_form_sent_twice_counts_once(person: TestClient) -> None:
    form = {**fields(person.get("/feedback").text), "choice": "tie"}
    for _ in range(2):
        assert person.post("/feedback/verdicts", data=form).status_code == 303
    assert count(store_of(person)) == 1


def test_back_and_another_verdict_is_refused_with_what_to_do(person: TestClient) -> None:
    form = {**fields(person.get("/feedback").text), "choice": "A"}
    assert person.post("/feedback/verdicts", data=form).status_code == 303
    answer = person.post("/feedback/verdicts", data={**form, "choice": "B"})
    assert answer.status_code == 400
    assert "answered already" in answer.text
    assert person.post("/feedback/undo", data={"token": form["token"], "key": form["key"]}).status_code == 303
    assert "was undone" in person.post("/feedback/verdicts", data={**form, "choice": "B"}).text
    judge(person, "B")


def test_of_two_tabs_with_the_same_pair_the_last_word_counts(person: TestClient) -> None:
    tabs = [fields(person.get("/feedback").text) for _ in range(2)]
    assert tabs[0]["pair"] == tabs[1]["pair"]
    for tab, choice in zip(tabs, ("A", "B"), strict=True):
        assert person.post("/feedback/verdicts", data={**tab, "choice": choice}).status_code == 303
    kept = store_of(person).last(person.cookies["plumbline-session"])
    assert kept
    assert (kept.choice, count(store_of(person))) == ("B", 1)
    answer = person.post("/feedback/verdicts", data={**tabs[0], "choice": "A"})
    assert answer.status_code == 400
    assert "replaced by a later one" in answer.text


def test_a_skipped_ranking_leads_to_the_next_and_its_undo_to_its_answers(person: TestClient) -> None:
    judge(person, "skip", "/feedback/ranking", **BLANK)
    page = person.get("/feedback/ranking").text
    answer = person.post("/feedback/undo", data=fields(page, "/feedback/undo"))
    assert answer.headers["location"].startswith("/feedback/ranking?pair=")
    assert "Question 3?" in person.get(answer.headers["location"]).text


def test_an_undo_after_the_collection_does_not_move_the_progress_up(person: TestClient, empty: Home,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FRESH_SECONDS", 1e-9)
    store, kept = store_of(person), judge(person, "A")
    before = feedback_progress(due(empty), store)
    collect_from(store, empty)
    store.undo(kept.key, kept.session)
    after = feedback_progress(due(empty), store)
    assert before and after
    assert (before.arrived + before.waiting, after.arrived + after.waiting, after.waiting) == (1, 1, 0)


@pytest.mark.parametrize("page", ["/feedback", "/feedback/ranking", "/"])
def test_no_page_asks_mlflow(person: TestClient, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """The background does, whatever it is told: then there is no bar, or the reason, and people judge all the same."""
    monkeypatch.setattr("plumbline.retraining.due._champion", lambda *_: pytest.fail("MLflow was asked"))
    freshness = site_behind(person).freshness
    bar = 'id="progress"' if page != "/" else 'aria-label="New comparisons"'
    for known in (COUNTING, "That cannot be told (MlflowException); the server's log has the details."):
        freshness.due = known
        shown = person.get(page)
        assert (shown.status_code, bar in shown.text) == (200, False)
    freshness.due = Due(12, 500, None, None, False, "12 new comparisons; 500 are needed")
    assert bar in person.get(page).text


def test_undo_takes_the_verdict_back_and_shows_its_pair_again(person: TestClient) -> None:
    judge(person, "A")
    judge(person, "both bad")
    page = person.get("/feedback").text
    answer = person.post("/feedback/undo", data=fields(page, "/feedback/undo"))
    assert answer.status_code == 303
    assert "Question 2?" in person.get(answer.headers["location"]).text
    assert count(store_of(person)) == 1


def test_another_session_cannot_undo(person: TestClient, empty: Home) -> None:
    kept = judge(person, "A")
    other = login(TestClient(person.app, base_url="http://127.0.0.1:4280", follow_redirects=False), empty)
    answer = other.post("/feedback/undo", data={"key": kept.key})
    assert answer.status_code == 400
    assert count(store_of(person)) == 1


def test_answers_are_put_in_order_with_ties(person: TestClient) -> None:
    kept = judge(person, "ranking", "/feedback/ranking", **{"rank-0": "2", "rank-1": "1", "rank-2": "2"})
    assert kept.ranks == (2, 1, 2)
    assert "rank 1" in person.get("/feedback/ranking").text


def test_the_best_of_several_is_kept_as_that_and_the_others_get_no_rank(person: TestClient) -> None:
    tried = replace(make_pair(4, answers=3), source="try it")
    store_of(person).add_pairs([tried])
    form = {**unordered(person), "pair": tried.id, "shown": "0,1,2"}
    answer = person.post("/feedback/verdicts", data={**form, "best": "3"})
    assert answer.status_code == 400
    assert "rank 1 for the best answer" in answer.text
    answer = person.post("/feedback/verdicts", data={**form, "best": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/try?kept=1")
    kept = store_of(person).last(person.cookies["plumbline-session"])
    assert kept
    assert (kept.choice, kept.ranks) == ("best", (2, 1, 2))
    page = person.get("/feedback").text
    assert "B was the best." in page
    assert ", rank " not in page
    people = person.get("/feedback/people").text
    assert "Best of several" in people


@pytest.mark.parametrize(("changed", "says"), [
    ({"choice": "C"}, "should be one of"), ({"shown": "0,1,2"}, "each of the 2"), ({"shown": "a"}, "whole numbers"),
    ({"shown": ""}, "whole numbers"), ({"pair": "0" * 16}, "no pair"), ({"pair": "0" * 16, "order": "x"}, "no pair"),
    ({"key": "x"}, "key"), ({"strength": "9"}, "1, 2 or 3"),
    ({"choice": "best"}, "whole numbers"), ({"choice": "ranking", "rank-0": ""}, "whole numbers")])
def test_what_is_no_verdict_is_refused_and_nothing_is_kept(
        person: TestClient, changed: dict[str, str], says: str) -> None:
    form = {**unordered(person), "shown": "1,0", "choice": "A", **changed}
    answer = person.post("/feedback/verdicts", data=form)
    assert answer.status_code == 400
    assert says in answer.text
    assert count(store_of(person)) == 0


def test_who_may_only_read_sees_no_pair_and_changes_nothing(person: TestClient) -> None:
    form = {**fields(person.get("/feedback").text), "choice": "A"}
    reader = TestClient(person.app, base_url="http://127.0.0.1:4280", follow_redirects=False)
    page = reader.get("/feedback").text
    assert "Sign in" in page
    assert "Question" not in page
    assert reader.post("/feedback/verdicts", data=form).status_code == 403
    assert count(store_of(person)) == 0


def test_who_has_no_name_is_asked_for_one(person: TestClient) -> None:
    person.cookies.delete(NAME)
    page = person.get("/feedback").text
    assert "Your name" in page
    assert "Question" not in page
    assert person.post("/feedback/name", data={**fields(page, "/feedback/name"), "name": " \n"}).status_code == 400
    answer = person.post("/feedback/name", data={**fields(page, "/feedback/name"), "name": "  Zoë \r\n of\0 X "})
    assert answer.status_code == 303
    assert judge(person, "A").annotator == "Zoë of X"


def test_where_there_is_nothing_to_judge_the_page_says_why(person: TestClient) -> None:
    for _ in range(2):
        judge(person, "A")
    assert "plumbline run" in person.get("/feedback").text


def test_people_are_listed_with_agreement_and_habits(person: TestClient) -> None:
    for _ in range(2):
        judge(person, "A")
    person.cookies.set(NAME, "Ben")
    for _ in range(2):
        judge(person, "tie")
    page = person.get("/feedback/people").text
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", page, re.DOTALL)
    assert [name for name, _ in rows] == ["Ada", "Ben"]
    assert "0 %" in rows[0][1]
    assert "100 %" in rows[0][1]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_hostile_texts_stay_texts(person: TestClient, text: str) -> None:
    answers = (OfferedAnswer(text, text, "d", 1.0), OfferedAnswer(f"{text}!", "SFT", "d", 0.0),
               OfferedAnswer(f"{text}?", "SFT", "d", 0.0))
    store = store_of(person)
    pair = OfferedPair((Message("system", text), Message("user", text)), answers[:2], text, "x", "feedback")
    ranking = OfferedPair((Message("user", text),), answers, text, "x", "feedback")
    store.add_pairs([pair, ranking])
    person.post("/feedback/name", data={"name": text, **fields(person.get("/feedback").text, "/feedback/name")})
    for page, asked, choice in (("/feedback", pair, "A"), ("/feedback/ranking", ranking, "skip")):
        shown = person.get(f"{page}?pair={asked.id}").text
        assert MARK in shown
        assert active_in(shown) == []
        sent = person.post("/feedback/verdicts", data={**fields(shown), "choice": choice, "comment": text})
        assert sent.status_code == 303
        assert active_in(person.get(page).text) == []
    assert active_in(person.get("/feedback/people").text) == []
    assert f"{MARK}=1" not in str(person.get("/feedback").headers)


@pytest.fixture
def session(browser: Chrome, serve: Serve, empty: Home) -> Iterator[Chrome]:
    """A browser on the feedback page of a server whose store has pairs."""
    store = FeedbackStore.open(empty)
    store.add_pairs([make_pair(number) for number in range(8)] + [make_pair(9, answers=3)])
    server = serve(empty.root)
    emulate(browser, False, 1280, 900)
    browser.get(f"{server.url}/sign-in")
    browser.delete_all_cookies()  # those of other tests: a browser keeps them for all ports of a host
    browser.get(f"{server.url}/feedback?token={server.token}")
    try:
        yield browser
    finally:
        store.close()


def press(browser: Chrome, *keys: str) -> None:
    """Press keys that open another page."""
    opens_a_page(browser, ActionChains(browser).send_keys(*keys).perform)


def told(browser: Chrome) -> str:
    """What the page says of the last verdict."""
    return str(browser.find_element(By.CSS_SELECTOR, ".reveal").text)


@pytest.mark.slow
def test_a_whole_session_by_keyboard(session: Chrome, empty: Home) -> None:
    press(session, "Ada", Keys.ENTER)
    for key, says in (("a", "A was better."), ("b", "B was better."), ("t", "As good."), ("x", "Both bad."),
                      ("s", "Skipped.")):
        press(session, key)
        assert says in told(session)
    asked = session.find_element(By.CSS_SELECTOR, ".turn-user .untrusted").text
    ActionChains(session).send_keys("2", "c", "abtxs 1", Keys.ENTER, Keys.ESCAPE).perform()
    assert session.find_element(By.ID, "comment").get_attribute("value") == "abtxs 1", "typing is no verdict"
    press(session, "b")
    press(session, "u")
    assert session.find_element(By.CSS_SELECTOR, ".turn-user .untrusted").text == asked
    press(session, "2", "a")
    session.get(session.current_url.split("/feedback")[0] + "/feedback/ranking")
    press(session, "s")
    assert "Skipped." in told(session)
    press(session, "u")
    press(session, "1", "b", "3", "c", "1", Keys.ENTER)
    assert "rank 3" in told(session)
    assert problems_in(session) == []
    store = FeedbackStore.open(empty)
    arrival, = collect_from(store, empty)
    store.close()
    assert arrival.batch.kinds == {"comparison": 4, "rating": 2, "ranking": 1}


@pytest.mark.slow
def test_without_script_the_pages_work_by_tab_and_enter(session: Chrome, empty: Home) -> None:
    session.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        session.find_element(By.ID, "name").send_keys("Ada", Keys.ENTER)
        wait(lambda: bool(session.find_elements(By.CSS_SELECTOR, 'button[value="B"]')))
        session.find_element(By.CSS_SELECTOR, 'button[value="B"]').send_keys(Keys.ENTER)
        wait(lambda: "B was better." in told(session))
        session.find_element(By.CSS_SELECTOR, ".reveal button").send_keys(Keys.ENTER)
        wait(lambda: not session.find_elements(By.CSS_SELECTOR, ".reveal") and "Question" in session.page_source)
        session.find_element(By.CSS_SELECTOR, 'button[value="A"]').send_keys(Keys.ENTER)
        wait(lambda: "A was better." in told(session))
    finally:
        session.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    store = FeedbackStore.open(empty)
    arrival, = collect_from(store, empty)
    store.close()
    assert arrival.batch.kinds == {"comparison": 1}, "the first verdict was taken back"
