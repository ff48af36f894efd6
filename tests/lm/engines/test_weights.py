"""What a vLLM server is given to load, read back by transformers."""

import fcntl
import json
import socket

import pytest
import torch
from transformers import AutoModelForCausalLM

from plumbline.lm.engines import weights
from plumbline.lm.engines.weights import delete_left, hold, main, write_untied
from testing.tiny_models import small_causal, small_model

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_is_written_out_and_the_model_is_the_same(tokenizer, tmp_path, tied, dtype):
    model = small_model(tokenizer, tie_word_embeddings=tied)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    write_untied(model, tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert found.dtype == dtype
    assert found.lm_head.weight.data_ptr() != found.get_input_embeddings().weight.data_ptr()
    with torch.no_grad():
        assert torch.equal(found(IDS).logits, model(IDS).logits)
    assert model.config.tie_word_embeddings is tied, "the model itself stays as it is"


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma3_text", "mixtral"])
def test_other_architectures_are_the_same_too(tokenizer, tmp_path, kind):
    model = small_causal(kind, tokenizer)
    write_untied(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_what_ended_processes_of_this_machine_left_is_deleted_and_nothing_else(tmp_path, monkeypatch):
    here = socket.gethostname()

    def left(name, host=None, ended=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        if host:
            monkeypatch.setattr(socket, "gethostname", lambda: host)
            hold(tmp_path / name)
            if ended:
                weights._held.pop(tmp_path / name).close()
        return name

    left("weights-00000000-0", here)
    left("weights-00000000-12", here)
    kept = {left("weights-11111111-0", here, ended=False), left("weights-22222222-0", "another"),
            left("weights-33333333-0"), left("weights-of-mine", here)}
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    delete_left(tmp_path)
    assert {file.name for file in tmp_path.iterdir() if file.is_dir()} == kept
    assert not list(tmp_path.glob("weights-00000000-*"))
    hold(tmp_path / "weights-11111111-0")
    delete_left(tmp_path)
    assert (tmp_path / "weights-11111111-0").is_dir(), "held twice is held"
    weights._held.pop(tmp_path / "weights-11111111-0").close()
    hold(tmp_path / "weights-11111111-0")  # by its retry
    delete_left(tmp_path)
    assert (tmp_path / "weights-11111111-0").is_dir()


def test_a_lock_that_another_deletes_meanwhile_is_made_anew(tmp_path, monkeypatch):
    """As when two ranks come upon what a killed process left, or one while its retry begins."""
    folder, file, take = tmp_path / "weights-00000000-0", tmp_path / "weights-00000000-0.lock", fcntl.flock

    def deleted_before(lock, how):
        monkeypatch.setattr(fcntl, "flock", take)
        file.unlink()
        take(lock, how)

    monkeypatch.setattr(fcntl, "flock", deleted_before)
    hold(folder)
    assert file.read_text() == socket.gethostname()
    folder.mkdir()
    delete_left(tmp_path)
    assert folder.is_dir()

    def made_anew_before(lock, how):
        deleted_before(lock, how)
        file.write_text(socket.gethostname())

    monkeypatch.setattr(fcntl, "flock", made_anew_before)
    weights._held.pop(folder).close()
    delete_left(tmp_path)
    assert folder.is_dir() and file.exists(), "the lock of a process that has begun since"


def test_a_folder_to_start_a_server_from_has_a_tokenizer(taught_folder, tmp_path):
    main(str(taught_folder), str(tmp_path / "served"))
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "served").iterdir()}
