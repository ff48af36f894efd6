"""Weights as a vLLM server loads them.

    python -m plumbline.lm.engines.weights models/base/model served     # a folder to start a server from

vLLM that reloads a model with tied embeddings leaves its output layer as it was, without an error; and one
that was started with them has no output layer of its own. So embeddings are never tied here: the output layer
is written out, and the configuration says so.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

from plumbline.lm.base import LanguageModel

TIED = "tie_word_embeddings"


def write_untied(model: PreTrainedModel, folder: Path) -> None:
    """Write the model to `folder` as safetensors in its own precision, with no weight shared."""
    model.save_pretrained(folder, state_dict=_unshared(model.state_dict()))
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config", {})):
        part[TIED] = False
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _unshared(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with a copy of each that another name has, too."""
    seen, found = set(), {}
    for name, weight in weights.items():
        found[name] = weight.clone() if weight.data_ptr() in seen else weight
        seen.add(weight.data_ptr())
    return found


def main(source: str, target: str) -> None:
    """Write the model in the folder `source`, with its tokenizer, to the folder `target`."""
    lm = LanguageModel.load(Path(source))
    write_untied(lm.model, Path(target))
    lm.tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
