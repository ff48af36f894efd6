"""Which answers people are asked to compare, and why."""

from plumbline.feedback.pairs import Candidate, ScoredAnswer, choose, count_kinds, kind_of, prompts_to_ask, rankings
from plumbline.feedback.verdicts import OfferedAnswer
from plumbline.preferences.types import Message, Prompt


def ask(text: str) -> Prompt:
    return (Message("user", text),)


def candidate(text: str, **answers: tuple[str, float]) -> Candidate:
    """Answers by model: the text and its reward."""
    return Candidate(ask(text), [ScoredAnswer(OfferedAnswer(said, name, f"{name}.dir", reward), reward, name != "SFT")
                                 for name, (said, reward) in answers.items()])


def test_a_policy_below_sft_is_asked_about_and_the_reason_says_so() -> None:
    pair, = choose([candidate("How?", champion=("bad", -1.0), SFT=("good", 1.5))], {"how": 9}, 1)
    assert [answer.model for answer in pair.answers] == ["champion", "SFT"]
    assert "2.50 lower than SFT" in pair.reason


def test_of_several_answers_the_two_that_the_reward_model_can_hardly_tell_apart_are_asked_about() -> None:
    pair, = choose([candidate("How?", champion=("a", 3.0), challenger=("b", 1.01), SFT=("c", 1.0))], {"how": 9}, 1)
    assert {answer.model for answer in pair.answers} == {"challenger", "SFT"}
    assert "nearly equal" in pair.reason


def test_the_reasons_take_turns_and_no_prompt_is_asked_about_twice() -> None:
    below = [candidate(f"How {n}?", champion=("a", -n), SFT=("b", 5.0)) for n in range(10)]
    close = [candidate(f"What {n}?", champion=("a", 1.0 + n), SFT=("b", 1.0)) for n in range(10)]
    rare = [candidate(f"Sing {n}!", champion=("a", 9.0), SFT=("b", 1.0)) for n in range(10)]
    pairs = choose([*below, *close, *rare], {"how": 500, "what": 500, "sing": 1}, 9)
    assert len({pair.prompt for pair in pairs}) == len(pairs) == 9
    assert {pair.reason.split()[2] for pair in pairs} == {"model", "are"}
    assert sum("lower than SFT" in pair.reason for pair in pairs) == 3
    assert sum("nearly equal" in pair.reason for pair in pairs) == 3
    assert [pair.kind for pair in pairs if "Few comparisons" in pair.reason] == ["sing"] * 3


def test_answers_that_look_the_same_or_say_nothing_are_never_a_pair() -> None:
    same = candidate("How?", champion=("one  two", 1.0), SFT=("one two\n", 1.0))
    empty = candidate("How?", champion=(" ", 1.0), SFT=("text", 1.0))
    assert choose([same, empty], {}, 5) == []


def test_a_ranking_needs_three_different_answers() -> None:
    three = candidate("How?", champion=("a", 1.0), challenger=("b", 1.2), SFT=("c", 0.9))
    two = candidate("What?", champion=("a", 1.0), challenger=("a", 1.0), SFT=("c", 1.0))
    pair, = rankings([three, two], 5)
    assert len(pair.answers) == 3
    assert "0.30" in pair.reason


def test_prompts_of_rare_kinds_come_first_but_not_alone() -> None:
    prompts = [ask(f"How {n}?") for n in range(20)] + [ask(f"Sing {n}!") for n in range(20)]
    asked = prompts_to_ask(prompts, {"how": 1000, "sing": 2}, 10)
    assert len(asked) == len(set(asked)) == 10
    assert sum(kind_of(prompt) == "sing" for prompt in asked) == 5


def test_a_kind_is_the_opening_word_of_the_last_turn() -> None:
    prompt = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "“Write\u00a0a poem”"))
    assert kind_of(prompt) == "write"
    assert kind_of(ask("!!!")) == "other"
    assert count_kinds([ask("How?"), ask("how now")]) == {"how": 2}
