"""Judges prefer what they should, and a judge that is swayed by the order is found out."""

import pytest

from plumbline.errors import UserError
from plumbline.evaluation.judging.chat import KEY
from plumbline.evaluation.judging.judges import LanguageModelJudge, ModelAnswer, ScoreJudge, judge_both_orders
from plumbline.evaluation.judging.names import JudgeSettings, kind_of_judge, labels_of_judges, make_judges
from plumbline.preferences.types import Message

PROMPTS = [(Message("user", f"Question {i}"),) for i in range(4)]
FIRST = [ModelAnswer(text) for text in ("good", "bad", "same", "good")]
SECOND = [ModelAnswer(text) for text in ("bad", "good", "same", "fine")]
WORTH = {"good": 1.0, "fine": 1.0 - 1e-9, "same": 0.5, "bad": 0.0}


def test_a_score_judge_prefers_the_higher_score_and_calls_rounding_a_tie():
    judge = ScoreJudge.of_texts(lambda texts: [WORTH[response] for _, response in texts])
    verdicts = judge_both_orders(judge, PROMPTS, FIRST, SECOND)
    assert verdicts.outcomes == [1.0, 0.0, 0.5, 0.5]
    assert verdicts.contradictions is None


def answering(better):
    """A language model that answers A with log-probability 0 where `better(first, second)`."""
    def logprobs(texts, options):
        assert options == (" A", " B")
        answers = []
        for text in texts:
            first = text.split("Response A:\n")[1].split("\n")[0]
            second = text.split("Response B:\n")[1].split("\n")[0]
            answers.append([0.0, -5.0] if better(first, second) else [-5.0, 0.0])
        return answers
    return LanguageModelJudge(logprobs)


def test_a_language_model_is_asked_about_the_request_and_both_responses():
    seen = []
    LanguageModelJudge(lambda texts, _: seen.extend(texts) or [[0.0, -1.0]]).prefer(
        PROMPTS[:1], [ModelAnswer("{odd}")], [ModelAnswer("two")])
    assert all(part in seen[0] for part in ("Question 0", "Response A:\n{odd}\n", "Response B:\ntwo\n"))


def test_a_consistent_language_model_keeps_its_verdict_in_both_orders():
    verdicts = judge_both_orders(answering(lambda first, second: WORTH[first] > WORTH[second]), PROMPTS, FIRST, SECOND)
    assert verdicts.outcomes == [1.0, 0.0, 0.5, 1.0]
    assert (verdicts.contradictions, verdicts.first_shown) == (0.0, 0.5)


def test_a_language_model_that_always_says_a_decides_nothing_and_contradicts_itself_every_time():
    verdicts = judge_both_orders(answering(lambda first, second: True), PROMPTS, FIRST, SECOND)
    assert verdicts.outcomes == [0.5] * 4
    assert (verdicts.contradictions, verdicts.first_shown) == (1.0, 1.0)


def test_identical_responses_are_a_tie_without_asking():
    judge = LanguageModelJudge(lambda texts, options: pytest.fail("asked"))
    assert judge_both_orders(judge, PROMPTS[:2], FIRST[:2], FIRST[:2]).outcomes == [0.5, 0.5]


def test_swapping_the_sides_mirrors_the_verdicts():
    for judge in (answering(lambda first, second: len(first) > len(second)),
                  ScoreJudge.of_texts(lambda texts: [float(len(response)) for _, response in texts])):
        one = judge_both_orders(judge, PROMPTS, FIRST, SECOND).outcomes
        other = judge_both_orders(judge, PROMPTS, SECOND, FIRST).outcomes
        assert [a + b for a, b in zip(one, other, strict=True)] == [1.0] * 4


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_finite_number_is_not_a_loss(score):
    """Two infinite ones would not even be a tie with themselves."""
    judge = ScoreJudge.of_texts(lambda texts: [score] * len(texts), "judge rules:no_lists")
    words = "The judge rules:no_lists must give a finite number for every answer, but 7 of 7 are infinite or not a"
    with pytest.raises(UserError, match=words):
        judge_both_orders(judge, PROMPTS, FIRST, SECOND)


def test_the_judges_of_a_run_are_named_where_their_scores_are_not_finite(tmp_path, monkeypatch):
    (tmp_path / "unbounded_rules.py").write_text("def no_lists(rows): return [float('-inf')] * len(rows)")
    monkeypatch.syspath_prepend(tmp_path)
    settings = JudgeSettings(tmp_path, tmp_path, tmp_path / "verdicts", False, "fp32", 2.0, limit=100, version="1")
    (made,) = make_judges(["unbounded_rules:no_lists"], settings)
    with pytest.raises(UserError, match="The judge unbounded_rules:no_lists must give a finite number"):
        judge_both_orders(made.judge, PROMPTS, FIRST, FIRST)


def test_a_language_model_for_which_a_letter_never_comes_next_has_a_verdict_and_one_without_numbers_has_none():
    never = LanguageModelJudge(lambda texts, _: [[0.0, float("-inf")] for _ in texts])
    assert never.prefer(PROMPTS, FIRST, SECOND) == [1.0] * 4
    broken = LanguageModelJudge(lambda texts, _: [[float("nan"), 0.0] for _ in texts])
    with pytest.raises(UserError, match="The judge must answer with numbers, but 3 of 6 log-probabilities"):
        judge_both_orders(broken, PROMPTS, FIRST, SECOND)


def test_each_judge_has_a_label_of_its_own_and_none_passes_for_the_reward_model():
    names = ["auto", "mine:reward", "mine:polite", "theirs.rules:polite", "https://host/v1#org/polite", "org/second"]
    labels = labels_of_judges({name: kind_of_judge(name, simulated=False) for name in names})
    assert labels == {"auto": "second", "mine:reward": "mine_reward", "mine:polite": "polite",
                      "theirs.rules:polite": "theirs.rules_polite", "https://host/v1#org/polite": "org_polite",
                      "org/second": "org_second"}


def test_a_label_that_another_judge_has_in_full_is_numbered(tmp_path):
    """One that is dropped would have no figures, and nobody would know."""
    names = ["my/a:b", "my:b", "a/b", "./reward", "/reward", "rules:score", "rules:score_low", "x" * 300]
    labels = labels_of_judges({name: kind_of_judge(name, simulated=False) for name in names})
    assert list(labels.values()) == [
        "a_b", "b", "a_b_2", "._reward", "reward_2", "score", "rules_score_low_2", "x" * 80]
    servers = ["http://one/v1#org/m", "http://two/v1#org/m", "http://one/v1#org_m", "http://one_v1#org/m"]
    settings = JudgeSettings(tmp_path, tmp_path, tmp_path / "verdicts", False, "fp32", 2.0, limit=100, version="1")
    assert [one.name for one in make_judges(servers, settings)] == [
        "org_m", "http_two_v1_org_m", "http_one_v1_org_m", "http_one_v1_org_m_2"]


def test_a_key_is_sent_to_one_host_alone(tmp_path, monkeypatch):
    settings = JudgeSettings(tmp_path, tmp_path, tmp_path / "verdicts", False, "fp32", 2.0, limit=100, version="1")
    apart = ["https://one.example/v1#m", "https://two.example#n"]
    assert len(make_judges(apart, settings)) == 2
    monkeypatch.setenv(KEY, "secret-key")
    assert len(make_judges([apart[0], "https://one.example/v1#n"], settings)) == 2
    with pytest.raises(UserError, match=rf"on 2 hosts \(one.example, two.example\), and each would be sent .* {KEY}"):
        make_judges(apart, settings)
