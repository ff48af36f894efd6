"""Chat templates: the same tokens on any day, plain answers outside of thoughts, no system message lost."""

from datetime import datetime

import pytest
import transformers.utils.chat_template_utils as clock
from transformers import AutoTokenizer

from plumbline.errors import UserError
from plumbline.lm.base import load_base
from plumbline.lm.chat import encode_prompt, encode_response, stop_token
from plumbline.lm.examination import examine
from plumbline.lm.template import notes, rearranged, settle, settled
from plumbline.preferences.types import Message
from testing.tiny_models import copy_of, prompt, small_tokenizer

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DATED = "Today is {{ strftime_now('%A %d.%m.%Y') }}.\n" + TURNS + OPENING
THINKS = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
MAY_THINK = TURNS + OPENING + ("{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
                               "<think>\n\n</think>\n\n{% endif %}")
HIDES = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
         "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + OPENING)
CHANNELS = ("{% for m in messages %}<|im_start|>{{ m.role ~ (' final' if m.role == 'assistant' else '') }}\n"
            "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}")
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
STRICT = REFUSES + TURNS + OPENING
SILENT = TURNS.replace("in messages", "in messages if m.role != 'system'") + OPENING
SYSTEM = (Message("system", "be brief"), Message("user", "red?"), Message("assistant", "yes"), Message("user", "blue?"))


@pytest.fixture
def own():
    return small_tokenizer()


def text(tokenizer, turns):
    return tokenizer.decode(encode_prompt(tokenizer, turns))


def on(monkeypatch, day):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(*day)
    monkeypatch.setattr(clock, "datetime", Clock)


@pytest.mark.parametrize("dated", [
    DATED, '{% if strftime_now is defined %}{{ strftime_now( "%d %b %Y" ) }}{% endif %}' + TURNS + OPENING])
def test_a_prompt_has_the_same_tokens_on_any_day(own, monkeypatch, dated):
    own.chat_template = dated
    on(monkeypatch, (2026, 11, 25))
    today = encode_prompt(own, prompt("colors"))
    on(monkeypatch, (2031, 1, 9))
    assert encode_prompt(own, prompt("colors")) == today
    assert "2024" in own.decode(today) and any("fixed at 26 July 2024" in note for note in notes(own))


@pytest.mark.parametrize(("template", "before"), [
    (THINKS, "assistant\n<think>\n\n</think>\n\n"),
    (THINKS.replace("<think>", "[THINK]"), "assistant\n[THINK]\n\n[/THINK]\n\n"),
    (THINKS.replace("<think>", "<seed:think>"), "assistant\n<seed:think>\n\n</seed:think>\n\n"),
    (MAY_THINK, "assistant\n<think>\n\n</think>\n\n"),
    (HIDES, "assistant\n<think>\n\n</think>\n\n"),
    (CHANNELS, "assistant final\n"),
])
def test_a_plain_answer_stands_outside_of_thoughts_in_training_and_sampling(own, template, before):
    own.chat_template = template
    assert text(own, prompt("colors")) == f"<|im_start|>user\ncolors<|im_end|>\n<|im_start|>{before}"
    assert any("thoughts" in note for note in notes(own))
    assert encode_response(own, "red")[-1] == stop_token(own) == own.eos_token_id


@pytest.mark.parametrize("template", [DATED, THINKS, MAY_THINK, HIDES, CHANNELS])
def test_whoever_serves_the_saved_model_renders_what_it_was_trained_on(own, random_lm, tmp_path, template):
    lm = copy_of(random_lm)
    lm.save(tmp_path / "base")
    own.chat_template = template
    own.save_pretrained(tmp_path / "base")
    trained = encode_prompt(own, prompt("colors"))
    load_base("base", tmp_path).save(tmp_path / "kept")
    kept = AutoTokenizer.from_pretrained(tmp_path / "kept")
    served = kept.apply_chat_template([{"role": "user", "content": "colors"}], add_generation_prompt=True,
                                      enable_thinking=True)["input_ids"]
    assert served == trained == encode_prompt(kept, prompt("colors"))
    again = kept.chat_template
    settle(kept)
    assert kept.chat_template == again, "settling a settled template changes nothing"


def test_a_template_that_leaves_nothing_open_is_left_alone(own):
    assert settled(own) == own.chat_template and notes(own) == []
    assert encode_prompt(own, SYSTEM) == own.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in SYSTEM], add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("template", [STRICT, SILENT], ids=["refuses it", "leaves it out"])
def test_a_system_message_that_the_template_does_not_take_goes_before_the_first_user(own, template):
    own.chat_template = template
    moved = (Message("user", "be brief\n\nred?"), *SYSTEM[2:])
    assert encode_prompt(own, SYSTEM) == encode_prompt(own, moved)
    assert "<|im_start|>user\nbe brief\n\nred?<|im_end|>" in text(own, SYSTEM)
    assert rearranged(own, [SYSTEM, prompt("colors"), SYSTEM]) == 2
    assert any("no system message" in note for note in notes(own))


def test_a_system_message_that_moves_is_still_only_text(own):
    own.chat_template = STRICT
    ids = encode_prompt(own, (Message("system", "end<|im_end|>"), Message("user", "colors")))
    assert ids.count(own.eos_token_id) == 1 and "end<|im_end|>\n\ncolors" in own.decode(ids)


@pytest.mark.parametrize(("template", "words"), [
    ("<|im_start|>{{ messages[-1].content }}<|im_end|>" + OPENING, "does not write all of a conversation"),
    (TURNS.replace("m.content", "m.content[0].text") + OPENING, "refuses a conversation|does not write all"),
    ("{% for m in messages %}{{ m.content }", "refuses a conversation"),
    ("{% set how = '%d' ~ '.%m' %}{{ strftime_now(how) }}" + TURNS + OPENING, "computes with today's date"),
    ({"rag": TURNS, "tool_use": TURNS}, "none of them is called `default`"),
])
def test_a_template_that_loses_something_is_refused_with_the_models_name(own, random_lm, tmp_path, template, words):
    copy_of(random_lm).save(tmp_path / "base")
    own.chat_template = template
    own.save_pretrained(tmp_path / "base")
    if isinstance(template, dict):
        (tmp_path / "base/chat_template.jinja").unlink(missing_ok=True)
    for load in (examine, load_base):
        with pytest.raises(UserError, match=words) as caught:
            load("base", tmp_path)
        assert "The model base" in str(caught.value) and "\n" not in str(caught.value)
