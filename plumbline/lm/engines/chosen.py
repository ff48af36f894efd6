"""The engine that a stage's parameters name. Which one samples is a parameter, because it decides what is
drawn; places are none: where a server is found (address.py), and where weights are handed over to it.

    PLUMBLINE_VLLM_WEIGHTS=/dev/shm/plumbline     beside the checkpoints, if it is not set
"""

import hashlib
import os
from pathlib import Path

from plumbline.config import EngineName
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.engines.address import vllm_addresses
from plumbline.lm.engines.engine import Engine
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine
from plumbline.lm.engines.weights import delete_left, hold
from plumbline.lm.optim import ReportStep
from plumbline.lm.ranks.world import world
from plumbline.preferences.types import Message

WEIGHTS = "PLUMBLINE_VLLM_WEIGHTS"
NOT_COMPUTED_WITH = frozenset({
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id",
    "tie_word_embeddings", "torch_dtype", "transformers_version"})
"""Entries of a model's configuration that change none of its logits."""
PROBING = (Message("user", "Say something."),)


def engine_for(
    lm: LanguageModel, engine: EngineName, precision: str, scratch: Path, report: ReportStep
) -> Engine:
    """Return the engine that samples with weights of the shapes of `lm`, which are in `precision` or handed
    over in it; `report` is told while its server is away. What killed trainings have left where weights are
    handed over is deleted.

    Raises UserError if there is no address for this rank.
    """
    stop = stop_tokens(lm.tokenizer, lm.model)
    if engine == "own":
        return OwnEngine(stop)
    here, place = world(), Path(os.environ.get(WEIGHTS) or scratch).absolute()
    run = hashlib.sha256(str(scratch.absolute()).encode()).hexdigest()[:8]  # others may have the same place
    server = VllmServer(vllm_addresses(here.size)[here.rank], report)
    folder = place / f"weights-{run}-{here.rank}"
    delete_left(place)
    hold(folder)
    return VllmEngine(server, folder, stop, precision, encode_prompt(lm.tokenizer, PROBING))


def engine_also_for(lm: LanguageModel, engine: Engine, made_for: LanguageModel) -> Engine:
    """Return `engine` if it can sample with the weights of `lm`, too; otherwise our own sampler.

    A server keeps the architecture that it was started with: weights of the same shapes may belong to other
    rotary frequencies, norms or windows.
    """
    if _served_as(lm) == _served_as(made_for):
        return engine
    return OwnEngine(stop_tokens(lm.tokenizer, lm.model))


def _served_as(lm: LanguageModel) -> tuple[object, ...]:
    """Return all that a server must not be wrong about: configuration, shapes, and where responses end."""
    config = {key: value for key, value in lm.model.config.to_dict().items() if key not in NOT_COMPUTED_WITH}
    shapes = {name: weight.shape for name, weight in lm.model.state_dict().items()}
    return config, shapes, set(stop_tokens(lm.tokenizer, lm.model))
