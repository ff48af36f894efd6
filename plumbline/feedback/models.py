"""The contestants' models in memory: sampling and scoring of answers. Imports torch: for answering processes
only.

Weights are read from DVC's cache, by their digests.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from plumbline.alignment.reward import RewardModel
from plumbline.errors import UserError
from plumbline.feedback.contestants import Contestants
from plumbline.lm.base import LanguageModel
from plumbline.lm.cache import new_cache
from plumbline.lm.chat import decode_response, encode_prompt, stop_tokens
from plumbline.lm.sampling import draw, require_sound, sample_all, sound, uniforms
from plumbline.lm.source import context_of
from plumbline.preferences.types import Prompt
from plumbline.project.digests import cached_file, cached_listing

BATCH = 16
HALF = "\ufffd"
"""Decodes from a character of which only the first bytes have been sampled."""


@dataclass(frozen=True)
class LoadedModels:
    """The loaded models, in the order of `contestants.models`."""

    contestants: Contestants
    models: Sequence[LanguageModel]
    reward: RewardModel

    @classmethod
    def load(cls, contestants: Contestants, cache: Path) -> "LoadedModels":
        """Load all models. Raises UserError if the cache lacks one."""
        models = [_load_model(cache, model.digest, contestants.precision) for model in contestants.models]
        with tempfile.TemporaryDirectory() as folder:
            _link(cache, contestants.reward, Path(folder))
            return cls(contestants, models, RewardModel.load(Path(folder), contestants.precision))

    def answer(self, number: int, prompts: Sequence[Prompt], seed: int) -> list[str]:
        """Sample one answer of a model to each prompt; an empty one where the context has no room."""
        lm = self.models[number]
        ids = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts]
        fitting = [i for i, prompt_ids in enumerate(ids) if self._fits(lm, prompt_ids)]
        responses = sample_all(
            lm.model, [ids[i] for i in fitting], max_response=self.contestants.max_response,
            stop=stop_tokens(lm.tokenizer, lm.model), temperature=self.contestants.temperature,
            generator=torch.Generator().manual_seed(seed), batch_size=BATCH)
        texts = [""] * len(prompts)
        for i, response in zip(fitting, responses, strict=True):
            texts[i] = decode_response(lm.tokenizer, response.ids)
        return texts

    def stream(self, number: int, prompt: Prompt, seed: int) -> Iterator[str]:
        """Sample one answer of a model and yield its text piece by piece.

        Raises UserError if the prompt leaves no room in the context.
        """
        lm = self.models[number]
        ids = encode_prompt(lm.tokenizer, prompt)
        if not self._fits(lm, ids):
            raise UserError(f"The prompt is too long: {len(ids)} tokens, and {self.contestants.max_response} "
                            f"of an answer, where {self.contestants.models[number].name} holds "
                            f"{context_of(lm.model.config)}.")
        sent = ""
        tokens = []
        for token in self._tokens(lm, ids, seed):
            tokens.append(token)
            # Decoding strips white space at the end, which comes with the next word if there is one.
            text = decode_response(lm.tokenizer, tokens)
            if not text.endswith(HALF) and text.startswith(sent):
                yield text[len(sent):]
                sent = text
        whole = decode_response(lm.tokenizer, tokens)
        if whole.startswith(sent):
            yield whole[len(sent):]

    def rewards(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        """Return the reward of each answer to the prompt."""
        return self.reward.score([(prompt, text) for text in texts])

    def _fits(self, lm: LanguageModel, ids: list[int]) -> bool:
        context = context_of(lm.model.config)
        return context is None or len(ids) + self.contestants.max_response <= context

    @torch.no_grad()
    def _tokens(self, lm: LanguageModel, prompt: list[int], seed: int) -> Iterator[int]:
        """Yield, one by one, the tokens that `plumbline.lm.sampling.sample` draws for this prompt alone."""
        most = self.contestants.max_response
        uniform_BR = uniforms(1, most, torch.Generator().manual_seed(seed))
        stop = stop_tokens(lm.tokenizer, lm.model)
        cache = new_cache(lm.model, len(prompt) + most)
        inputs_BT = torch.tensor([prompt])
        for t in range(most):
            logits_BV = lm.model(
                input_ids=inputs_BT.to(lm.model.device), past_key_values=cache, use_cache=True,
                logits_to_keep=1).logits[:, -1].float().cpu()
            require_sound(sound(logits_BV))
            token_B = draw(logits_BV, self.contestants.temperature, uniform_BR[:, t])[0]
            yield int(token_B)
            if int(token_B) in stop:
                return
            inputs_BT = token_B[:, None]


def _load_model(cache: Path, digest: str, precision: str) -> LanguageModel:
    with tempfile.TemporaryDirectory() as folder:
        _link(cache, digest, Path(folder))
        return LanguageModel.load(Path(folder), precision)


def _link(cache: Path, digest: str, folder: Path) -> None:
    """Link the files of a folder in the cache into `folder`. Raises UserError if one is missing."""
    names = cached_listing(cache, digest)
    if names is None or not all(cached_file(cache, md5).exists() for md5 in names.values()):
        raise UserError(f"The cache {cache} does not hold the model {digest}. If the project has a DVC "
                        "remote, `plumbline restore` of its run, or `dvc pull`, may bring it back.")
    for name, md5 in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(cached_file(cache, md5))
