"""A row on a line of a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating, prompt_on, to_line

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ENDS = ('"}], ', 'An empty list: "}], ', '"}], "response', '"}], "responses": ["')
troublesome = st.sampled_from([
    '"}], "', '}], "response": "', '\\"}], "', '[{"role": "user", "content": "x"}], "', "\\", '"', *ENDS])
turns = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.one_of(texts, troublesome))
prompts = st.lists(turns, min_size=1, max_size=4).map(tuple)
rows = st.one_of(
    st.builds(Demonstration, prompts, st.one_of(texts, troublesome), st.just(Origin("source"))),
    st.builds(Rating, prompts, texts, st.floats(0, 1), st.just(Origin('a "source"}], "', "annotator"))))


@given(rows)
def test_the_prompt_on_a_line_is_that_of_its_row_whatever_the_texts_hold(row):
    assert prompt_on(to_line(row).encode()) == row.prompt


@pytest.mark.parametrize("text", ENDS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_text_that_looks_like_the_end_of_the_prompt_does_not_end_it(text, place):
    turns = [Message("user", "Hello"), Message("assistant", "Hi."), Message("user", "Why?")]
    turns[place] = Message(turns[place].role, text)
    prompt, origin = tuple(turns), Origin(text)
    for row in (Demonstration(prompt, text, origin), Comparison(prompt, (text, "no"), "A", origin),
                Ranking(prompt, (text, "no"), (1, 2), origin), Rating(prompt, text, 1.0, origin)):
        assert prompt_on(to_line(row).encode()) == prompt
