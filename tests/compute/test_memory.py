"""What a run needs, against what its models really take, and what is said where it does not fit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

from plumbline.compute.footprint import OVERHEAD, Footprint, footprints
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


def need(size: object, stage: str, *settings: str, ranks: int = 1, judge: bool = True,
         outside: dict[str, list[int]] | None = None) -> Footprint:
    found = footprints(params(*settings), size, lambda _: ranks, judge, outside)
    return next(one for one in found if one.stage == stage)


def test_states_and_copies_of_ppo_add_up(sizes) -> None:
    weights = 134_515_008  # SmolLM2-135M, as its card says
    found = need(sizes["small"], "ppo", "ppo.precision=fp32")
    assert found.states == (16 + 12) * weights  # policy, critic: one of them with a gradient
    assert found.copies == 4 * 4 * weights  # reference, best so far, reward model, judge
    assert need(sizes["small"], "ppo", judge=False).copies == 3 * 4 * weights
    assert need(sizes["small"], "ppo", "ppo.trainable=lora", "ppo.critic=shared").states == 4 * weights


def test_all_is_shared_out_but_what_samples(sizes) -> None:
    one, eight = (need(sizes["large"], "ppo", "ppo.precision=bf16", ranks=ranks) for ranks in (1, 8))
    sampling = 2 * 8_030_261_248
    assert eight.states == pytest.approx(one.states / 8)
    assert eight.copies == pytest.approx((one.copies - sampling) / 8 + sampling)
    assert eight.flops == one.flops


def held(one: Footprint) -> int:
    """What a process holds at its fullest moment, without Python and torch themselves."""
    return one.bytes - OVERHEAD


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_whole_models_that_are_loaded_one_after_the_other_are_less_than_what_learns_later(
    ranks: int, precision: str, sizes
) -> None:
    """On several processes, each of which takes a model apart before it loads the next one."""
    weights, size = 8_030_261_248, sizes["large"]  # as Llama 3 8B's card says
    small = f"ppo.precision={precision}", "ppo.micro_batch_size=1", "ppo.max_prompt=16", "ppo.max_response=16"
    found = need(size, "ppo", *small, ranks=ranks)
    assert held(found) > 4 * weights + 2 * 4 * weights / ranks, "SFT's parts, its reference, whole and in parts"
    scoring = 2 * {"bf16": 2, "fp32": 4}[precision] * size.body / ranks
    assert held(found) > 2 * 4 * weights / ranks + scoring + 4 * size.body * (1 + 1 / ranks), "the value model"
    bf16 = precision == "bf16"
    assert held(found) > 4 * weights + 2 * 4 * weights / ranks + (0 if bf16 else 4 * weights / ranks), "at the end"


def test_with_top_layers_the_value_model_is_loaded_beside_a_whole_sft(sizes) -> None:
    size = sizes["large"]
    settings = "ppo.precision=fp32", "ppo.trainable=top", "ppo.micro_batch_size=1", "ppo.max_prompt=16", \
        "ppo.max_response=16", "ppo.batch_size=64"
    whole, body = 4 * size.weights, 4 * size.body
    # SFT but for the layers that learn, and their reference; the value model; parts of both, reward model, judge.
    found = need(size, "ppo", *settings, "ppo.critic=separate", ranks=64)
    assert held(found) == pytest.approx(whole + body + (whole + body + 2 * body) / 64)


def test_ppo_of_an_8b_model_fits_eight_cards_of_80_gb(sizes) -> None:
    settings = "ppo.precision=bf16", "ppo.batch_size=64", "ppo.micro_batch_size=1", "ppo.max_prompt=256"
    card = Room(80 * GIGABYTE, gpu=True)
    assert card.fits(need(sizes["large"], "ppo", *settings, ranks=8), 8)
    four = StageCompute(processes=4)
    with pytest.raises(UserError, match=r"Stage `ppo` needs about 111\.5 GB on each of 4 processes") as caught:
        require_room(only(params(*settings), "ppo"), sizes["large"], lambda _: four, True, card)
    assert str(caught.value).endswith("8 processes in compute.yaml, each with a GPU like this.")


def test_at_its_end_a_training_on_several_processes_has_the_whole_model_again(sizes) -> None:
    large, weights = sizes["large"], 8_030_261_248
    body, heads = weights - 128256 * 4096, 2 * 128256 * 4096
    few = "sft.micro_batch_size=1", "sft.max_length=32", "direct.micro_batch_size=1", "direct.max_length=32", \
        "reward_model.micro_batch_size=1", "reward_model.max_length=32"
    # The optimizer's moments are still there; gradients are not.
    assert held(need(large, "sft", *few, ranks=8)) == pytest.approx(4 * weights + 12 * weights / 8)
    assert held(need(large, "reward_model", *few, ranks=2)) == pytest.approx(4 * body + 12 * body / 2)
    # A direct method has let its optimizer go.
    dpo = need(large, "candidate@dpo", *few, "compare.dpo=direct", ranks=8)
    assert held(dpo) == pytest.approx(4 * weights + 4 * weights / 8)
    # ILQL has its heads and their targets, too, which are whole all along; their mean; and the layer made of it.
    ilql = need(large, "candidate@ilql", *few, *ILQL, ranks=8)
    assert held(ilql) == pytest.approx(4 * (weights + 2 * heads) * (1 + 1 / 8) + 4 * heads)
    alone = need(large, "sft", *few)
    assert held(alone) < 16 * weights + GIGABYTE, "one process has no other model to fill"


def test_before_a_reward_model_is_there_the_whole_sft_policy_answers(sizes) -> None:
    settings = ("reward_model.micro_batch_size=1", "reward_model.max_length=32", "reward_model.batch_size=64",
                "reward_model.top_layers=2", "ppo.max_prompt=500", "ppo.max_response=300")
    large, small = sizes["large"], sizes["small"]
    shared = need(large, "reward_model", *settings, ranks=64)
    assert held(shared) == 4 * large.weights + 800 * large.cache_per_token  # 1 of 64 answers
    alone = need(small, "reward_model", *settings)
    assert held(alone) == 4 * small.weights + 64 * 800 * small.cache_per_token
    few = need(small, "reward_model", *settings, "reward_model.centering_samples=30")
    assert held(few) == 4 * small.weights + 30 * 800 * small.cache_per_token
    all_layers = need(small, "reward_model", *settings, "reward_model.top_layers=null", "ppo.max_response=30")
    assert held(all_layers) > 16 * small.body, "by then SFT is gone"


def test_what_would_not_help_against_sfts_answers_is_not_offered(sizes) -> None:
    room, many = Room(36 * GIGABYTE, gpu=True), StageCompute(processes=64)
    with pytest.raises(UserError, match="Stage `reward_model` needs about 38") as caught:
        require_room(only(params("ppo.max_response=20000"), "reward_model"), sizes["large"], lambda _: many, True, room)
    assert str(caught.value).endswith("Take a smaller model.")


def test_on_several_processes_frozen_layers_stay_whole_beside_their_parts(sizes) -> None:
    small = sizes["small"]
    frozen = 4 * (small.body - small.top(2))
    one, four = (need(small, "reward_model", "reward_model.top_layers=2", ranks=ranks) for ranks in (1, 4))
    assert (one.copies, four.copies, four.states) == (0, frozen, one.states // 4)
    separate, shared = (need(small, "ppo", "ppo.trainable=top", "ppo.top_layers=2", f"ppo.critic={critic}", ranks=4)
                        for critic in ("separate", "shared"))
    assert shared.copies - separate.copies == frozen
    # Of the layers that learn there are the reference, what they were at first, and the best so far.
    top = need(small, "ppo", "ppo.trainable=top", "ppo.top_layers=2", "ppo.precision=fp32", "ppo.batch_size=64",
               "ppo.max_prompt=56", "ppo.max_response=72")
    trunk = 4 * 64 * 128 * 576
    assert top.copies == 3 * 4 * small.top(2) + 2 * 4 * small.body + trunk


def test_what_a_trunk_makes_of_a_batch_is_kept_on_one_process(sizes) -> None:
    settings = "ppo.trainable=top", "ppo.micro_batch_size=1", "ppo.max_prompt=56", "ppo.max_response=72"
    few, many = (need(sizes["small"], "ppo", *settings, f"ppo.batch_size={rows}") for rows in (64, 256))
    assert many.copies - few.copies == 4 * (256 - 64) * 128 * 576
    few, many = (need(sizes["small"], "ppo", *settings, f"ppo.batch_size={rows}", ranks=2) for rows in (64, 256))
    assert many.copies == few.copies, "several read the trunk anew"


def test_the_judge_is_trained_as_the_reward_model_is_on_processes_of_its_own(sizes) -> None:
    small, ranks = sizes["small"], {"sft": 1, "reward_model": 1, "judge": 4, "ppo": 1}
    first, judge = (one for one in footprints(params(), small, ranks.__getitem__, judge=True)
                    if one.stage in ("reward_model", "judge"))
    assert judge == replace(need(small, "reward_model", ranks=4), stage="judge") != replace(first, stage="judge")
    assert "judge" not in [one.stage for one in footprints(params(), small, ranks.__getitem__, judge=False)]


def test_what_would_make_the_judge_fit_is_said_in_the_reward_models_words(sizes) -> None:
    many = only(params("reward_model.micro_batch_size=64", "reward_model.batch_size=64"), "reward_model")
    whole = need(sizes["small"], "reward_model", "reward_model.micro_batch_size=64", "reward_model.batch_size=64")
    room = Room(whole.bytes - GIGABYTE // 10, gpu=True)
    with pytest.raises(UserError, match=r"Stage `judge` needs .* reward_model\.micro_batch_size=1; or .*2 processes"):
        require_room(many, sizes["small"],
                     lambda stage: StageCompute(processes=8 if stage == "reward_model" else 1), True, room)


@pytest.mark.parametrize(("stage", "settings", "work"), [
    ("sft", [], "a step"), ("judge", [], "a step"), ("ppo", [], "an update"),
    ("candidate@dpo", ["compare.dpo=direct"], "a step"), ("candidate@rejection", ["compare.rejection=sft"], "a step"),
    ("candidate@rloo", ["compare.rloo=ppo"], "an update")])
def test_work_is_told_of_a_step_or_of_an_update(stage: str, settings: list[str], work: str, sizes) -> None:
    said = described(need(sizes["small"], stage, *settings), Room(GIGABYTE, gpu=True), StageCompute())
    assert said.endswith(f" TFLOP {work}")


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
    assert shared.states == ilql.states // 4
    assert shared.copies == ilql.copies // 4 + ilql.copies  # targets do not learn, and stay whole, too


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


def test_an_ensembles_members_are_copies_beside_the_first(sizes) -> None:
    three, small, large = "reward_model.members=3", sizes["small"], sizes["large"]
    assert need(small, "ppo", three).copies - need(small, "ppo").copies == 2 * 4 * small.body
    assert need(large, "ppo", three, ranks=8).copies - need(large, "ppo", ranks=8).copies == 2 * (4 * large.body // 8)
    assert need(small, "ppo", three).flops > need(small, "ppo").flops
    for stage in ("reward_model", "judge"):
        assert need(small, stage, three) == need(small, stage), "one at a time"
    rejection = "compare.rejection=sft", "sft.max_length=128", "sft.micro_batch_size=1", "sft.precision=fp32"
    more = [need(large, "candidate@rejection", *rejection, *given, ranks=64).moment for given in ((three,), ())]
    assert more[0] - more[1] == 2 * 4 * large.body // 64


OTHERS = "{reward: 1.0, org/helpful: 0.5, ensemble: 0.5, 'module:function': 1.0}"
OUTSIDE = {"org/helpful": [8_000_000_000], "ensemble": [400, 160], "not/asked": [10**12]}


@pytest.mark.parametrize(("precision", "bytes_each"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize("ranks", [1, 8])
def test_other_reward_models_are_whole_on_each_process(precision: str, bytes_each: int, ranks: int, sizes) -> None:
    small, settings = sizes["small"], [f"ppo.rewards={OTHERS}", f"ppo.precision={precision}"]
    without, beside = (need(small, "ppo", *settings, ranks=ranks, outside=outside) for outside in (None, OUTSIDE))
    assert beside.copies - without.copies == bytes_each * (8_000_000_400 + 160 // ranks)
    more = 64 * small.flops(128) * 8_000_000_560 / small.weights
    assert beside.flops - without.flops == pytest.approx(more), "a pass of so many weights over each answer"
    assert need(small, "ppo", outside=OUTSIDE) == need(small, "ppo"), "which none asks for"


def test_other_reward_models_are_beside_a_rejection_sampling(sizes) -> None:
    large, settings = sizes["large"], ("compare.rejection=sft", "sft.max_length=128", "sft.micro_batch_size=1",
                                       "sft.precision=fp32")
    asked = *settings, f"candidates.rejection.rewards={OTHERS}"
    without, beside = (need(large, "candidate@rejection", *asked, ranks=64, outside=outside)
                       for outside in (None, OUTSIDE))
    assert beside.moment - without.moment == 4 * 8_000_000_400 + 4 * 160 // 64
    # A server holds the cache, but not that of the answers on which rewards are measured: 1 of 64.
    given = "candidates.rejection.engine=vllm"
    assert held(need(large, "candidate@rejection", *settings, given, ranks=64)) == 4 * (large.weights + large.body)
    measured = need(large, "candidate@rejection", *asked, given, ranks=64)
    assert held(measured) == 4 * (large.weights + large.body) + 128 * large.cache_per_token
    assert held(need(large, "candidate@rejection", *asked, given, ranks=64, outside=OUTSIDE)) == \
        4 * (large.weights + large.body + 8_000_000_400) + 4 * 160 // 64


def test_a_training_holds_no_cache_where_a_server_samples(sizes) -> None:
    settings = ("ppo.batch_size=64", "ppo.micro_batch_size=1", "ppo.precision=fp32", "ppo.max_prompt=500",
                "ppo.max_response=1500")
    own, served = (need(sizes["small"], "ppo", *settings, f"ppo.engine={engine}") for engine in ("own", "vllm"))
    learning = sizes["small"].kept(1, 2000, "fp32") + min(2**26, 1500 * 49152) * 4
    assert own.moment == 64 * 2000 * sizes["small"].cache_per_token > served.moment == learning
    assert own.copies == served.copies, "what is handed over to it"


def test_demonstrations_beside_the_responses_have_all_their_logits(sizes) -> None:
    small = sizes["small"]
    settings = ("ppo.batch_size=64", "ppo.micro_batch_size=8", "ppo.minibatches=1", "ppo.max_prompt=56",
                "ppo.max_response=72", "ppo.engine=vllm")
    without, beside = (need(small, "ppo", *settings, f"ppo.ptx_coef={weight}") for weight in (0, 0.5))
    kept = small.kept(8, 128, "fp32")
    assert without.moment == kept + min(2**26, 8 * 72 * 49152) * 4
    assert beside.moment == kept + 8 * 128 * 49152 * 3 * 4
    nlpo = "compare.nlpo=ppo", "candidates.nlpo.ptx_coef=0.5", *settings[:-1]
    assert need(small, "candidate@nlpo", *nlpo).moment == 64 * 72 * 49152 + kept + 8 * 128 * 49152 * 3 * 4


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
