"""The reward model on pairs of SFT's own answers, by hand."""

from dataclasses import replace

from plumbline.evaluation.judging.judges import ModelAnswer, NamedJudge, ScoreJudge
from plumbline.evaluation.matches import Contestant
from plumbline.evaluation.own_pairs import reward_accuracy, reward_accuracy_section
from testing.tiny_models import prompt

PROMPTS = [prompt(f"number {i}") for i in range(4)]
BY_LENGTH = NamedJudge("length", ScoreJudge.of_texts(lambda pairs: [float(len(text)) for _, text in pairs]))


def sft(*answers: tuple[list[str], list[float]]) -> Contestant:
    """SFT with these answers and rewards to the first prompts."""
    return Contestant("sft", [[ModelAnswer(text, True) for text in texts] for texts, _ in answers],
                      {"reward": [rewards for _, rewards in answers]})


def test_right_wrong_equal_and_ties() -> None:
    """Of four answers there are two pairs, and the fifth has no partner."""
    answers = sft((["a", "bb", "ccc", "d", "e"], [0.0, 1.0, 2.0, 3.0, 9.0]), (["aa", "b"], [1.0, 1.0]),
                  (["aa", "bb"], [0.0, 5.0]), (["aa", "b"], [-1.0, -2.0]))
    found = reward_accuracy(PROMPTS, answers, BY_LENGTH)
    assert found is not None
    assert (found.value, found.n, found.prompts) == ((1 + 0 + 0.5 + 1) / 4, 4, 3)
    assert "Of 4 pairs" in reward_accuracy_section(found, "length")[2]


def test_without_a_pair_or_an_independent_judge_there_is_none() -> None:
    answers = sft((["a", "bb"], [0.0, 1.0]))
    assert reward_accuracy(PROMPTS[:1], answers, BY_LENGTH)
    assert reward_accuracy(PROMPTS[:1], sft((["a"], [0.0])), BY_LENGTH) is None
    assert reward_accuracy(PROMPTS[:1], sft((["a", "b"], [0.0, 1.0])), BY_LENGTH) is None
    assert reward_accuracy(PROMPTS[:1], answers, replace(BY_LENGTH, name="reward")) is None


def test_a_judge_who_costs_money_is_not_asked() -> None:
    class Endpoint(ScoreJudge):
        most_pairs = 10

    answers = sft((["a", "bb"], [0.0, 1.0]))
    assert reward_accuracy(PROMPTS[:1], answers, NamedJudge("chat", Endpoint(BY_LENGTH.judge.score))) is None
