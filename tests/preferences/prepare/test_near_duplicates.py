"""Prompts that nearly repeat a held-out one stay out of training; prompts that differ in a word of few do not."""

import errno
import json
import random
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import UserError
from plumbline.preferences import shards
from plumbline.preferences.prepare.near_duplicates import (
    COLUMNS,
    NearDuplicate,
    PromptSurvey,
    jaccard,
    signatures_of,
    tokens,
)
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.shards import Column, Shards
from plumbline.preferences.simulated.world import requests
from plumbline.preferences.splits import prompt_key, split_of
from plumbline.preferences.types import Message
from plumbline.workers import Workers
from testing.preference_files import demonstrations, pairs, write_jsonl


@pytest.fixture
def survey_of(tmp_path):
    """What repeats which of the held-out prompts, by number, and how many repeat any other.

    A text is a prompt of one turn; two are a system message and what the user asks.
    """

    def compare(heldout, others, threshold=0.8, order=None):
        prompts = [prompt_of(given) for given in (*heldout, *others)]
        order = list(range(len(prompts))) if order is None else order
        prompts = [prompts[number] for number in order]
        survey = PromptSurvey(tmp_path / f"{len(list(tmp_path.iterdir()))}", threshold, len(prompts))
        survey.add(signatures_of(prompts), np.array(order, np.int64) < len(heldout))
        return survey.repeats(prompts.__getitem__, Workers(1)), survey.near_duplicates(Workers(1))

    return compare


def prompt_of(given):
    if isinstance(given, str):
        return (Message("user", given),)
    return (Message("system", given[0]), Message("user", given[1]))


def prose(words, seed):
    return [f"word{random.Random(seed * 1000 + n).randrange(5000)}" for n in range(words)]


@pytest.mark.parametrize(("other", "near"), [
    ("what is the capital of france", True), ("What is the capital of France ???", True),
    ("What is the capital of Spain?", False), ("Tell me a story.", False)])
def test_case_and_punctuation_do_not_make_a_prompt_new_and_another_word_does(survey_of, other, near):
    assert bool(survey_of(["What is the capital of France?"], [other])[0]) == near


def test_all_near_duplicates_among_thousands_are_found_and_no_other(survey_of, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_RECORDS", 400)
    held = [prose(60, seed) for seed in range(1500)]
    near = [[*words[:-1], "changed"] for words in held[:500]]
    far = [[*words[:30], *prose(30, 90_000 + seed)] for seed, words in enumerate(held[500:1000])]
    found, near_any = survey_of([" ".join(words) for words in held], [" ".join(words) for words in near + far])
    assert sorted(found) == list(range(1500, 2000))
    assert all(repeat.of == number - 1500 for number, repeat in found.items())
    assert near_any == 1000


@pytest.mark.parametrize(("threshold", "same"), [(0.6, 55), (0.5, 49), (0.4, 43), (0.3, 35)])
def test_a_low_threshold_finds_what_it_asks_for(survey_of, threshold, same):
    held = [prose(70, seed) for seed in range(200)]
    near = [[*words[:same], *prose(70 - same, 90_000 + seed)] for seed, words in enumerate(held)]
    texts = [[" ".join(words) for words in given] for given in (held, near)]
    least = min(jaccard(tokens(one), tokens(other)) for one, other in zip(*texts, strict=True))
    assert threshold < least < threshold + 0.05
    found, _ = survey_of(*texts, threshold=threshold)
    assert {one: near.of for one, near in found.items()} == {number + 200: number for number in range(200)}


@pytest.mark.parametrize(("order", "system"), [
    ("held-out first", False), ("held-out last", False), ("shuffled", False), ("shuffled", True)])
def test_every_copy_is_found_where_all_prompts_share_a_long_preamble(survey_of, monkeypatch, order, system):
    monkeypatch.setattr(shards, "SHARD_RECORDS", 300)
    count, preamble = 200, " ".join(prose(100, 1))
    held = [f"{preamble} {' '.join(prose(3, 2 + seed))}" for seed in range(count)]
    copies = [f"{text.upper()} ?" for text in held]
    numbers = list(range(2 * count))
    if order == "shuffled":
        random.Random(0).shuffle(numbers)
    elif order == "held-out last":
        numbers.reverse()
    given = [[("Be brief.", text) for text in texts] if system else texts for texts in (held, copies)]
    found, near_any = survey_of(*given, threshold=0.97, order=numbers)
    assert {numbers[one]: (numbers[near.of], near.similarity) for one, near in found.items()} == {
        number + count: (number, 1.0) for number in range(count)}
    assert near_any == 2 * count


def test_more_equal_prompts_than_are_compared_do_not_hide_each_other(survey_of):
    held = [f"What is this{'?' * marks} {word}" for word in ("one", "two") for marks in range(40)]
    found, _ = survey_of(held, ["what is this: TWO", "What is this, one", "What is this, three"], threshold=1.0)
    assert {one: (near.of // 40, near.similarity) for one, near in found.items()} == {80: (1, 1.0), 81: (0, 1.0)}


def test_similarity_is_the_jaccard_index_of_words_and_pairs():
    # a b c: {a, b, c, a b, b c}; a b d: {a, b, d, a b, b d}; three of seven in common.
    assert jaccard(tokens("a b c"), tokens("a b d")) == 3 / 7
    assert tokens("日本語") == {"日", "本", "語", "日 本", "本 語"}


def test_a_system_prompt_that_all_share_makes_no_prompt_a_repeat(survey_of):
    rules = " ".join(prose(150, 1))
    asked = [" ".join(prose(6, 100 + seed)) for seed in range(300)]
    held, others = asked[:100], [*asked[100:], asked[7] + " ?!"]
    assert survey_of([(rules, text) for text in held], [(rules, text) for text in others])[0] == {
        300: NearDuplicate(7, 1.0)}


def test_one_question_about_many_documents_makes_no_prompt_a_repeat(survey_of):
    documents = [" ".join(prose(60, seed)) for seed in range(300)]
    ask = "Summarise the document in one sentence, please."
    held, others = documents[:100], [*documents[100:], documents[77].upper()]
    found, near_any = survey_of([(text, ask) for text in held], [(text, ask) for text in others])
    assert found == {300: NearDuplicate(77, 1.0)}
    assert near_any == 2


@pytest.mark.parametrize(("held", "other", "similarity"), [
    # a b c d e has 9 words and pairs, with "f" 11, with "f g" 13. System messages bring v w x y z, one more pair.
    (("v w x y z", "a b c d e"), ("v w x y z", "a b c d e f"), 9 / 11),
    (("v w x y z", "a b c d e"), ("v w x y z", "a b c d e f g"), None),  # 9 / 13, though 19 / 23 with all turns
    (("v w", "a b c d e"), ("v q", "a b c d e"), None),  # 1, but 11 / 15 with all turns
    (("v", "a b c d e"), "a b c d e", 9 / 11)])
def test_the_similarity_of_prompts_with_system_messages_is_the_smaller_of_two(survey_of, held, other, similarity):
    found, _ = survey_of([held], [other])
    assert found == ({} if similarity is None else {1: NearDuplicate(0, similarity)})


def test_no_prompts_is_no_trouble(survey_of):
    assert survey_of([], []) == ({}, 0)


def test_the_simulated_world_has_none_at_the_default_threshold(survey_of):
    splits = {text: split_of(prompt_key((Message("user", text),)), 0.05, 0.2) for text in requests()}
    held = [text for text, split in splits.items() if split == "heldout"]
    others = [text for text, split in splits.items() if split != "heldout"]
    assert survey_of(held, others)[0] == {}
    closest = max(jaccard(tokens(one), tokens(other)) for one in others for other in held)
    assert closest < 0.8


def test_what_is_left_out_of_training_is_counted_and_said(tmp_path, snapshot):
    ask = "Please explain to me in simple words how a bicycle pump works and what its parts are called, number"
    records = [{"prompt": f"{ask} {i}{mark}", "chosen": f"Good {i}{mark}", "rejected": "Bad"}
               for i in range(40) for mark in ("", " ?!")]
    write_jsonl(tmp_path / "a.jsonl", records)
    counts, report = prepare(snapshot("a.jsonl")[1], tmp_path / "out", Splitting(0.1, 0.3, True, 0.999))
    kept = counts["rows_accepted"] + counts["near_heldout"]
    assert kept == counts["rows_read"] == 80
    assert 0 < counts["near_heldout"] < 80
    left_out = [json.loads(line) for line in (tmp_path / "out/near_heldout.jsonl").read_text().splitlines()]
    assert len(left_out) == counts["near_heldout"]
    assert all(tokens(one["prompt"][0]["content"]) == tokens(one["repeats"]) for one in left_out)
    rows = (tmp_path / "out/rows.csv").read_text().splitlines()[1:]
    assert sum(row.endswith(",near_heldout") for row in rows) == counts["near_heldout"]
    assert report["counts"]["near_heldout"] == counts["near_heldout"]


def test_rows_with_one_system_prompt_and_unrelated_questions_are_all_learnt_from(tmp_path, snapshot):
    system = {"role": "system", "content": " ".join(prose(150, 1))}
    asked = [" ".join(prose(6, 100 + seed)) for seed in range(60)]
    write_jsonl(tmp_path / "a.jsonl", [
        {"prompt": [system, {"role": "user", "content": text}], "chosen": "Good", "rejected": "Bad"} for text in asked])
    counts, _ = prepare(snapshot("a.jsonl")[1], tmp_path / "out", Splitting(0.1, 0.3, True, 0.8))
    assert (counts["rows_accepted"], counts["near_heldout"], counts["near_duplicate_prompts"]) == (60, 0, 0)


def alike(count, records):
    """Records whose prompts are 25 words of 26 the same."""
    return [record | {"prompt": f"{' '.join(prose(25, 1))} {number}"} for number, record in enumerate(records(count))]


@pytest.mark.parametrize(("records", "chosen_too", "nothing"), [
    ([*alike(40, demonstrations), *pairs(40)], False, "no demonstrations to train on"),
    ([*demonstrations(40), *alike(40, pairs)], False, "no preferences to train the reward model on"),
    (alike(40, pairs), True, "no demonstrations to train on")])
def test_where_nothing_is_left_to_train_on_the_setting_that_left_it_out_is_named(tmp_path, snapshot, records,
                                                                                 chosen_too, nothing):
    write_jsonl(tmp_path / "a.jsonl", [*records, {"colour": "blue"}])
    left_out = sum(split_of(prompt_key((Message("user", row["prompt"]),)), 0.1, 0.3) != "heldout"
                   for row in alike(40, pairs))
    with pytest.raises(UserError, match=nothing) as caught:
        prepare(snapshot("a.jsonl")[1], tmp_path / "out", Splitting(0.1, 0.3, chosen_too, 0.8))
    assert f"of the {len(records) + 1} rows read, {left_out} were left out" in str(caught.value)
    assert "ingest.near_duplicate (0.8)" in str(caught.value)


def test_a_kind_of_data_that_nobody_gave_is_not_said_to_be_left_out(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", [*alike(40, pairs), *pairs(40)])
    with pytest.raises(UserError, match="no demonstrations to train on: the snapshot holds 0 demonstrations") as caught:
        prepare(snapshot("a.jsonl")[1], tmp_path / "out", Splitting(0.1, 0.3, False, 0.8))
    assert "near_duplicate" not in str(caught.value)


FULL = Path("/dev/full")
"""Takes nothing, as a disk without room."""


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has it")
@pytest.mark.parametrize("count", [1, 100_000])
@pytest.mark.parametrize("what", ["shards", "column", "signatures"])
def test_a_full_disk_is_named_and_loses_no_record_in_silence(tmp_path, count, what):
    records = np.zeros(count, [("key", np.uint64)])
    if what == "shards":
        (tmp_path / "0000").symlink_to(FULL)
        append = Shards(tmp_path, records.dtype, 1).append
    elif what == "column":
        append = Column(FULL, records.dtype).append
    else:
        survey = PromptSurvey(tmp_path / "near", 0.8, count)
        (tmp_path / "near/signatures").unlink()
        (tmp_path / "near/signatures").symlink_to(FULL)
        records = np.zeros((count, COLUMNS), np.uint32)
        append = lambda signatures: survey.add(signatures, np.zeros(count, bool))  # noqa: E731
    with pytest.raises(OSError) as caught:
        append(records)
    assert caught.value.errno == errno.ENOSPC
