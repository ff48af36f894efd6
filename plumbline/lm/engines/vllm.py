"""Sampling by a vLLM server, which lives in an environment of its own; here it is spoken to by HTTP alone.

Before each batch the weights are handed over: written to a folder that the server sees, loaded by it, and
verified, because a server that loads nothing, or half of it, says nothing. Tokens go in and out, never texts,
and each response has a seed of its own. If the server is killed, the batch begins anew as soon as it is back,
with the weights handed over again: the seeds give the same responses. docs/scale.md says how to start one.
"""

import hashlib
import math
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from plumbline.errors import UserError
from plumbline.lm.engines.agreement import prob_error, require_agreement
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.weights import write_untied
from plumbline.lm.sampling import Response

AT_ONCE = 256
"""Requests at a time; vLLM makes batches of them as it likes."""
PROBES, PROBE_TOKENS = 4, 16
"""Responses that a hand-over is verified with, and their longest length."""
MOVED = 1e-5
"""Nats by which a log-probability has changed for certain."""
WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
                      "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Said each time, because a model's generation_config.json may say something else."""


@dataclass(frozen=True)
class HandOver:
    """What shows which weights arrived: responses to the probing prompt, with their log-probabilities by
    the server and by us.
    """

    responses: Sequence[Response]
    ours: torch.Tensor
    theirs: torch.Tensor


@dataclass
class VllmEngine:
    """See `Engine`."""

    server: VllmServer
    folder: Path
    """Where weights are handed over: the server sees it under the same name."""
    part: ClassVar[int] = 65_536
    stop: Collection[int]
    precision: str
    probing: list[int]
    """The ids of the prompt that a hand-over is verified with."""
    _before: HandOver | None = field(default=None, init=False)
    """The last one."""

    def sample(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
        temperature: float, batch_size: int | None = None,  # noqa: ARG002 - the server makes its own batches
    ) -> list[Response]:
        """Sample one response to each prompt; see `Engine`.

        Raises UserError if the server stays away, refuses, or samples from something else than the model.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        write_untied(model, self.folder)
        seeds, longest = [seed_of(row_R) for row_R in uniform_BR], uniform_BR.shape[1]

        def handed_over_and_sampled() -> list[Response]:
            self.server.load(str(self.folder))
            self._verify(model, min(longest, PROBE_TOKENS), temperature or 1.0)
            return self._ask(prompts, seeds, longest, temperature)

        try:
            return self.server.patiently(handed_over_and_sampled)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)  # it may lie in memory

    def name(self) -> str:
        """Return `vllm` and the server's version; see `Engine`. Raises UserError if the server stays away."""
        return f"vllm {self.server.patiently(self.server.version)}"

    def _verify(self, model: PreTrainedModel, tokens: int, temperature: float) -> None:
        """Raise UserError if the server does not sample with the weights of `model`."""
        responses = self._ask([self.probing] * PROBES, list(range(PROBES)), tokens, temperature)
        probe = HandOver(responses, log_probs(model, self.probing, responses, temperature),
                      torch.tensor([value for one in responses for value in one.log_probs]))
        before, self._before = self._before, probe
        # Small steps are less than what rounding makes of a log-probability; but no weight changes and leaves
        # all of them as they were, to the last digit.
        if before and probe.responses == before.responses and torch.equal(probe.theirs, before.theirs) \
                and float((probe.ours - before.ours).abs().max()) > MOVED:
            raise UserError(f"The vLLM server at {self.server.url} was given new weights and still samples "
                            "with those before. Restart it, from a folder without tied embeddings: "
                            "docs/scale.md says how to write one.")
        require_agreement(prob_error(probe.ours - probe.theirs), self.precision, "the hand-over of weights")

    def _ask(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], longest: int, temperature: float
    ) -> list[Response]:
        """Ask for one response to each prompt, many at once. Raises an error as soon as one request does."""
        pool = ThreadPoolExecutor(min(AT_ONCE, len(prompts)))
        try:
            return list(pool.map(
                lambda prompt, seed: self._one(prompt, seed, longest, temperature), prompts, seeds))
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, prompt: list[int], seed: int, longest: int, temperature: float) -> Response:
        ids, found = self.server.generate(prompt, WHOLE_DISTRIBUTION | {
            "temperature": temperature, "seed": seed, "max_tokens": longest, "logprobs": 0,
            # Ours decide alone, whatever the server takes for the end of a text.
            "stop_token_ids": sorted(self.stop), "ignore_eos": True, "detokenize": False})
        stopped = bool(ids) and ids[-1] in self.stop
        complete = (stopped or len(ids) == longest) and len(found) == len(ids)
        if not complete or not all(map(math.isfinite, found)):
            raise UserError(f"The vLLM server at {self.server.url} gave {len(ids)} tokens with {len(found)} "
                            f"log-probabilities, where up to {longest} were expected with one finite number "
                            "each. Is its --max-model-len at least the longest prompt with max_response?")
        return Response(ids, stopped, found if temperature > 0 else [0.0] * len(ids))


def seed_of(uniform_R: torch.Tensor) -> int:
    """Return the seed of a row of random numbers: 48 bits of their digest."""
    return int.from_bytes(hashlib.sha256(uniform_R.cpu().numpy().tobytes()).digest()[:6], "big")


@torch.no_grad()
def log_probs(
    model: PreTrainedModel, prompt: list[int], responses: Sequence[Response], temperature: float
) -> torch.Tensor:
    """Return the log-probability, in nats, of each token of all responses, one after the other."""
    found = []
    for response in responses:
        ids_1T = torch.tensor([prompt + response.ids], device=model.device)
        logits_RV = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        log_probs_RV = (logits_RV / temperature).log_softmax(-1)
        found.append(log_probs_RV.gather(1, ids_1T[0, len(prompt) :, None])[:, 0].cpu())
    return torch.cat(found)
