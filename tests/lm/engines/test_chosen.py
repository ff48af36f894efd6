"""Which models an engine samples for, beside the one that it was made for."""

import pytest

from plumbline.lm.base import LanguageModel
from plumbline.lm.engines.chosen import engine_also_for
from plumbline.lm.engines.own import OwnEngine
from testing.tiny_models import small_model


class Server(OwnEngine):
    """Stands for an engine that samples elsewhere."""


@pytest.mark.parametrize(("changed", "served"), [
    ({"seed": 3}, True), ({"tie_word_embeddings": True}, True), ({"hidden_size": 48}, False),
    ({"rope_theta": 5e5}, False), ({"rms_norm_eps": 1e-3}, False)])
def test_a_server_samples_for_models_of_its_own_architecture_alone(tokenizer, changed, served):
    """Weights of the same shapes may belong to other rotary frequencies, which the server would not know of."""
    engine, made_for = Server(2), LanguageModel(small_model(tokenizer), tokenizer)
    found = engine_also_for(LanguageModel(small_model(tokenizer, **changed), tokenizer), engine, made_for)
    assert (found is engine) is served
    assert isinstance(found, OwnEngine)
