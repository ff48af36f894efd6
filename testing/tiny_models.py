"""Two-layer models with a tokenizer trained on a few sentences, and parameter blocks of the size to train them."""

import atexit
import random
import shutil
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers.normalizers import NFKC
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from plumbline.config import PpoParams, RewardModelParams, SftParams
from plumbline.config.methods import DpoParams, IlqlParams, IpoParams, KtoParams, OrpoParams, SimpoParams
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.pretrain import train_tokenizer
from plumbline.lm.sampling import sample
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin

torch.set_num_threads(1)  # a second thread only costs on models of this size, a lot of it where the cores are busy
WORDS = ("red", "green", "blue", "black")
ASKED = ("name some colors", "colors", "please tell me a few colors", "which ones?", "say it")


def prompt(text):
    return (Message("user", text),)


PROMPTS = [prompt(text) for text in ASKED]


def small_tokenizer():
    """BPE with merges: " red" and " green" are single tokens."""
    rng = random.Random(0)
    return train_tokenizer([" ".join(rng.choices(WORDS, k=6)) + ". " + text for text in ASKED for _ in range(40)], 330)


def small_model(tokenizer, seed=0, **config):
    """Weights wide enough that the model is sure of some tokens and not of others."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id} | config)
    ).eval()


def small_gpt2(tokenizer):
    """Positions are absolute here, so that padding which moves them is noticed; rotary ones are relative."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128, initializer_range=0.2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).eval()


def small_t5(kind=T5ForConditionalGeneration, tied=False):
    """A T5 with its tokenizer: v1.1, or v1.0 whose output layer is its embeddings; or an mT5."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *sorted(set("".join(ASKED) + ".?,"))]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(place > 3)) for place, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.backend_tokenizer.normalizer = NFKC()  # T5's own is this and more
    torch.manual_seed(0)
    model = kind(kind.config_class(
        vocab_size=len(pieces), d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=tied))
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(len(pieces), 32) * 0.2)
    return model.eval(), tokenizer


def save_t5(folder, **kind):
    """Write it as a hub has it."""
    model, tokenizer = small_t5(**kind)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def copy_of(lm):
    return LanguageModel(deepcopy(lm.model), lm.tokenizer)


def demonstrations(count=64, seed=1):
    """One to three colors, whatever the request."""
    rng = random.Random(seed)
    return [Demonstration(rng.choice(PROMPTS), " ".join(rng.choices(WORDS, k=rng.randint(1, 3))), Origin("test"))
            for _ in range(count)]


def prefers_red(count=160, seed=0, label=None):
    """Two colors each; the one with red in it wins, which a scalar can tell apart."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        with_red = " ".join(rng.sample(["red", rng.choice(["green", "blue"])], 2))
        without = " ".join(rng.choices(["green", "blue", "black"], k=2))
        comparison = Comparison(rng.choice(PROMPTS), (with_red, without), label or "A", Origin("test"))
        found.append(comparison if rng.random() < 0.5 else comparison.swap())
    return found


def sft_params(**changed):
    return SftParams(**{"version": "1", "epochs": 3, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2,
                        "warmup": 0.1, "max_length": 64, "precision": "fp32", "checkpoint_every": 1000} | changed)


def reward_params(**changed):
    return RewardModelParams(**{
        "version": "1", "members": 1, "epochs": 1, "pretrain_on": [], "pretrain_epochs": 1, "batch_size": 8,
        "micro_batch_size": 8, "learning_rate": 3e-3, "warmup": 0.1, "max_length": 64, "top_layers": None,
        "ranking_loss": "pairs", "margin_scale": 0.0, "label_smoothing": 0.0, "precision": "fp32",
        "centering_samples": 64, "checkpoint_every": 1000} | changed)


def ppo_params(**changed):
    return PpoParams(**{
        "version": "1", "rewards": {"reward": 1.0}, "combine": "sum", "length_penalty": 0.0, "length_free": 0,
        "repetition_penalty": 0.0, "trainable": "all", "top_layers": 1, "lora_rank": 4, "lora_alpha": 8,
        "critic": "separate", "updates": 2, "value_warmup": 0,
        "batch_size": 6, "answers_per_prompt": 1, "epochs": 1, "minibatches": 1,
        "micro_batch_size": 6, "learning_rate": 1e-3, "value_learning_rate": 1e-3, "clip": 0.2, "value_clip": 0.2,
        "ptx_coef": 0.0, "max_step_kl": None, "whiten_rewards": False, "kl_in": "reward", "kl_estimator": "k1",
        "gamma": 1.0, "gae_lambda": 0.95, "kl_coef": 0.05, "kl_target": None, "kl_horizon": 10000, "temperature": 1.0,
        "max_prompt": 64, "max_response": 8, "missing_stop_deviations": 0.5, "kl_limit": None, "evaluate_every": 1,
        "validation_prompts": 5, "engine": "own", "rollout_correction": None, "max_grad_norm": 1e9,
        "precision": "fp32", "checkpoint_every": 100} | changed)


DIRECT = {
    "dpo": (DpoParams, {"beta": 0.1, "label_smoothing": 0.0}),
    "ipo": (IpoParams, {"beta": 0.3}),
    "kto": (KtoParams, {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}),
    "simpo": (SimpoParams, {"beta": 2.0, "target_margin": 0.5}),
    "orpo": (OrpoParams, {"odds_ratio_weight": 1.0}),
    "ilql": (IlqlParams, {"expectile": 0.7, "gamma": 0.99, "conservatism": 0.1, "likelihood_weight": 1.0,
                          "target_rate": 0.1, "steering": 4.0})}
"""The methods that learn from preferences directly, with values of their own."""


def direct_params(method, **changed):
    cls, own = DIRECT[method]
    return cls(**{
        "version": "1", "epochs": 2, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 3e-3, "warmup": 0.1,
        "max_length": 64, "max_grad_norm": 1e9, "precision": "fp32", "checkpoint_every": 100} | own | changed)


def share_saying(word, lm, count=200):
    """The share of sampled answers with the word in them."""
    prompts = [encode_prompt(lm.tokenizer, PROMPTS[i % len(PROMPTS)]) for i in range(count)]
    answers = sample(lm.model, prompts, max_response=8, stop=stop_token(lm.tokenizer), temperature=1.0,
                     generator=torch.Generator().manual_seed(0))
    return sum(word in decode_response(lm.tokenizer, answer.ids) for answer in answers) / count


def silent(step, total, metrics=None, what=""):
    """A report that nobody reads."""


NOWHERE = Path(tempfile.mkdtemp(prefix="plumbline-nowhere-"))
"""For a training that is too short for a checkpoint; its tokens go here."""
atexit.register(shutil.rmtree, NOWHERE, ignore_errors=True)


class Steps:
    """Every optimizer step while it is entered: the learning rate, and the gradients the optimizer was given."""

    def __init__(self):
        self.rates, self.gradients = [], []

    def __enter__(self):
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        def before(optimizer, args, kwargs):
            group = optimizer.param_groups[0]
            self.rates.append(group["lr"])
            self.gradients.append(torch.cat([p.grad.flatten().clone() if p.grad is not None
                                             else torch.zeros(p.numel()) for p in group["params"]]))

        self.hook = register_optimizer_step_pre_hook(before)
        return self

    def __exit__(self, *exception):
        self.hook.remove()


SIZES = {"hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32, "intermediate_size": 64,
         "ffn_dim": 64, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_attention_heads": 2, "n_head": 2,
         "n_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "n_positions": 128,
         "max_seq_len": 128, "num_local_experts": 2, "num_experts_per_tok": 1, "linear_num_key_heads": 2,
         "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
"""By every name that an architecture has for it."""


def small_config(kind, tokenizer, **more):
    """The configuration of a small model of any architecture."""
    known = AutoConfig.for_model(kind)
    names = {*known.to_dict(), *known.attribute_map}
    return AutoConfig.for_model(kind, **{
        **{name: size for name, size in SIZES.items() if name in names}, "vocab_size": len(tokenizer),
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id} | more)


def small_causal(kind, tokenizer, **more):
    """Weights wide enough to matter, in architectures too whose configuration has no word for that."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(kind, tokenizer, **more))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    return model.eval()
