"""Prompts that nearly repeat a held-out one stay out of training; prompts that differ in a word of few do not."""

import json
import random

import numpy as np
import pytest

from plumbline.preferences import shards
from plumbline.preferences.prepare.near_duplicates import PromptSurvey, jaccard, signatures_of, tokens
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.simulated.world import requests
from plumbline.preferences.splits import prompt_key, split_of
from plumbline.preferences.types import Message
from plumbline.workers import Workers
from testing.preference_files import write_jsonl


@pytest.fixture
def survey_of(tmp_path):
    """What repeats which of the held-out texts, by number, and how many repeat any other."""

    def compare(heldout, others):
        texts = [*heldout, *others]
        survey = PromptSurvey(tmp_path / f"{len(list(tmp_path.iterdir()))}", 0.8, len(texts))
        survey.add(signatures_of(texts), np.arange(len(texts)) < len(heldout))
        return survey.repeats(texts.__getitem__, Workers(1)), survey.near_duplicates(Workers(1))

    return compare


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


def test_similarity_is_the_jaccard_index_of_words_and_pairs():
    # a b c: {a, b, c, a b, b c}; a b d: {a, b, d, a b, b d}; three of seven in common.
    assert jaccard(tokens("a b c"), tokens("a b d")) == 3 / 7
    assert tokens("日本語") == {"日", "本", "語", "日 本", "本 語"}


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
