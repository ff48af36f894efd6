"""From conversations to token ids, in the same way for every stage.

A prompt is rendered by the model's chat template, settled (`template.py`), up to where the assistant begins;
a response is tokenised by itself and ends with the token that ends a turn. Their ids are joined, never their
texts: SFT, the reward model and PPO see the same ids for the same conversation, and sampled ids are never
decoded and encoded again. Messages are text only: one that contains the characters of a special token, such
as `<|im_end|>`, ends no turn and opens none.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from plumbline.errors import UserError
from plumbline.lm.template import Turn, arranged, render, settled
from plumbline.preferences.types import Message, Prompt

STAND_IN = "\ue000{}\ue001"
"""Stands for a message while the template is rendered; of characters for private use."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the ids of the prompt, up to and including the marker that opens the assistant's turn."""
    return _encode_turns(tokenizer, arranged(tokenizer, prompt), partial(render, tokenizer))


def encode_conversation(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: str) -> list[int]:
    """Return the ids of prompt and response as the chat template writes them.

    For models of others, which read an answer as their template ends it; ours read `encode_response`.
    """
    turns = (*arranged(tokenizer, prompt), Message("assistant", response))
    written = partial(tokenizer.apply_chat_template, chat_template=settled(tokenizer), tokenize=False)
    return _encode_turns(tokenizer, turns, lambda messages: str(written(messages)))


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], written: Callable[[list[Turn]], str]
) -> list[int]:
    """Return the ids of what `written` makes of the turns, in which no message is read as a special token."""
    special, spelled = _special_texts(settled(tokenizer), tokenizer), bool(_spelled(tokenizer))
    aside: dict[str, str] = {}
    messages = []
    for turn, message in enumerate(turns):
        content = message.content
        # A message with the text of a special token is set aside, and encoded literally after rendering.
        if spelled or any(text in content for text in special):
            content = STAND_IN.format(turn)
            aside[content] = message.content
        messages.append({"role": message.role, "content": content})
    rendered = written(messages)
    parts = re.split(f"({'|'.join(aside)})", rendered) if aside else [rendered]
    ids: list[int] = []
    for part in parts:
        if part in aside:
            ids += _encode_literally(tokenizer, aside[part])
        else:  # the template has written the special tokens: adding them again would double the BOS
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Return the ids of a response with the token that ends the turn."""
    return [*_encode_literally(tokenizer, response), stop_token(tokenizer)]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of a response, without special tokens and white space around it."""
    # Cleaned up, a text would be another one than the tokens say: "do n't" would become "don't".
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that ends the assistant's turn.

    It is the first special token that the chat template writes after a response, otherwise the EOS token.
    Raises UserError if there is neither.
    """
    return _stop_token(settled(tokenizer), tokenizer)


def stop_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[int, ...]:
    """Return the ids at which a response ends: `stop_token`, which training writes, and what else the model's
    generation configuration names, such as Llama 3's `<|end_of_text|>` beside its `<|eot_id|>`.
    """
    others = model.generation_config.eos_token_id if model.generation_config else None
    if others is None:
        others = []
    elif isinstance(others, int):
        others = [others]
    return tuple(dict.fromkeys((stop_token(tokenizer), *others)))


def differences(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Return the names of what makes two tokenizers write a conversation as other ids; empty if nothing does.

    Only where nothing differs can one model read the ids that another has sampled.
    """
    found = []
    if one.get_vocab() != other.get_vocab():
        found.append("vocabulary")
    if settled(one) != settled(other):
        found.append("chat template")
    if stop_token(one) != stop_token(other):
        found.append("stop token")
    return found


def _encode_literally(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text without special tokens, but for those that stand for unknown characters."""
    literally = {"add_special_tokens": False, "split_special_tokens": True}
    spelled = _spelled(tokenizer) | _turn_markers(settled(tokenizer), tokenizer)
    if not spelled:
        return list(tokenizer(text, **literally)["input_ids"])
    found = tokenizer(text, **literally, return_offsets_mapping=True)
    ids: list[int] = []
    for id, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        if id in spelled:  # letter by letter it is none
            ids += chain.from_iterable(tokenizer(list(text[start:end]), **literally)["input_ids"])
        else:
            ids.append(id)
    return ids


@lru_cache(maxsize=8)
def _spelled(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of special tokens that a text can spell, even one that is to be read literally.

    SentencePiece's Unigram tokenizers (T5's) have special tokens among their pieces, and they normalise: a
    text spells `</s>` in wide letters, too.
    """
    found = set()
    for id, token in tokenizer.added_tokens_decoder.items():
        ids = tokenizer(str(token), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if token.special and id in ids and id != tokenizer.unk_token_id:
            found.add(id)
    return frozenset(found)


@lru_cache(maxsize=8)
def _special_texts(template: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    markers = _turn_markers(template, tokenizer)
    return tuple(str(token) for id, token in tokenizer.added_tokens_decoder.items()
                 if token.special or id in markers)


@lru_cache(maxsize=8)
def _turn_markers(template: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of added tokens that open and end turns in the template without being flagged as
    special, as DeepSeek's `<｜User｜>`.

    Others that it writes, such as `<think>`, are no markers: a response may contain them.
    """
    unflagged = {id for id, token in tokenizer.added_tokens_decoder.items()
                 if not token.special and str(token).strip()}
    if not unflagged:
        return frozenset()

    def among(text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [id for id in ids if id in unflagged]

    def rendered(*turns: dict[str, str], opened: bool = False) -> str:
        return str(tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=opened))

    user, assistant = {"role": "user", "content": "x"}, {"role": "assistant", "content": "yyy"}
    before, answered = rendered(user), rendered(user, assistant)
    opening = rendered(user, opened=True).removeprefix(before)
    ending = answered[answered.rindex("yyy") + 3 :]
    return frozenset([*among(before), *among(opening)[:1], *among(ending)])


@lru_cache(maxsize=8)
def _stop_token(template: str, tokenizer: PreTrainedTokenizerBase) -> int:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yyy"}]
    rendered = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    after = tokenizer(rendered[rendered.rindex("yyy") + 3 :], add_special_tokens=False)["input_ids"]
    # Phi and others mark turns with tokens that are special without having a name such as `eos_token`.
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = {*tokenizer.all_special_ids, *added, *_turn_markers(template, tokenizer)}
    for token in after:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError("The chat template ends a turn without a special token, and the tokenizer has no EOS "
                        "token: a response could never end. Set eos_token in the base model's tokenizer.")
    return int(tokenizer.eos_token_id)
