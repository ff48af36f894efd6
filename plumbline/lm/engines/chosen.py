"""The engine that the parameters name. Which one samples is a parameter, because it decides what is drawn;
places are none: where a server is found (address.py), and where weights are handed over to it.

    PLUMBLINE_VLLM_WEIGHTS=/dev/shm/plumbline     beside the checkpoints, if it is not set
"""

import os
from pathlib import Path

from plumbline.config import PpoParams
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.engines.address import vllm_addresses
from plumbline.lm.engines.engine import Engine
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine
from plumbline.lm.optim import ReportStep
from plumbline.lm.ranks.world import world
from plumbline.preferences.types import Message

WEIGHTS = "PLUMBLINE_VLLM_WEIGHTS"
PROBING = (Message("user", "Say something."),)


def engine_for(lm: LanguageModel, params: PpoParams, scratch: Path, report: ReportStep) -> Engine:
    """Return the engine that samples for a policy of `lm`; `report` is told while its server is away.

    Raises UserError if there is no address for this rank.
    """
    stop = stop_tokens(lm.tokenizer, lm.model)
    if params.engine == "own":
        return OwnEngine(stop, params.temperature)
    here, place = world(), Path(os.environ.get(WEIGHTS) or scratch).absolute()
    server = VllmServer(vllm_addresses(here.size)[here.rank], report)
    return VllmEngine(server, place / f"weights-{here.rank}", stop, params.temperature, params.precision,
                      encode_prompt(lm.tokenizer, PROBING))
