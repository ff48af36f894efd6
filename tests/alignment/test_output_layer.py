"""No forward pass without a gradient makes a copy of the output layer for each row of its batch.

torch multiplies a view in three dimensions, such as the last places of each row, by as many copies of the weights, if
these do not learn.
"""

from copy import deepcopy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plumbline.alignment.online.nucleus import NucleusMask
from plumbline.alignment.sequences import join, log_probs_by, response_logits
from plumbline.lm.base import LanguageModel
from plumbline.lm.likelihood import sampled_log_likelihoods
from plumbline.lm.sampling import sample

ROWS, LENGTH = 16, 6
PROMPTS = [[5 + row, 6, 7, 8] for row in range(ROWS)]
RESPONSES = [[9 + row] * LENGTH for row in range(ROWS)]


class LargestTensor(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation returns, be it a view that is copied later."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        several = out if isinstance(out, tuple | list) else [out]
        self.elements = max([self.elements, *(one.numel() for one in several if isinstance(one, torch.Tensor))])
        return out


def sampled(lm):
    sample(lm.model, PROMPTS, max_response=LENGTH, stop=-1, temperature=1.0, generator=torch.Generator())


def likelihoods(lm):
    sampled_log_likelihoods(lm, PROMPTS, RESPONSES, 1.0)


def log_probs(lm):
    sequences = join(PROMPTS, RESPONSES, lm.model.device)
    log_probs_by(lm.model.base_model, lm.model.get_output_embeddings(), sequences, 1.0, "fp32")


def logits(lm):
    sequences = join(PROMPTS, RESPONSES, lm.model.device)
    response_logits(lm.model.base_model, lm.model.get_output_embeddings(), sequences, "fp32")


def masked(lm):
    NucleusMask(lm.model, 0.7, 1.0, "fp32", 8).marked(join(PROMPTS, RESPONSES, lm.model.device))


@pytest.mark.parametrize("read", [sampled, likelihoods, log_probs, logits, masked])
def test_no_pass_copies_the_output_layer_for_each_row(random_lm, read):
    frozen = LanguageModel(deepcopy(random_lm.model).requires_grad_(False), random_lm.tokenizer)
    vocabulary, width = frozen.model.get_output_embeddings().weight.shape
    assert width > LENGTH + 1, "otherwise logits are as large as copies"
    with torch.no_grad(), LargestTensor() as largest:
        read(frozen)
    assert largest.elements <= max(ROWS * (LENGTH + 1) * vocabulary, vocabulary * width)
