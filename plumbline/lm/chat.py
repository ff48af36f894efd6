"""From conversations to token ids, in one way for every stage.

A prompt is rendered by the model's chat template, settled (`template.py`), up to where the assistant begins; a response
is tokenised by itself and ends with the token that ends a turn. Their ids are joined, never their texts: SFT, the
reward model and PPO see the same ids for the same conversation, and sampled ids are never decoded and encoded again.
What people wrote is text only: a message that contains the characters of a special token, such as `<|im_end|>`, ends no
turn and opens none.
"""

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from plumbline.errors import UserError
from plumbline.lm.template import arranged, render, settled
from plumbline.preferences.types import Prompt

STAND_IN = "\ue000{}\ue001"
"""For a message while the template is rendered; of characters for private use."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Ids of the prompt, up to and including the marker that opens the assistant's turn."""
    prompt = arranged(tokenizer, prompt)
    special = _special_texts(tokenizer)
    aside = {STAND_IN.format(turn): message.content for turn, message in enumerate(prompt)
             if any(text in message.content for text in special)}
    messages = [{"role": message.role, "content": name if (name := STAND_IN.format(turn)) in aside else message.content}
                for turn, message in enumerate(prompt)]
    rendered = render(tokenizer, messages)
    ids: list[int] = []
    for part in re.split(f"({'|'.join(aside)})", rendered) if aside else [rendered]:
        if part in aside:
            ids += _literally(tokenizer, aside[part])
        else:  # the template has written the special tokens: adding them again would double the BOS
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Ids of a response with the token that ends the turn."""
    return [*_literally(tokenizer, response), stop_token(tokenizer)]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of a response, without special tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends the assistant's turn: what the chat template writes after a response, or else the EOS token."""
    return _stop_token(settled(tokenizer), tokenizer)


def _literally(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@lru_cache(maxsize=8)
def _special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


@lru_cache(maxsize=8)
def _stop_token(template: str, tokenizer: PreTrainedTokenizerBase) -> int:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yyy"}]
    rendered = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    after = tokenizer(rendered[rendered.rindex("yyy") + 3 :], add_special_tokens=False)["input_ids"]
    # Phi and others mark turns with tokens that are special without having a name such as `eos_token`.
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    for token in after:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError("The chat template ends a turn without a special token, and the tokenizer has no EOS token: "
                        "a response could never end. Set eos_token in the base model's tokenizer.")
    return int(tokenizer.eos_token_id)
