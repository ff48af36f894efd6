"""Weights as a vLLM server loads them.

    python -m plumbline.lm.engines.weights models/base/model served     # a folder to start a server from

vLLM that reloads a model with tied embeddings leaves its output layer as it was, without an error; and one
that was started with them has no output layer of its own. So embeddings are never tied here: the output layer
is written out, and the configuration says so.

A process that is killed leaves the folder through which it hands weights over. So it holds a lock beside it,
which ends with it, and the next training that hands weights over in that place deletes what nobody holds.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch
from transformers import PreTrainedModel

from plumbline.lm.base import LanguageModel

TIED = "tie_word_embeddings"
HANDED_OVER = re.compile(r"weights-[0-9a-f]{8}-\d+")
"""Names of folders through which weights are handed over: of a run, and of its rank."""
LOCK = ".lock"
_held: dict[Path, TextIO] = {}
"""The locks of this process, by their folders."""


def hold(folder: Path) -> None:
    """Keep others from deleting the folder until this process ends."""
    if folder in _held:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(folder.name + LOCK)
    lock = file.open("a+", encoding="utf-8")
    with suppress(OSError):  # a file system without locks, where nobody deletes anything
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not _is(lock, file):  # it was deleted meanwhile, as that of a killed process
        lock.close()
        hold(folder)
        return
    lock.truncate(0)
    lock.write(socket.gethostname())
    lock.flush()
    _held[folder] = lock


def delete_left(place: Path) -> None:
    """Delete the folders in `place` of processes of this machine that have ended.

    What another machine holds may look free here.
    """
    for file in place.glob(f"*{LOCK}"):
        folder = file.with_suffix("")
        if not HANDED_OVER.fullmatch(folder.name):
            continue
        with suppress(OSError), file.open("r+", encoding="utf-8") as lock:  # held, or another user's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(lock, file) and lock.read() == socket.gethostname():
                shutil.rmtree(folder, ignore_errors=True)
                file.unlink()


def _is(lock: TextIO, file: Path) -> bool:
    """Return True if what was opened is still the file of that name."""
    return file.exists() and os.path.samestat(os.fstat(lock.fileno()), file.stat())


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
