"""What a run says that its trainings take, beside the memory that they took.

    python benchmarks/footprint.py [WIDTH LAYERS]     # 768 wide with 12 layers by default: 110 million weights

Each training runs a few steps in a process of its own, on answers as long as its lengths allow, and the
largest resident size that Linux saw (VmHWM) stands beside the footprint. On a busy machine, too: memory does
not depend on it.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transformers import LlamaConfig

from plumbline.compute.footprint import footprints
from plumbline.compute.model_size import measure
from plumbline.config import Params, load_params

ROOT = Path(__file__).resolve().parents[1]
WORDS, LENGTH = 4000, 256
SETTINGS = [f"sft.max_length={LENGTH}", f"reward_model.max_length={LENGTH}", "ppo.max_prompt=64",
            f"ppo.max_response={LENGTH - 64}", "ppo.updates=2", "ppo.value_warmup=0", "ppo.evaluate_every=1",
            "ppo.batch_size=16", "ppo.micro_batch_size=8", "ppo.validation_prompts=8", "sft.batch_size=8",
            "sft.micro_batch_size=8", "reward_model.batch_size=8", "reward_model.micro_batch_size=4"]
CASES = {
    "sft": [], "sft, bf16": ["sft.precision=bf16"], "reward_model": [],
    "reward_model, top layers": ["reward_model.top_layers=2"],
    "ppo": [], "ppo, bf16": ["ppo.precision=bf16"], "ppo, top layers": ["ppo.trainable=top", "ppo.critic=separate"],
    "ppo, adapters": ["ppo.trainable=lora", "ppo.critic=shared"]}


def params_of(case: str) -> Params:
    return load_params(ROOT, None, [*SETTINGS, *CASES[case]])


def config_of(width: int, layers: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers,
                       num_attention_heads=width // 64, num_key_value_heads=width // 64, vocab_size=vocabulary,
                       tie_word_embeddings=True, pad_token_id=0, eos_token_id=2, bos_token_id=None)


def child(case: str, width: int, layers: int, folder: Path) -> None:
    """Train, and print the largest resident size in bytes."""
    from transformers import LlamaForCausalLM

    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import train_reward_model
    from plumbline.alignment.sft import train_sft
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.pretrain import train_tokenizer
    from plumbline.preferences.types import Comparison, Demonstration, Message, Origin
    from testing.online import prepared, train_policy
    from testing.tiny_models import silent

    rng, params = random.Random(0), params_of(case)
    tokenizer = train_tokenizer([" ".join(f"w{rng.randrange(WORDS)}" for _ in range(400)) for _ in range(400)], 8000)
    lm = LanguageModel(LlamaForCausalLM(config_of(width, layers, len(tokenizer))).eval(), tokenizer)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(WORDS)}" for _ in range(count))

    def prompt() -> tuple[Message]:
        return (Message("user", words(8)),)

    stage, scratch = case.partition(",")[0], folder / "scratch"
    if stage == "sft":
        shown = [Demonstration(prompt(), words(150), Origin("made up")) for _ in range(24)]
        train_sft(lm, shown, shown[:8], params.sft, 0, silent, scratch)
    else:
        lm.save(folder / "sft")
        reward = RewardModel.from_policy(folder / "sft", LENGTH, seed=0)
        if stage == "reward_model":
            del lm
            pairs = [Comparison(prompt(), (words(90), words(90)), "A", Origin("made up")) for _ in range(24)]
            train_reward_model(reward, pairs, pairs[:8], params.reward_model, 0, silent, scratch)
        else:
            reward.save(folder / "reward")
            asked = [prompt() for _ in range(32)]
            reward = RewardModel.load(folder / "reward", params.ppo.precision)
            judge = RewardModel.load(folder / "reward", params.ppo.precision)
            validation = prepared(lm, reward, judge, asked, params.ppo, 0)
            value = RewardModel.load(folder / "reward").model if params.ppo.critic == "separate" else None
            train_policy(lm, LanguageModel.load(folder / "sft").model, value, reward, asked, params.ppo, 0, silent,
                         scratch, validation)
    status = Path("/proc/self/status").read_text()
    print(1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))))


def main() -> None:
    """Print the table."""
    width, layers = (int(one) for one in sys.argv[1:3]) if sys.argv[1:] else (768, 12)
    print(f"{'training':<26}{'said':>9}{'took':>9}{'took/said':>11}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--child", case, str(width), str(layers), folder]
            took = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        size = measure(config_of(width, layers, 8000))
        said = next(one.bytes for one in footprints(params_of(case), size, lambda _: 1, True)
                    if one.stage == case.partition(",")[0])
        print(f"{case:<26}{said / 1e9:>6.2f} GB{took / 1e9:>6.2f} GB{took / said:>11.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
