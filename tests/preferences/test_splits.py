"""A prompt's split depends on the prompt alone, and on nothing that a reader would not call part of it."""

from hypothesis import given
from hypothesis import strategies as st

from plumbline.preferences.splits import prompt_key, split_of
from plumbline.preferences.types import Message

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def key(text):
    return prompt_key((Message("user", text),))


@given(texts)
def test_case_and_spacing_change_nothing(text):
    assert key(text) == key(f"  {text}\n")
    assert key(text) == key(text.replace(" ", " \t\n "))
    assert key(text.casefold()) == key(text)


def test_unicode_spellings_of_the_same_text_are_the_same_prompt():
    assert key("Cafe\u0301 №\u00a0５") == key("CAFÉ No 5")
    assert key("Straße") == key("STRASSE")


def test_every_turn_counts_and_so_does_who_said_it():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    others = [(Message("user", "x"), *turns[1:]), (*turns[:2], Message("user", "x")),
              (turns[0], Message("assistant", "x"), turns[2]), turns[2:], (Message("system", "s"), *turns)]
    assert len({prompt_key(prompt) for prompt in [turns, *others]}) == 6


def test_the_shares_are_the_fractions_asked_for():
    splits = [split_of(key(f"prompt {i}"), 0.05, 0.2) for i in range(20_000)]
    assert abs(splits.count("heldout") / 20_000 - 0.2) < 0.01  # 3.5 standard deviations
    assert abs(splits.count("validation") / 20_000 - 0.05) < 0.006


@given(texts, st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_changing_one_fraction_moves_no_prompt_between_the_other_two(text, validation, heldout, other):
    before = split_of(key(text), validation, heldout)
    assert {before, split_of(key(text), validation, other)} != {"train", "validation"}
    assert {before, split_of(key(text), other, heldout)} != {"train", "heldout"}


def test_the_judge_gets_its_share_of_train_alone_and_independently_of_the_fractions():
    keys = [key(f"prompt {i}") for i in range(20_000)]
    without, with_judge = ([split_of(one, 0.05, 0.2, judge) for one in keys] for judge in (0.0, 0.3))
    assert {(a, b) for a, b in zip(without, with_judge, strict=True) if a != b} == {("train", "judge")}
    assert abs(with_judge.count("judge") / without.count("train") - 0.3) < 0.014  # 3.7 standard deviations
    more = [split_of(one, 0.05, 0.4, 0.3) for one in keys]
    assert {b for a, b in zip(with_judge, more, strict=True) if a == "judge"} == {"judge", "heldout"}
    near, far = ([split for split in part if split in ("train", "judge")] for part in (
        [split_of(one, 0.05, 0.2, 0.3) for one in keys if int(one[0], 16) < half] for half in (8, 16)))
    assert abs(near.count("judge") / len(near) - far.count("judge") / len(far)) < 0.02, "low hashes are not preferred"


@given(texts, st.text(max_size=8))
def test_sixteen_digits_of_the_key_are_enough(text, salt):
    """The index of a batch keeps no more."""
    assert split_of(key(text), 0.05, 0.2, 0.3, salt) == split_of(key(text)[:16], 0.05, 0.2, 0.3, salt)


def test_another_salt_is_another_draw_of_all_splits():
    keys = [key(f"prompt {i}") for i in range(20_000)]
    plain, one, two = ([split_of(k, 0.05, 0.2, 0.3, salt) for k in keys] for salt in ("", "1", "2"))
    assert one == [split_of(k, 0.05, 0.2, 0.3, "1") for k in keys]
    for a, b in ((plain, one), (one, two)):
        both = sum(x == y == "heldout" for x, y in zip(a, b, strict=True))
        assert abs(both / 20_000 - 0.2 * 0.2) < 0.006, "held out in both: as often as by chance"
        assert abs(b.count("heldout") / 20_000 - 0.2) < 0.01


def test_known_prompts_keep_their_split_for_ever():
    """These are written down: a change of the hash would leak held-out prompts into training."""
    known = {"Hello": "validation", "How are you?": "heldout", "Why is the sky blue?": "train"}
    assert {text: split_of(key(text), 0.05, 0.2) for text in known} == known
    # printf 'user\nhello' | sha256sum
    assert key("Hello") == "fa82b1cf60263d970c98f29e8420cbd61e8c07e59e05008002d374235fa8abf3"
