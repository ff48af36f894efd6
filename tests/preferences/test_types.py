"""A row on a line of a batch."""

from hypothesis import given
from hypothesis import strategies as st

from plumbline.preferences.types import Demonstration, Message, Origin, Rating, prompt_on, to_line

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
troublesome = st.sampled_from([
    '"}], "', '}], "response": "', '\\"}], "', '[{"role": "user", "content": "x"}], "', "\\", '"'])
turns = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.one_of(texts, troublesome))
prompts = st.lists(turns, min_size=1, max_size=4).map(tuple)
rows = st.one_of(
    st.builds(Demonstration, prompts, st.one_of(texts, troublesome), st.just(Origin("source"))),
    st.builds(Rating, prompts, texts, st.floats(0, 1), st.just(Origin('a "source"}], "', "annotator"))))


@given(rows)
def test_the_prompt_on_a_line_is_that_of_its_row_whatever_the_texts_hold(row):
    assert prompt_on(to_line(row).encode()) == row.prompt
