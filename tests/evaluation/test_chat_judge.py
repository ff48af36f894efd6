"""A judge behind a chat endpoint, asked over HTTP by a server of this test."""

import http.client
import io
import json
import re
import threading
import urllib.error
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumbline.errors import UserError
from plumbline.evaluation.judging.chat import ATTEMPTS, KEY, ChatJudge
from plumbline.evaluation.judging.judges import ModelAnswer, judge_both_orders
from plumbline.evaluation.judging.names import JudgeSettings, make_judges
from plumbline.preferences.types import Message

PROMPTS = [(Message("user", f"Question {i}"),) for i in range(4)]
GOOD, BAD, PLAIN = ModelAnswer("a good answer"), ModelAnswer("a bad answer"), ModelAnswer("an answer")


class Endpoint:
    """An OpenAI-compatible server: `say(first, second)` is its verdict, `statuses` are answered first."""

    def __init__(self):
        self.say = lambda first, second: "tie" if ("good" in first) == ("good" in second) else (
            "A" if "good" in first else "B.")
        self.statuses, self.headers, self.asked = [], [], []
        self.location = ""
        """Where a status of a redirect leads."""
        self.cut = 0
        """Answers of which only the half is sent."""
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    status = endpoint.statuses.pop(0) if endpoint.statuses else 200
                    endpoint.headers.append(dict(self.headers))
                    endpoint.asked.append((self.path, body))
                text = body["messages"][0]["content"]
                first, second = (re.search(f"<response_{side}>\n(.*)\n</response_{side}>", text, re.DOTALL)[1]
                                 for side in "ab")
                said = {"choices": [{"message": {"role": "assistant", "content": endpoint.say(first, second)}}]}
                payload = json.dumps(said if status == 200 else {"error": {"message": "not now"}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Retry-After", "0")
                if 300 <= status < 400:
                    self.send_header("Location", endpoint.location)
                self.end_headers()
                with lock:
                    endpoint.cut, cut = max(0, endpoint.cut - 1), endpoint.cut
                self.wfile.write(payload[: len(payload) // 2] if cut else payload)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def endpoint():
    one = Endpoint()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def judge(endpoint, tmp_path):
    return ChatJudge(endpoint.url, "referee", tmp_path / "verdicts", limit=100, first_pause=0.01)


def test_both_orders_are_asked_and_ties_understood(endpoint, judge):
    found = judge_both_orders(judge, PROMPTS, [GOOD, BAD, PLAIN, GOOD], [BAD, GOOD, BAD, GOOD])
    assert found.outcomes == [1.0, 0.0, 0.5, 0.5]
    assert (found.contradictions, found.first_shown) == (0.0, 0.5)
    assert len(endpoint.asked) == 6, "two orders of three pairs; the same answer twice is a tie, unasked"
    path, body = min(endpoint.asked, key=lambda one: one[1]["messages"][0]["content"])
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "referee", 0)
    assert "Question 0" in body["messages"][0]["content"]


def test_a_judge_that_always_says_a_is_found_out(endpoint, judge):
    endpoint.say = lambda first, second: "A"
    found = judge_both_orders(judge, PROMPTS[:2], [GOOD, BAD], [BAD, GOOD])
    assert (found.outcomes, found.contradictions, found.first_shown) == ([0.5, 0.5], 1.0, 1.0)


def test_what_was_asked_once_is_not_paid_for_again(endpoint, judge, tmp_path):
    once = judge_both_orders(judge, PROMPTS[:3], [GOOD, BAD, PLAIN], [BAD, GOOD, GOOD])
    asked = len(endpoint.asked)
    again = ChatJudge(endpoint.url, "referee", tmp_path / "verdicts", limit=100)
    with (next((tmp_path / "verdicts").iterdir())).open("a") as out:
        out.write('{"texts": "cut in the mid')  # as a killed run leaves it
    assert judge_both_orders(again, PROMPTS[:3], [GOOD, BAD, PLAIN], [BAD, GOOD, GOOD]) == once
    assert len(endpoint.asked) == asked
    other = ChatJudge(endpoint.url, "another model", tmp_path / "verdicts", limit=100)
    judge_both_orders(other, PROMPTS[:1], [GOOD], [BAD])
    assert len(endpoint.asked) == asked + 2
    newer = ChatJudge(endpoint.url, "referee", tmp_path / "verdicts", limit=100, version="2")
    judge_both_orders(newer, PROMPTS[:1], [GOOD], [BAD])
    assert len(endpoint.asked) == asked + 4, "another model may answer to the name since"


def test_a_verdict_that_an_older_reading_kept_is_read_anew(endpoint, judge):
    judge.prefer(PROMPTS[:1], [GOOD], [BAD])
    (file,) = judge.kept.iterdir()
    file.write_text(file.read_text().replace('"A"', '"A close call, but B"'))
    again = ChatJudge(endpoint.url, "referee", judge.kept, limit=100)
    assert again.prefer(PROMPTS[:1], [GOOD], [BAD]) == [1.0]
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(("said", "outcome"), [
    ("A", 1.0), ("**B**", 0.0), ("Response A is better.", 1.0), ("tie", 0.5), ("A tie.", 0.5), ("TIE", 0.5),
    ("A and B are equal", None), ("A/B", None), ("a good one", None), ("Neither", None), ("(A)", 1.0), ("[[B]]", 0.0),
    ("`A`\n", 1.0), ("**A**\n\nIt is more helpful", 1.0), ("B. It answers the", 0.0), ("**B** is better", 0.0),
    ("A is clearly better than B", 1.0), ("B is the better response.", 0.0), ("**tie**", 0.5),
    ("A better response is B.", None), ("A close call, but B", None), ("A is worse than B", None), ("A < B", None),
    ("A, B or tie", None), ("tie-breaker: B", None), ("A is not better", None), ("Ties are not allowed: B", None)])
def test_what_counts_as_a_verdict(endpoint, judge, said, outcome):
    judge_both_orders(judge, PROMPTS[1:3], [GOOD, GOOD], [BAD, BAD])
    endpoint.say = lambda first, second: said
    asked = [PROMPTS[0], *PROMPTS[1:3]]
    assert judge.prefer(asked, [GOOD] * 3, [BAD] * 3) == [outcome, 1.0, 1.0]


def test_a_verdict_in_one_order_alone_decides_nothing(endpoint, judge):
    """It says A to everything, but finds many words where a good answer comes first."""
    endpoint.say = lambda first, second: "Well, the first" if first == GOOD.text else "A"
    found = judge_both_orders(judge, PROMPTS[:3], [GOOD, PLAIN, BAD], [BAD, BAD, PLAIN])
    assert found.outcomes == [0.5, 0.5, 0.5]
    assert (found.contradictions, found.first_shown, found.unjudged) == (1.0, 1.0, pytest.approx(1 / 3))


def test_a_busy_endpoint_is_asked_again(endpoint, judge):
    endpoint.statuses = [429, 503, 500]
    assert judge_both_orders(judge, PROMPTS[:1], [GOOD], [BAD]).outcomes == [1.0]
    assert len(endpoint.asked) == 5


@pytest.mark.parametrize(("statuses", "words", "times"), [
    ([503] * 50, f"{ATTEMPTS} attempts, the last with HTTP 503: .*not now", ATTEMPTS), ([401] * 5, "HTTP 401", 1)])
def test_an_endpoint_that_refuses_is_named_and_what_it_said_is_kept(endpoint, judge, statuses, words, times):
    judge_both_orders(judge, PROMPTS[:1], [GOOD], [BAD])
    before, endpoint.statuses = len(endpoint.asked), list(statuses)
    with pytest.raises(UserError, match=words) as caught:
        judge_both_orders(judge, PROMPTS[1:2], [GOOD], [BAD])
    assert KEY in str(caught.value) and "run again" in str(caught.value)
    assert len(endpoint.asked) == before + times
    assert next(judge.kept.iterdir()).read_text().count("said") == 2


def test_nobody_there(tmp_path):
    judge = ChatJudge("http://127.0.0.1:9", "referee", tmp_path, limit=10, first_pause=0.001)
    with pytest.raises(UserError, match=r"gave no verdict .*refused"):
        judge.prefer(PROMPTS[:1], [GOOD], [BAD])


def test_a_model_that_does_not_answer_in_one_word_is_refused(endpoint, judge):
    endpoint.say = lambda first, second: "Both responses have their merits, and I would say"
    with pytest.raises(UserError, match="1 of 1 answers"):
        judge_both_orders(judge, PROMPTS[:1], [GOOD], [BAD])
    assert not next(judge.kept.iterdir()).read_text(), "what could not be read is asked again"


def test_the_key_comes_from_the_environment_alone(endpoint, judge, monkeypatch):
    judge.prefer(PROMPTS[:1], [GOOD], [BAD])
    assert "Authorization" not in endpoint.headers[-1]
    monkeypatch.setenv(KEY, "secret-key")
    judge.prefer(PROMPTS[1:2], [GOOD], [BAD])
    assert endpoint.headers[-1]["Authorization"] == "Bearer secret-key"
    kept = [file.read_text() for file in judge.kept.iterdir()]
    assert "secret-key" not in repr(judge) + "".join(kept)


def test_a_redirect_is_not_followed_and_says_where_to(endpoint, judge, monkeypatch):
    """The key would go to whatever host it names."""
    monkeypatch.setenv(KEY, "secret-key")
    other = Endpoint()
    endpoint.statuses, endpoint.location = [301, 307], f"{other.url}/chat/completions"
    try:
        for i, status in enumerate(list(endpoint.statuses)):
            with pytest.raises(UserError, match=rf"HTTP {status}: it redirects to {other.url}/chat/completions, which"):
                judge.prefer(PROMPTS[i : i + 1], [GOOD], [BAD])
    finally:
        other.server.shutdown()
        other.server.server_close()
    assert (len(endpoint.asked), other.headers) == (2, [])


@pytest.mark.parametrize("broken", [http.client.IncompleteRead(b""), ConnectionResetError(), TimeoutError()])
def test_an_error_whose_explanation_breaks_off_is_asked_again_like_others(judge, monkeypatch, broken):
    class Torn(io.BytesIO):
        def read(self, size=-1):
            raise broken

    asked = []

    def post(self, question):
        asked.append(question)
        if len(asked) == 1:
            raise urllib.error.HTTPError(judge.endpoint, 503, "busy", http.client.HTTPMessage(), Torn())
        return "A"

    monkeypatch.setattr(ChatJudge, "_post", post)
    assert judge.prefer(PROMPTS[:1], [GOOD], [BAD]) == [1.0]
    assert len(asked) == 2


def test_the_name_of_a_judge_is_an_address_with_a_model(endpoint, tmp_path):
    settings = JudgeSettings(tmp_path, tmp_path, tmp_path / "verdicts", False, "fp32", 2.0, limit=11, version="1")
    (made,) = make_judges([f"{endpoint.url}/chat/completions#org/referee-2"], settings)
    assert (made.name, made.judge.most_pairs) == ("org_referee-2", 5)
    assert judge_both_orders(made.judge, PROMPTS[:1], [GOOD], [BAD]).outcomes == [1.0]
    with pytest.raises(UserError, match="names no model"):
        make_judges([endpoint.url], settings)
    with pytest.raises(UserError, match=r"judge_limit = 9 requests are too few for .*up to 5 matches"):
        make_judges([f"{endpoint.url}#referee"], replace(settings, limit=9))


def test_of_an_evaluation_that_is_repeated_only_what_could_not_be_read_is_asked_again(endpoint, judge, tmp_path):
    """Alone it would be all of what is asked, and no reason to refuse the model."""
    usual = endpoint.say
    endpoint.say = lambda first, second: "Neither" if "good" in first + second and "an answer" in first + second \
        else usual(first, second)
    texts = [GOOD, BAD, GOOD, PLAIN], [BAD, GOOD, BAD, GOOD]
    once = judge_both_orders(judge, PROMPTS, *texts)
    assert once.outcomes == [1.0, 0.0, 1.0, 0.5]
    asked = len(endpoint.asked)
    again = ChatJudge(endpoint.url, "referee", tmp_path / "verdicts", limit=100)
    assert judge_both_orders(again, PROMPTS, *texts) == once
    assert len(endpoint.asked) == asked + 2


def test_verdicts_behind_one_that_fails_are_kept(endpoint, judge):
    """Nothing that was paid for is lost, in whichever order the answers come."""
    refused = threading.Event()

    def say(first, second):
        if "bad" in second:
            return "tie"
        refused.wait(5)
        raise ConnectionResetError

    endpoint.say = say
    threading.Timer(0.3, refused.set).start()
    with pytest.raises(UserError, match="gave no verdict"):
        judge.prefer(PROMPTS, [PLAIN, GOOD, GOOD, GOOD], [PLAIN, BAD, BAD, BAD])
    assert next(judge.kept.iterdir()).read_text().count("said") == 3


def test_an_answer_that_breaks_off_is_asked_for_again(endpoint, judge):
    endpoint.cut = 1
    assert judge_both_orders(judge, PROMPTS[:1], [GOOD], [BAD]).outcomes == [1.0]
    assert len(endpoint.asked) == 3
