"""What a run needs, against what its models really take, and what is said where it does not fit."""

import re
from pathlib import Path

import pytest
from transformers import LlamaConfig

from plumbline.compute.footprint import Footprint, footprints
from plumbline.compute.memory import Room, described, require_room, room_here
from plumbline.compute.model_size import measure
from plumbline.compute.settings import StageCompute
from plumbline.config import Params, load_params
from plumbline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 10**9
SMALL = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                    num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True)
LARGE = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                    num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def sizes() -> dict[str, object]:
    return {"small": measure(SMALL), "large": measure(LARGE)}


def params(*settings: str) -> Params:
    return load_params(ROOT, None, settings)


def need(size: object, stage: str, *settings: str, ranks: int = 1, judge: bool = True) -> Footprint:
    return next(one for one in footprints(params(*settings), size, lambda _: ranks, judge) if one.stage == stage)


def test_states_and_copies_of_ppo_add_up(sizes) -> None:
    weights = 134_515_008  # SmolLM2-135M, as its card says
    found = need(sizes["small"], "ppo", "ppo.precision=fp32")
    assert found.states == 2 * 16 * weights  # policy, critic
    assert found.copies == 4 * 4 * weights  # reference, best so far, reward model, judge
    assert need(sizes["small"], "ppo", judge=False).copies == 3 * 4 * weights
    assert need(sizes["small"], "ppo", "ppo.trainable=lora", "ppo.critic=shared").states == 4 * weights


def test_all_is_shared_out_but_what_samples(sizes) -> None:
    one, eight = (need(sizes["large"], "ppo", "ppo.precision=bf16", ranks=ranks) for ranks in (1, 8))
    sampling = 2 * 8_030_261_248
    assert eight.states == pytest.approx(one.states / 8)
    assert eight.copies == pytest.approx((one.copies - sampling) / 8 + sampling)
    assert eight.flops == one.flops


def test_ppo_of_an_8b_model_fits_eight_cards_of_80_gb(sizes) -> None:
    settings = "ppo.precision=bf16", "ppo.batch_size=64", "ppo.micro_batch_size=1", "ppo.max_prompt=256"
    card = Room(80 * GIGABYTE, gpu=True)
    assert card.fits(need(sizes["large"], "ppo", *settings, ranks=8), 8)
    assert not card.fits(need(sizes["large"], "ppo", *settings, ranks=4), 4)


def test_work_grows_with_epochs_and_shrinks_without_a_critic(sizes) -> None:
    by_hand = 64 * sizes["small"].flops(128)
    settings = "ppo.batch_size=64", "ppo.max_prompt=56", "ppo.max_response=72"
    assert need(sizes["small"], "ppo", *settings, "ppo.epochs=2").flops == pytest.approx(by_hand * (5 + 12))
    assert need(sizes["small"], "ppo", *settings, "ppo.epochs=1").flops == pytest.approx(by_hand * (5 + 6))
    assert need(sizes["small"], "candidate@rloo", *settings, "compare.rloo=ppo", "candidates.rloo={method: rloo, "
                "answers_per_prompt: 4, epochs: 1}").flops == pytest.approx(by_hand * (4 + 3))


ILQL = ("compare.ilql=direct", "candidates.ilql={method: ilql, expectile: 0.7, gamma: 0.99, conservatism: 0.1, "
        "likelihood_weight: 1.0, target_rate: 0.005, steering: 1.0}")


def test_ilql_has_two_heads_with_targets_and_all_logits(sizes) -> None:
    settings = "direct.micro_batch_size=4", "direct.batch_size=8", "direct.max_length=100"
    dpo = need(sizes["small"], "candidate@dpo", *settings, "compare.dpo=direct")
    ilql = need(sizes["small"], "candidate@ilql", *settings, *ILQL)
    heads, logits = 2 * 49152 * 576, 2 * 4 * 100 * 49152
    assert ilql.states - dpo.states == 16 * heads  # weights, gradients, two moments
    assert (dpo.copies, ilql.copies) == (0, 4 * heads)  # the targets
    # Of the policy and of both heads: the logits, their softmax and its gradient; others keep probabilities alone.
    assert ilql.moment - dpo.moment == 3 * 3 * 4 * logits - 4 * logits
    shared = need(sizes["small"], "candidate@ilql", *settings, *ILQL, ranks=4)
    assert (shared.states, shared.copies) == (ilql.states // 4, ilql.copies // 4)


def test_nlpo_has_the_masking_policy_and_a_mask_that_a_micro_batch_makes(sizes) -> None:
    settings = ("compare.nlpo=ppo", "ppo.batch_size=64", "ppo.minibatches=1", "ppo.max_prompt=50",
                "ppo.max_response=50")
    ppo = need(sizes["small"], "ppo", *settings)
    one, eight = (need(sizes["small"], "candidate@nlpo", *settings, f"ppo.micro_batch_size={rows}") for rows in (1, 8))
    logits = 50 * 49152
    assert one.copies - ppo.copies == 4 * sizes["small"].weights
    kept = sizes["small"].kept(8, 100, "fp32")
    # A byte for each token at each place of all responses. It is made in 30 more, as measured on a CPU (394 MB for
    # 16 responses, 8 at once, of 192 tokens out of 8,000); learnt from are logits, their softmax and gradient.
    assert eight.moment == 64 * logits + max(8 * logits * 30, kept + 8 * logits * 3 * 4)
    assert one.moment < eight.moment


def test_rejection_sampling_needs_what_the_larger_of_its_two_halves_does(sizes) -> None:
    settings = "compare.rejection=sft", "sft.max_length=128", "sft.micro_batch_size=1", "sft.precision=fp32"
    small, large = sizes["small"], sizes["large"]
    alone, sft = (need(small, stage, *settings) for stage in ("candidate@rejection", "sft"))
    assert (alone.states, alone.copies, alone.moment) == (sft.states, 0, sft.moment)
    many = need(large, "candidate@rejection", *settings, ranks=64)
    # The whole policy, the reward model without an output layer, and the cache of 2 of 128 answers.
    sampling = 4 * large.weights + 4 * large.body + 2 * 128 * large.cache_per_token
    assert many.states + many.copies + many.moment == sampling


@pytest.mark.parametrize(("stage", "settings"), [
    ("sft", []), ("reward_model", []), ("ppo", []), ("candidate@dpo", ["compare.dpo=direct"]),
    ("candidate@rloo", ["compare.rloo=ppo"]), ("candidate@rejection", ["compare.rejection=sft"]),
    ("candidate@ilql", [*ILQL]), ("candidate@nlpo", ["compare.nlpo=ppo"]),
])
def test_what_is_said_to_fit_fits(stage: str, settings: list[str], sizes) -> None:
    blocks = "sft", "reward_model", "ppo", "direct"
    settings = [*settings, *(f"{block}.micro_batch_size=64" for block in blocks),
                *(f"{block}.batch_size=64" for block in blocks), "ppo.minibatches=1"]
    whole = need(sizes["small"], stage, *settings).bytes
    room = Room(whole - GIGABYTE // 10, gpu=True)
    with pytest.raises(UserError) as caught:
        require_room(only(params(*settings), stage), sizes["small"], lambda _: StageCompute(), True, room)
    said = str(caught.value)
    assert f"Stage `{stage}` needs about {whole / 1e9:.1f} GB" in said
    ways = re.findall(r"What would fit: (.*)\.$", said)[0].split("; or ")
    assert len(ways) >= 2
    for way in ways:
        if match := re.match(r"(\d+) processes", way):
            found = need(sizes["small"], stage, *settings, ranks=int(match[1]))
        else:
            found = need(sizes["small"], stage, *settings, *way.split(" and "))
        assert room.fits(found, 1)


def only(given: Params, stage: str) -> Params:
    """Make the stages before this one small, so that it is the first that does not fit."""
    small = {"micro_batch_size": 1, "batch_size": 1}
    changed = {block: getattr(given, block).model_copy(update=small)
               for block in ("sft", "reward_model", "ppo") if block != stage}
    if "@" in stage:
        changed["candidates"] = {**given.candidates, stage.partition("@")[2]: {
            **given.candidates[stage.partition("@")[2]], "micro_batch_size": 64, "batch_size": 64}}
    return given.model_copy(update=changed)


def test_on_one_machine_more_processes_are_no_help_unless_each_has_a_gpu() -> None:
    one = Footprint("sft", 10 * GIGABYTE, 0, 0, 0.0)
    assert Room(11 * GIGABYTE, gpu=True).fits(one, 8)
    assert Room(11 * GIGABYTE, gpu=False).fits(one, 1)
    assert not Room(11 * GIGABYTE, gpu=False).fits(one, 2)


def test_what_runs_elsewhere_is_told_and_not_refused(sizes) -> None:
    there = StageCompute(processes=8, nodes=2, launcher="srun --nodes={nodes}")
    room = Room(GIGABYTE, gpu=False)
    found = require_room(params(), sizes["large"], lambda _: there, True, room)
    assert re.match(r"needs about [\d.]+ GB on each of 16 processes, wherever its launcher starts it, and .* an update",
                    described(found[-1], room, there))


def test_this_machine_has_some_memory() -> None:
    assert room_here().bytes > GIGABYTE
