"""Short trainings of tiny models, each made anew from seeds, as every process of a run makes them."""

from plumbline.alignment.sft import train_sft
from plumbline.lm.base import LanguageModel
from testing.tiny_models import demonstrations, sft_params, small_model, small_tokenizer

EVERY = 2
"""Steps between checkpoints."""


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def language_model(**config):
    tokenizer = small_tokenizer()
    return LanguageModel(small_model(tokenizer, **config), tokenizer)


def sft(report, folder):
    """Batches of 5 rows, of which the last of an epoch has one: a rank of two has none then."""
    lm = language_model()
    params = sft_params(epochs=2, batch_size=5, micro_batch_size=2, max_length=24, checkpoint_every=EVERY)
    return train_sft(lm, demonstrations(42), demonstrations(7, seed=2), params, 0, report, folder), lm.model


TRAININGS = {"sft": sft}


def run(name, folder, killed_after=None):
    """Return what was reported, the metrics and the weights; the latter None if it is killed after a step."""
    reports = []

    def report(step, total, metrics=None, what=""):
        reports.append((what, step, metrics))
        if step == killed_after and not what:
            raise Killed

    try:
        metrics, model = TRAININGS[name](report, folder)
    except Killed:
        return reports, None, None
    return reports, metrics, {key: weight.clone() for key, weight in model.state_dict().items()}
