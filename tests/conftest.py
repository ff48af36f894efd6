"""Tiny language models, made once a session."""

import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

from plumbline.alignment.sft import train_sft
from plumbline.lm.base import LanguageModel
from testing.homes import empty_store, home, recording_home
from testing.remotes import s3
from testing.stored_runs import here, there
from testing.tiny_models import copy_of, demonstrations, sft_params, silent, small_model, small_tokenizer

__all__ = ["empty_store", "here", "home", "recording_home", "s3", "there"]

# Where the tests are started in the background SIGINT is ignored, and every process that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A machine that is busy with other tests is no reason to fail one.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow,
                                                                HealthCheck.function_scoped_fixture])
settings.load_profile("busy")
torch.set_num_threads(1)  # a second thread only costs on models of this size, a lot of it where the cores are busy


@pytest.fixture(scope="session")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="session")
def random_lm(tokenizer):
    """Untrained; do not change its weights."""
    return LanguageModel(small_model(tokenizer), tokenizer)


@pytest.fixture(scope="session")
def taught_lm(random_lm):
    """Fine-tuned to answer anything with one to three colors; do not change its weights."""
    lm = copy_of(random_lm)
    train_sft(lm, demonstrations(), [], sft_params(epochs=8), seed=0, report=silent)
    return lm


@pytest.fixture(scope="session")
def taught_folder(taught_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    copy_of(taught_lm).save(folder)
    return folder
