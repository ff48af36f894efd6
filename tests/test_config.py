"""Parameters: what ships can be loaded, what is wrong is named."""

import math
import re
from pathlib import Path

import pytest

from plumbline.config import Params, candidate_params, check_params, keys, load_params, registered_name
from plumbline.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("file", sorted((ROOT / "params").glob("*.yaml")), ids=lambda file: file.name)
def test_every_parameter_file_that_ships_can_be_loaded(file: Path) -> None:
    assert load_params(ROOT, file) != load_params(ROOT), "the file changes nothing"


def test_a_model_of_ones_own_gets_no_value_of_the_small_world_that_depends_on_its_size() -> None:
    """The file of README's example names neither data nor judges, and is one for every model."""
    small, own = load_params(ROOT), load_params(ROOT, ROOT / "params/own_model.yaml")
    known = load_params(ROOT, ROOT / "params/smollm2_hh.yaml")
    assert (own.snapshot, own.ingest, own.base) == (small.snapshot, small.ingest, small.base)
    assert own.preference_eval.judges == small.preference_eval.judges
    for block in ("sft", "reward_model", "ppo", "direct"):
        values, hh, world = (getattr(of, block).model_dump() for of in (own, known, small))
        sized = [key for key in values if "learning_rate" in key or key in (
            "max_length", "max_prompt", "max_response", "precision", "batch_size", "micro_batch_size")]
        assert {key: values[key] for key in sized} == {key: hh[key] for key in sized}
        assert values["learning_rate"] < world["learning_rate"] / 10
    for file in ("README.md", "docs/base-models.md"):
        assert "plumbline run --params params/own_model.yaml" in (ROOT / file).read_text(encoding="utf-8")


def test_every_key_says_what_it_means() -> None:
    for block in Params.model_fields.values():
        fields = getattr(block.annotation, "model_fields", {})
        assert all(field.description for field in fields.values())


def test_settings_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("ppo: {kl_coef: 0.3, clip: 0.1}\n")
    params = load_params(ROOT, file, ["ppo.kl_coef=0.4", "ppo.kl_target=null", "snapshot.sources=[a.jsonl, b.jsonl]"])
    assert (params.ppo.kl_coef, params.ppo.clip, params.ppo.kl_target) == (0.4, 0.1, None)
    assert params.snapshot.sources == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(("setting", "words"), [
    ("ppo.kl_coeff=0.1", "closest that exists is `ppo.kl_coef`"),
    ("ppo.missing_stop_reward=-1", "It has become `ppo.missing_stop_deviations`"),
    ("pppo.clip=0.1", "closest that exists is `ppo`"),
    ("ppo=1", "is a block of parameters"),
    ("ppo.updates=many", "`ppo.updates` is 'many', but must be"),
    ("ppo.updates=0", "`ppo.updates` is 0, but must be greater than or equal to 1"),
    ("ppo.updates=1.5", "`ppo.updates` is 1.5"),
    ("ppo.learning_rate=.inf", "`ppo.learning_rate` is inf, but must be a finite number"),
    ("ppo.missing_stop_deviations=.nan", "`ppo.missing_stop_deviations` is nan, but must be a finite number"),
    ("ppo.rollout_correction=.inf", "`ppo.rollout_correction` is inf, but must be a finite number"),
    ("retrain.debounce_seconds=.inf", "`retrain.debounce_seconds` is inf, but must be less than or equal to 31536000"),
    ("retrain.debounce_seconds=1e14", "`retrain.debounce_seconds` is "),
    ("ppo.precision=fp8", "'fp32' or 'bf16'"),
    ("snapshot.sources=[]", "`snapshot.sources`"),
    ("base.heads=3", "`base.heads` is 3, but must be a number that divides base.hidden_size = 128 into even parts, "
                     "because rotary positions turn pairs of numbers; set base.hidden_size to 132, or base.heads to"),
    ("base.hidden_size=132", "`base.heads` is 4, but must be a number that divides base.hidden_size = 132 into even "
                             "parts, because rotary positions turn pairs of numbers; set base.hidden_size to 136"),
    ("base.hidden_size=1", "base.hidden_size = 1 into even parts"),
    ("base.context=1", "`base.context` is 1, but must be at least 2"),
    ("ppo.clip", "KEY=VALUE"),
    ("ppo.clip=[1", "not valid YAML"),
])
def test_a_wrong_setting_is_named(setting: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_params(ROOT, None, [setting])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("webhook", "said"), [
    ("hooks.slack.example/T0/SECRET", "`retrain.webhook` is a secret that is not shown, but must"),
    ("https://hooks.slack.example/SECRET x", "`retrain.webhook` is a secret that is not shown, but must"),
    ("['https://hooks.slack.example/SECRET']", "`retrain.webhook` is a secret that is not shown, but must"),
    ("[https://hooks.slack.example/SECRET]", "The value in --set retrain.webhook is not valid YAML")])
def test_a_webhook_that_cannot_be_used_is_not_shown(webhook: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_params(ROOT, None, [f"retrain.webhook={webhook}"])
    assert "SECRET" not in str(caught.value)


def test_no_number_of_a_block_is_infinite_or_none_at_all() -> None:
    values = {**load_params(ROOT).model_dump(), "candidates": {}}
    for block in Params.model_fields.keys() - {"seed", "candidates", "compare"}:
        for key in values[block]:
            for number in (math.inf, -math.inf, math.nan):
                with pytest.raises(UserError, match=key):
                    check_params({**values, block: {**values[block], key: number}}, "a file")


def test_what_pretraining_takes_is_asked_of_nothing_else() -> None:
    odd = "base.heads=3", "base.context=1"
    assert load_params(ROOT, None, ["base.source=org/model", *odd]).base.heads == 3
    for shape in (("base.hidden_size=132", "base.heads=3"), ("base.hidden_size=2", "base.heads=1")):
        load_params(ROOT, None, [*shape, "base.context=2"])


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_params(ROOT, tmp_path / "missing.yaml")
    for text, words in (("- a\n", "found list"), ("a: [", "cannot be read"), ("new: 1\n", "no parameter `new`")):
        file = tmp_path / "broken.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            load_params(ROOT, file)


def test_missing_and_unknown_keys_are_all_named() -> None:
    values = load_params(ROOT).model_dump()
    del values["seed"]
    values["sft"]["epoch"] = 1
    with pytest.raises(UserError, match="`seed` is missing") as caught:
        check_params(values, "a file")
    assert "there is no parameter `sft.epoch`. The closest that exists is `sft.epochs`" in str(caught.value)


def test_keys_are_dotted() -> None:
    assert {"seed", "ppo", "ppo.kl_coef"} <= set(keys())


def test_the_registered_name_is_read_beside_parameters_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("ppo: {something: gone}\npromote: {model_name: mine}\n")
    assert registered_name(tmp_path) == "mine"
    for text in ("{}\n", "promote: []\n", "promote: {model_name: 3}\n"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=r"promote\.model_name"):
            registered_name(tmp_path)


def test_a_candidate_takes_its_blocks_values_and_its_own() -> None:
    params = load_params(ROOT, None, ["direct.epochs=3.0", "candidates.mine={method: dpo, beta: 0.3, epochs: 2, "
                                      "label_smoothing: 0.0}"])
    mine, dpo = candidate_params(params, "mine"), candidate_params(params, "dpo")
    assert (mine.beta, mine.epochs, mine.batch_size) == (0.3, 2, params.direct.batch_size)
    assert (dpo.epochs, dpo.beta) == (3, params.candidates["dpo"]["beta"])
    assert candidate_params(load_params(ROOT, None, ["candidates.dpo.beta=0.7"]), "dpo").beta == 0.7


@pytest.mark.parametrize(("setting", "said"), [
    ("candidates.mine={method: dpo}", "candidates.mine.beta (dpo): it is missing"),
    ("candidates.mine={method: magic}", "candidates.mine.method is 'magic', but must be one of ppo, a2c"),
    ("candidates.ppo={method: ppo}", "candidates.ppo has the name of the pipeline's own policy, beside which a "
                                     "comparison sets it; give it another one, such as ppo-2"),
    ("candidates.dpo.beta=-1.0", "candidates.dpo.beta (dpo): -1.0 cannot be used"),
    ("candidates.dpo.betta=1.0", "candidates.dpo.betta (dpo): there is no such parameter"),
    ("compare.rlo=ppo", "compare.rlo is no candidate; `candidates` has a2c, rloo"),
    ("compare.dpo=ppo", "compare.dpo must be direct, found ppo"),
    ("candidates=3", "Set one of its keys, such as candidates.a2c"),
    ("compare=3", "Set one of its keys, such as compare.NAME")])
def test_a_candidate_that_cannot_be_made_is_named(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        load_params(ROOT, None, [setting])
