"""The cast's models in memory: they answer and are scored. Only the processes that answer import this: it loads torch.

Weights come out of DVC's cache by their digests.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache

from plumbline.alignment.reward import RewardModel
from plumbline.errors import UserError
from plumbline.feedback.contestants import Cast
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.sampling import draw, sample_all
from plumbline.lm.source import context_of
from plumbline.preferences.types import Prompt
from plumbline.project.digests import cached_file, cached_listing

BATCH = 16
HALF = "\ufffd"
"""Stands for the part of a character that has been sampled so far."""


@dataclass(frozen=True)
class Models:
    """Loaded models, in the order of the cast."""

    cast: Cast
    speakers: Sequence[LanguageModel]
    reward: RewardModel

    @classmethod
    def load(cls, cast: Cast, cache: Path) -> "Models":
        """Load everything. Raises UserError when the cache does not hold it."""
        speakers = [_load_speaker(cache, part.digest, cast.precision) for part in cast.parts]
        with tempfile.TemporaryDirectory() as folder:
            _link(cache, cast.reward, Path(folder))
            return cls(cast, speakers, RewardModel.load(Path(folder), cast.precision))

    def answer(self, number: int, prompts: Sequence[Prompt], seed: int) -> list[str]:
        """One answer of a part of the cast to each prompt; prompts that leave it no room get an empty one."""
        lm = self.speakers[number]
        ids = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts]
        fitting = [place for place, one in enumerate(ids) if self._fits(lm, one)]
        found = sample_all(lm.model, [ids[place] for place in fitting], max_response=self.cast.max_response,
                           stop=stop_token(lm.tokenizer), temperature=self.cast.temperature,
                           generator=torch.Generator().manual_seed(seed), batch_size=BATCH)
        texts = [""] * len(prompts)
        for place, response in zip(fitting, found, strict=True):
            texts[place] = decode_response(lm.tokenizer, response.ids)
        return texts

    def say(self, number: int, prompt: Prompt, seed: int) -> Iterator[str]:
        """One answer as it comes, in pieces of text. Raises UserError for a prompt that leaves it no room."""
        lm = self.speakers[number]
        ids = encode_prompt(lm.tokenizer, prompt)
        if not self._fits(lm, ids):
            raise UserError(f"The prompt is too long: {len(ids)} tokens, and {self.cast.max_response} of an answer, "
                            f"where {self.cast.parts[number].name} holds {context_of(lm.model.config)}.")
        said, tokens = "", []
        for token in self._tokens(lm, ids, seed):
            tokens.append(token)
            # White space at the end may be the end of the answer, where it does not count.
            text = decode_response(lm.tokenizer, tokens)
            if not text.endswith(HALF) and text.startswith(said):
                yield text[len(said):]
                said = text
        whole = decode_response(lm.tokenizer, tokens)
        if whole.startswith(said):
            yield whole[len(said):]

    def rewards(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        """The reward of each answer."""
        return self.reward.score([(prompt, text) for text in texts])

    def _fits(self, lm: LanguageModel, ids: list[int]) -> bool:
        context = context_of(lm.model.config)
        return context is None or len(ids) + self.cast.max_response <= context

    @torch.no_grad()
    def _tokens(self, lm: LanguageModel, prompt: list[int], seed: int) -> Iterator[int]:
        """The same tokens as plumbline.lm.sampling.sample would draw for this prompt alone, one by one."""
        generator, stop = torch.Generator().manual_seed(seed), stop_token(lm.tokenizer)
        cache, inputs = DynamicCache(config=lm.model.config), torch.tensor([prompt])
        for _ in range(self.cast.max_response):
            logits_BV = lm.model(input_ids=inputs.to(lm.model.device), past_key_values=cache, use_cache=True,
                                 logits_to_keep=1).logits[:, -1].float().cpu()
            token_B = draw(logits_BV, self.cast.temperature, generator)
            yield int(token_B)
            if int(token_B) == stop:
                return
            inputs = token_B[:, None]


def _load_speaker(cache: Path, digest: str, precision: str) -> LanguageModel:
    with tempfile.TemporaryDirectory() as folder:
        _link(cache, digest, Path(folder))
        return LanguageModel.load(Path(folder), precision)


def _link(cache: Path, digest: str, folder: Path) -> None:
    """Let a folder of the cache appear under its files' names. Raises UserError when the cache does not hold it."""
    names = cached_listing(cache, digest)
    missing = names is None or not all(cached_file(cache, md5).exists() for md5 in names.values())
    if names is None or missing:
        raise UserError(f"The cache {cache} does not hold the model {digest}. If the project has a DVC remote, "
                        "`plumbline restore` of its run, or `dvc pull`, may bring it back.")
    for name, md5 in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(cached_file(cache, md5))
