"""`Try it`: tiny real models answer, with rewards, and the comparison becomes feedback."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from plumbline.feedback.contestants import Contestants
from plumbline.feedback.verdicts import Verdict
from plumbline.lm.base import LanguageModel
from plumbline.project.home import Home
from plumbline.web.annotator import NAME, SESSION, feedback_service
from plumbline.web.pages.try_it import LONGEST_PROMPT
from testing.contestants import make_contestants, put_into_history
from testing.hostile import MARK, TEXTS, active_in
from testing.sites import login, site_behind, visit


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def contestants(cache: Path, taught_lm: LanguageModel) -> Contestants:
    return make_contestants(cache, taught_lm)


@pytest.fixture
def person(empty: Home, cache: Path, contestants: Contestants, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Sends the token, in a project with a champion, a challenger and SFT."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    empty.folder.mkdir(exist_ok=True)
    (empty.folder / "cache").symlink_to(cache)
    client = login(visit(empty), empty)
    put_into_history(site_behind(client).history, contestants)
    client.cookies.set(NAME, "Ada")
    client.cookies.set(SESSION, "s1")
    yield client
    feedback_service(client.app).close()  # type: ignore[arg-type]


def fields(page: str) -> dict[str, str]:
    form = page.split('class="verdict"')[1]
    return dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form))


def last(person: TestClient) -> Verdict:
    kept = feedback_service(person.app).store().last("s1")  # type: ignore[arg-type]
    assert kept
    return kept


@pytest.mark.slow
def test_all_models_answer_side_by_side_with_rewards_and_the_best_one_becomes_feedback(
        person: TestClient) -> None:
    page = person.post("/try", data={"prompt": "please tell me a few colors"}).text
    names = ["champion, version 2", "challenger, version 1", "SFT"]
    assert re.findall(r'<span class="soft">([^<]+)</span></h2>', page) == names
    assert len(re.findall(r"reward -?\d+\.\d\d", page)) == 3
    assert page.rstrip().endswith("</html>")
    assert active_in(page) == []
    answer = person.post("/feedback/verdicts", data={**fields(page), "best": "2"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/try?kept=1")
    assert (last(person).choice, last(person).ranks) == ("best", (2, 2, 1))
    assert "verdict is kept" in person.get("/try?kept=1").text
    pair = feedback_service(person.app).store().pair(last(person).pair)  # type: ignore[arg-type]
    assert pair
    assert (pair.source, pair.prompt[0].content) == ("try it", "please tell me a few colors")
    assert [one.model for one in pair.answers] == names


@pytest.mark.slow
def test_hostile_prompts_stay_texts(person: TestClient) -> None:
    for text in TEXTS:
        page = person.post("/try", data={"prompt": text[:100]}).text
        assert MARK in page
        assert active_in(page) == []


@pytest.mark.slow
def test_the_answers_come_as_they_are_made_and_not_at_the_end(person: TestClient) -> None:
    from plumbline.feedback.live_answers import LiveAnswers

    begun: list[bool] = []
    answers = LiveAnswers.answers

    class Watched(LiveAnswers):
        def answers(self, contestants, prompt):  # type: ignore[no-untyped-def]
            for event in answers(self, contestants, prompt):
                begun.append(True)
                yield event

    service = feedback_service(person.app)  # type: ignore[arg-type]
    service.live_answers = Watched(service.home)
    assert "reward" in person.post("/try", data={"prompt": "colors"}).text
    assert len(begun) > 6, "pieces, and not whole answers only"


@pytest.mark.parametrize(("prompt", "says"), [("", "empty"), ("  \n", "empty"), ("a\0b", "NUL"),
                                              ("x" * (LONGEST_PROMPT + 1), "are allowed")])
def test_a_prompt_that_says_nothing_or_too_much_is_refused(
        person: TestClient, prompt: str, says: str) -> None:
    answer = person.post("/try", data={"prompt": prompt})
    assert answer.status_code == 400
    assert says in answer.text


@pytest.mark.slow
def test_a_prompt_too_long_for_the_models_is_said_where_the_answers_would_be(person: TestClient) -> None:
    page = person.post("/try", data={"prompt": "red " * 300}).text
    assert 'role="alert"' in page
    assert "too long" in page
    assert page.rstrip().endswith("</html>")


def test_where_there_is_no_model_the_page_says_so(empty: Home) -> None:
    client = login(visit(empty), empty)
    assert "none has been registered" in client.get("/try").text
    assert "none has been registered" in client.post("/try", data={"prompt": "colors"}).text


def test_asking_needs_the_token(person: TestClient) -> None:
    reader = TestClient(person.app, base_url="http://127.0.0.1:4280")
    assert "Sign in" in reader.get("/try").text
    assert reader.post("/try", data={"prompt": "colors"}).status_code == 403
