"""Which models an engine samples for, beside the one that it was made for."""

import pytest

from plumbline.lm.base import LanguageModel
from plumbline.lm.engines import weights
from plumbline.lm.engines.chosen import engine_also_for, engine_for
from plumbline.lm.engines.own import OwnEngine
from testing.tiny_models import silent, small_model


class Server(OwnEngine):
    """Stands for an engine that samples elsewhere."""


def test_runs_that_hand_weights_over_in_one_place_do_not_meet_there(taught_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_VLLM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PLUMBLINE_VLLM_WEIGHTS", str(tmp_path / "memory"))

    def folder(scratch):
        return engine_for(taught_lm, "vllm", "fp32", tmp_path / scratch, silent).folder

    assert folder("one/ppo") != folder("two/ppo")
    assert folder("one/ppo") == folder("one/ppo"), "what a killed run left is deleted by its retry"
    assert folder("one/ppo").parent == tmp_path / "memory"
    folder("two/ppo").mkdir()
    folder("one/ppo")
    assert folder("two/ppo").is_dir(), "whose process goes on"
    left = folder("two/ppo")
    weights._held.pop(left).close()  # as the end of its process does
    folder("three/ppo")
    assert not list(left.parent.glob(f"{left.name}*"))


@pytest.mark.parametrize(("changed", "served"), [
    ({"seed": 3}, True), ({"tie_word_embeddings": True}, True), ({"hidden_size": 48}, False),
    ({"rope_theta": 5e5}, False), ({"rms_norm_eps": 1e-3}, False)])
def test_a_server_samples_for_models_of_its_own_architecture_alone(tokenizer, changed, served):
    """Weights of the same shapes may belong to other rotary frequencies, which the server would not know of."""
    engine, made_for = Server(2), LanguageModel(small_model(tokenizer), tokenizer)
    found = engine_also_for(LanguageModel(small_model(tokenizer, **changed), tokenizer), engine, made_for)
    assert (found is engine) is served
    assert isinstance(found, OwnEngine)
