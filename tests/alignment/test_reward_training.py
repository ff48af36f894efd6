"""Reward-model training: the Bradley-Terry loss to the last digit that matters, ties, dropped pairs, and that it
learns."""

import itertools
import math
import weakref
from collections import Counter
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.alignment import reward_training, tokenized
from plumbline.alignment.reward import LEAST_TO_CENTRE, RewardModel
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, stop_token
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Comparison, Origin, Ranking, prompt_json
from tasks.reward_model import train_on
from testing.tiny_models import NOWHERE, PROMPTS, Steps, ppo_params, prefers_red, reward_params, silent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reward(taught_folder):
    return RewardModel.from_policy(taught_folder, max_length=64, seed=0)


def train(reward, comparisons, held=(), **params):
    return reward_training.train_reward_model(reward, comparisons, held, reward_params(**params), 0, silent, NOWHERE)


def encoded(reward, rows):
    return tokenized.encode(reward.tokenizer, rows, reward.max_length, NOWHERE)


@pytest.mark.parametrize("difference", [-1e4, -100.0, -89.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 89.0, 100.0, 1e4])
@pytest.mark.parametrize("wins", [1.0, 0.0, 0.5])
def test_the_loss_is_finite_and_exact_for_any_difference(difference, wins):
    d = torch.tensor([difference], requires_grad=True)
    loss = reward_training.bradley_terry(d, torch.tensor([wins]))
    loss.sum().backward()

    def minus_log_sigmoid(x):
        return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))

    expected = wins * minus_log_sigmoid(difference) + (1 - wins) * minus_log_sigmoid(-difference)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    slope = 1 / (1 + math.exp(-max(min(difference, 700), -700))) - wins
    assert float(d.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@given(difference=st.floats(-50, 50), wins=st.sampled_from([0.0, 0.5, 1.0]))
def test_swapping_the_sides_does_not_change_the_loss(difference, wins):
    one, other = (reward_training.bradley_terry(torch.tensor([d]), torch.tensor([w]))
                  for d, w in ((difference, wins), (-difference, 1 - wins)))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_it_learns_a_separable_preference_on_pairs_it_has_not_seen(reward):
    metrics = train(reward, prefers_red(), prefers_red(60, seed=1), epochs=2)
    assert metrics["validation_accuracy"] >= 0.95 and metrics["validation_loss"] < 0.3
    assert reward.score([(PROMPTS[0], "red blue")]) > reward.score([(PROMPTS[0], "blue green")])


def test_labels_mean_what_they_say(reward):
    """Trained on the opposite labels, it prefers the opposite."""
    flipped = [Comparison(c.prompt, c.responses[::-1], c.label, c.origin) for c in prefers_red()]
    assert train(reward, flipped, prefers_red(60, seed=1), epochs=2)["validation_accuracy"] <= 0.05


def test_the_last_step_has_hardly_any_rate_left_and_one_epoch_is_one_pass(reward):
    with Steps() as steps:
        metrics = train(reward, prefers_red(80), epochs=1, batch_size=8, warmup=0.0)
    assert len(steps.rates) == metrics["steps"] == 10
    assert steps.rates == pytest.approx([3e-3 * (10 - i) / 10 for i in range(10)])


def test_sources_to_pretrain_on_are_learnt_first_and_the_others_last_and_validated_on(reward):
    """The forum likes the opposite: whoever is learnt last is right."""
    forum = [Comparison(c.prompt, c.responses[::-1], c.label, Origin("forum")) for c in prefers_red(160, seed=2)]
    mixed = [row for pair in zip(forum, prefers_red(160), strict=True) for row in pair]
    held = [*forum[:40], *prefers_red(60, seed=1)]
    with Steps() as steps:
        metrics = train(reward, mixed, held, pretrain_on=["forum", "nowhere"], pretrain_epochs=0.5, epochs=2,
                        warmup=0.0)
    assert (metrics["pretraining_pairs"], metrics["pairs"], metrics["steps"]) == (160, 160, 10 + 40)
    assert steps.rates == pytest.approx([3e-3 * (n - i) / n for n in (10, 40) for i in range(n)])
    assert metrics["validation_accuracy"] >= 0.95
    assert reward.score([(PROMPTS[0], "red blue")]) > reward.score([(PROMPTS[0], "blue green")])


@pytest.mark.parametrize(("sources", "words"), [
    (["forum"], r"No comparison or ranking to learn from comes from reward_model\.pretrain_on = forum"),
    (["forum", "test"], r"All comparisons and rankings to learn from come from .* = forum, test"),
])
def test_a_lesson_without_rows_is_refused(reward, sources, words):
    rows = prefers_red(8)
    if "test" in sources:
        rows += [Comparison(row.prompt, row.responses, row.label, Origin("forum")) for row in rows]
    with pytest.raises(UserError, match=words):
        train(reward, rows, pretrain_on=sources)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_the_split_into_micro_batches_changes_neither_gradient_nor_metrics(taught_folder, micro_batch_size):
    data = [*prefers_red(6), *prefers_red(2, seed=4, label="tie")]
    found = []
    for size in (8, micro_batch_size):
        reward, reports = RewardModel.from_policy(taught_folder, 64, 0), []
        with Steps() as steps:
            reward_training.train_reward_model(reward, data, data, reward_params(micro_batch_size=size), 0,
                                               lambda step, total, metrics, what="", to=reports: to.append(metrics),
                                               NOWHERE)
        found.append((steps.gradients[0], reports[0]))
    (whole, metrics), (split, split_metrics) = found
    assert whole.norm() > 0.01 and torch.allclose(whole, split, atol=1e-5)
    assert split_metrics == pytest.approx(metrics, rel=1e-4)


def test_the_gradient_is_that_of_the_mean_over_comparisons(taught_folder):
    data, reports, reward = prefers_red(6), [], RewardModel.from_policy(taught_folder, 64, 0)
    model = deepcopy(reward.model).double()
    reward_training.train_reward_model(reward, data, [], reward_params(micro_batch_size=2), 0,
                                       lambda step, total, metrics, what="": reports.append(metrics), NOWHERE)

    def score(prompt, response):
        hidden = model.base_model(torch.tensor([reward.encode(prompt, response)])).last_hidden_state[0, -1]
        return hidden @ model.score.weight[0]

    margins = torch.stack([score(c.prompt, c.chosen) - score(c.prompt, c.rejected) for c in data])
    loss = (1 + (-margins).exp()).log().mean()
    gradient = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    accuracy = float((margins > 0).double().mean())
    expected = {"loss": float(loss.detach()), "accuracy": accuracy, "grad_norm": float(norm)}
    assert reports[0] == pytest.approx(expected, rel=1e-4)


def test_pairs_that_do_not_fit_or_are_the_same_are_dropped_and_counted_by_name(taught_folder):
    """Nothing is cut: a stop token after half of an answer would teach that an answer may end there."""
    reward = RewardModel.from_policy(taught_folder, 40, 0)
    long = [Comparison(PROMPTS[0], ("red green " * 30, "red"), "A", Origin("test"))] * 3
    same = [Comparison(PROMPTS[0], ("red", "red"), "A", Origin("test"))] * 2
    metrics = train(reward, [*prefers_red(8), *long, *same], max_length=40)
    assert (metrics["pairs"], metrics["dropped_too_long"], metrics["dropped_identical"]) == (8, 3, 2)
    with pytest.raises(UserError, match=r"of 3 a side is longer than reward_model\.max_length = 40 tokens, and 2 have"):
        train(reward, [*long, *same], max_length=40)


def test_what_just_fits_is_learnt_from_with_its_stop_token(taught_folder):
    reward = RewardModel.from_policy(taught_folder, 40, 0)
    base = len(reward.whole(PROMPTS[0], ""))
    fits, not_quite = (" red" * (40 - base + more) for more in (0, 1))
    assert [len(reward.whole(PROMPTS[0], text)) for text in (fits, not_quite)] == [40, 41]
    found = encoded(reward, [Comparison(PROMPTS[0], (text, "red"), "A", Origin("test"))
                                            for text in (fits, not_quite)])
    assert (len(found.elements), found.too_long, found.identical) == (1, 1, 0)
    assert all(row[-1] == stop_token(reward.tokenizer) for row in found.elements[0].rows)


def test_a_response_that_does_not_fit_leaves_its_ranking(taught_folder):
    reward = RewardModel.from_policy(taught_folder, 40, 0)
    ranking = Ranking(PROMPTS[0], ("red", "red green " * 30, "blue", "black", "red"), (2, 1, 3, 3, 5), Origin("test"))
    found = encoded(reward, [ranking])
    element, = found.elements
    assert found.pairs == 5 and (found.too_long, found.identical) == (4, 1)
    words = {place: decode_response(reward.tokenizer, row).split()[-1] for place, row in enumerate(element.rows)}
    judged = {(words[pair.first], words[pair.second]): pair.first_wins for pair in element.pairs}
    assert judged == {("red", "blue"): 1, ("red", "black"): 1, ("blue", "black"): 0.5, ("blue", "red"): 1,
                      ("black", "red"): 1}


RANKED = [Ranking(PROMPTS[1], ("red", "blue", "green red", "black"), (3, 1, 2, 4), Origin("test")),
          Ranking(PROMPTS[2], ("red blue", "blue", "black"), (1, 2, 2), Origin("test")),
          Ranking(PROMPTS[3], ("green", "blue red"), (2, 1), Origin("test"))]
"""Four in order, three of which two are a tie, and a ranking of two."""


def scores_in_float64(model, reward, prompt, responses):
    """The head on the body's last hidden state, one unpadded row at a time, with its graph."""
    return [model.base_model(torch.tensor([reward.whole(prompt, response)])).last_hidden_state[0, -1]
            @ model.score.weight[0] for response in responses]


def minus_log_sigmoid(x):
    return (1 + (-x).exp()).log()


def mean_over_pairs(scores, ranks, margin=0.0, smoothing=0.0):
    """InstructGPT's equation 1 for one ranking, as a loop."""
    losses = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        ahead = scores[better] - scores[worse]
        if ranks[i] == ranks[j]:
            losses.append(0.5 * minus_log_sigmoid(ahead) + 0.5 * minus_log_sigmoid(-ahead))
        else:
            losses.append((1 - smoothing) * minus_log_sigmoid(ahead - margin)
                          + smoothing * minus_log_sigmoid(-(ahead - margin)))
    return sum(losses) / len(losses)


def choices_in_order(scores, ranks):
    """-log of the probability of the whole order, a choice at a time, by the definition; a mean over the choices."""
    left = sorted(range(len(scores)), key=lambda i: ranks[i])
    total = 0.0
    while len(left) > 1:
        total = total - (scores[left[0]].exp() / sum(scores[i].exp() for i in left)).log()
        left = left[1:]
    return total / (len(scores) - 1)


def step_on(reward, rows, **params):
    """What the first step of training reports."""
    reports = []
    reward_training.train_reward_model(reward, rows, [], reward_params(**params), 0,
                                       lambda step, total, metrics, what="": reports.append(metrics), NOWHERE)
    return reports[0]


@pytest.mark.parametrize(("ranking_loss", "micro_batch_size"), [("pairs", 8), ("pairs", 1), ("plackett_luce", 2)])
def test_a_ranking_is_one_element_of_a_batch_with_the_weight_of_a_comparison(taught_folder, ranking_loss,
                                                                             micro_batch_size):
    reward, pairs = RewardModel.from_policy(taught_folder, 64, 0), prefers_red(3)
    model = deepcopy(reward.model).double()
    losses = []
    for row in RANKED:
        scores = scores_in_float64(model, reward, row.prompt, row.responses)
        in_order = ranking_loss == "plackett_luce" and len(set(row.ranks)) == len(scores)
        losses.append(choices_in_order(scores, row.ranks) if in_order else mean_over_pairs(scores, row.ranks))
    losses += [mean_over_pairs(scores_in_float64(model, reward, c.prompt, (c.chosen, c.rejected)), (1, 2))
               for c in pairs]
    loss = sum(losses) / 6
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()),
                                                               materialize_grads=True)]).norm()
    found = step_on(reward, [*RANKED, *pairs], ranking_loss=ranking_loss, micro_batch_size=micro_batch_size)
    assert found["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert found["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_a_margin_grows_with_the_strength_and_a_smoothed_label_may_be_wrong(taught_folder):
    reward = RewardModel.from_policy(taught_folder, 64, 0)
    model = deepcopy(reward.model).double()
    strengths = [3, 1, 2, 2, None, 7]
    rows = [Comparison(c.prompt, c.responses, c.label, Origin("graded"), None if strength is None else float(strength))
            for c, strength in zip(prefers_red(6), strengths, strict=True)]
    rows[5] = Comparison(rows[5].prompt, rows[5].responses, rows[5].label, Origin("another scale"), 7.0)
    weaker = [3 / 4, 0, 1 / 4, 1 / 4, 0, 0]  # of the four strengths that the first source gives
    losses = [mean_over_pairs(scores_in_float64(model, reward, c.prompt, (c.chosen, c.rejected)), (1, 2),
                              margin=2.5 * share, smoothing=0.1) for c, share in zip(rows, weaker, strict=True)]
    losses.append(mean_over_pairs(scores_in_float64(model, reward, PROMPTS[0], ("red", "blue")), (1, 1)))
    tie = Comparison(PROMPTS[0], ("red", "blue"), "tie", Origin("another scale"), 9.0)
    found = step_on(reward, [*rows, tie], margin_scale=2.5, label_smoothing=0.1)
    assert found["loss"] == pytest.approx(float(sum(losses).detach()) / 7, rel=1e-5)


def test_validation_measures_the_same_loss_whatever_is_trained(taught_folder):
    found = []
    for changed in ({}, {"margin_scale": 2.0, "label_smoothing": 0.2, "ranking_loss": "plackett_luce"}):
        reward = RewardModel.from_policy(taught_folder, 64, 0)
        graded = [Comparison(c.prompt, c.responses, c.label, c.origin, float(i)) for i, c in enumerate(prefers_red(6))]
        elements = encoded(reward, [*RANKED, *graded]).elements
        found.append(reward_training.evaluate(reward, elements, reward_params(**changed)))
    assert found[0] == found[1]


def test_a_ranking_is_never_split_and_counts_by_its_responses(reward):
    elements = encoded(reward, [*RANKED, *prefers_red(4)]).elements
    parts = list(tokenized.micro_batches(elements, 2))
    assert [one for part in parts for one in part] == list(elements)
    assert [sum(len(one.rows) for one in part) for part in parts] == [4, 3, 4, 4, 2]


def test_ties_pull_the_scores_together_and_do_not_count_for_accuracy(reward):
    ties = prefers_red(80, label="tie")
    params = reward_params(epochs=2)
    pairs = encoded(reward, ties).elements
    found = reward_training.evaluate(reward, pairs, params)
    assert list(found) == ["loss"], "no comparison here is right or wrong"
    before = found["loss"]
    train(reward, ties, epochs=2)
    after = reward_training.evaluate(reward, pairs, params)["loss"]
    assert before > math.log(2) + 1e-3 > after >= math.log(2) - 1e-6
    mixed = [*prefers_red(20, seed=5), *ties]
    alone = reward_training.evaluate(reward, encoded(reward, mixed[:20]).elements, params)
    both = reward_training.evaluate(reward, encoded(reward, mixed).elements, params)
    assert both["accuracy"] == alone["accuracy"]


def test_equal_scores_are_half_right(reward):
    with torch.no_grad():
        reward.model.score.weight.zero_()
    found = reward_training.evaluate(reward, encoded(reward, prefers_red(10)).elements, reward_params())
    assert found == pytest.approx({"loss": math.log(2), "accuracy": 0.5})


def test_loss_and_accuracy_are_over_examples_not_over_batches(reward):
    """Seven examples in batches of three: a mean over batches would weigh the last one threefold."""
    data = prefers_red(7, seed=3)
    elements = encoded(reward, data).elements
    found = reward_training.evaluate(reward, elements, reward_params(micro_batch_size=3))
    margins = [(1 if c.label == "A" else -1) * (a - b) for c, (a, b) in
               ((c, reward.score([(c.prompt, c.responses[0]), (c.prompt, c.responses[1])])) for c in data)]
    expected = {"loss": sum(math.log1p(math.exp(-m)) for m in margins) / 7,
                "accuracy": sum(m > 0 for m in margins) / 7}
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_pair_is_used_once_before_any_is_used_again(reward, monkeypatch):
    used = []
    accumulate = reward_training.accumulate_gradient

    def note(reward, batch, params):
        used.extend(batch)
        return accumulate(reward, batch, params)

    monkeypatch.setattr(reward_training, "accumulate_gradient", note)
    data = [Comparison(PROMPTS[0], (f"red {a} {b}", "blue"), "A", Origin("test"))
            for a, b in itertools.product("abcd", "efghij")]
    assert train(reward, data, batch_size=5, epochs=2)["steps"] == 10
    assert len(used) == 48 and len({tuple(element.rows[0]) for element in used[:24]}) == 24
    assert sorted(element.rows[0] for element in used[:24]) == sorted(element.rows[0] for element in used[24:])


def test_whoever_is_left_over_is_alone_about_equally_often():
    """17 elements in batches of 16: the longest would be a step of its own in every epoch."""
    lengths, generator, alone = np.arange(17, dtype=np.int32), torch.Generator().manual_seed(0), Counter()
    epochs = 1700
    for _ in range(epochs):
        batches = list(tokenized.shuffled_batches(lengths, 16, generator))
        assert sorted(itertools.chain(*batches)) == list(range(17))
        small, full = sorted(batches, key=len)
        assert (len(small), len(full)) == (1, 16) and full == sorted(full), "of similar length within the batch"
        alone.update(small)
    deviation = (epochs / 17 * 16 / 17) ** 0.5
    assert all(abs(alone[number] - epochs / 17) < 4 * deviation for number in range(17))


def test_full_batches_are_of_similar_length():
    lengths = np.random.default_rng(1).integers(10, 500, 3 * tokenized.STRETCH * 4 + 7, np.int32)
    batches = list(tokenized.shuffled_batches(lengths, 4, torch.Generator().manual_seed(0)))
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert sorted(map(len, batches)) == [3, *[4] * (3 * tokenized.STRETCH + 1)]
    spread = [lengths[batch].max() - lengths[batch].min() for batch in batches]
    assert np.median(spread) < 2 * 490 / tokenized.STRETCH, "of 8 batches each has an eighth of the lengths"


def test_a_validation_split_of_ties_has_no_accuracy_and_ends_no_training(reward):
    metrics = reward_training.train_reward_model(reward, prefers_red(16), prefers_red(4, label="tie"), reward_params(),
                                                 0, silent, NOWHERE)
    assert "validation_accuracy" not in metrics and metrics["validation_loss"] > 0


def test_a_batch_of_ties_reports_no_accuracy(reward):
    reports = []
    reward_training.train_reward_model(reward, prefers_red(8, label="tie"), [], reward_params(), 0,
                                       lambda step, total, metrics: reports.append(metrics), NOWHERE)
    assert reports and all(set(metrics) == {"loss", "grad_norm"} for metrics in reports)


def test_a_reward_model_that_diverges_stops_and_is_not_kept(reward, tmp_path):
    with torch.no_grad():
        reward.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"At step 1 of .*reward_model\.learning_rate"):
        train(reward, prefers_red(8))
    with pytest.raises(UserError, match="8 of 8 scores are infinite or not a number"):
        reward.score([(PROMPTS[0], f"red {i}") for i in range(8)])
    with pytest.raises(UserError, match="not kept"):
        reward.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_with_top_layers_the_layers_below_stay_those_of_sft(taught_folder, tmp_path):
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    before = deepcopy(reward.model.state_dict())
    rows = [Comparison(PROMPTS[i % 5], ("red", "blue"), "A", Origin("test")) for i in range(16)]
    found = reward_training.train_reward_model(reward, rows, rows, reward_params(top_layers=1), 0, silent, tmp_path)
    changed = {name for name, weight in reward.model.state_dict().items()
               if not torch.equal(weight, before[name])}
    assert changed and all("layers.1." in name or name in ("score.weight", "model.norm.weight") for name in changed)
    assert "score.weight" in changed and found["validation_accuracy"] == 1
    with pytest.raises(UserError, match=r"reward_model\.top_layers = 2 leaves no layer frozen"):
        reward_training.train_reward_model(reward, rows, rows, reward_params(top_layers=2), 0, silent, tmp_path)


def test_it_is_centred_on_answers_that_sft_gave_before(reward, taught_lm):
    answers = reward_training.answers_to_centre_on(taught_lm, PROMPTS, ppo_params(), 64, seed=0)
    found = reward_training.centre(reward, answers)
    assert 8 <= found["centering_finished"] == len(answers) <= 64
    assert sum(reward.score_ids(answers)) / len(answers) == pytest.approx(0, abs=1e-5)
    assert (found["offset"], found["std"]) == (reward.model.config.reward_offset, reward.std)


@pytest.fixture
def stage(taught_folder, tmp_path):
    """What the stage `reward_model` is given, up to its training."""
    (tmp_path / "models/sft").mkdir(parents=True)
    (tmp_path / "models/sft/model").symlink_to(taught_folder)
    (tmp_path / "data/prepared/prompts").mkdir(parents=True)
    (tmp_path / "data/prepared/prompts/train.jsonl").write_text(
        jsonl({"prompt": prompt_json(asked)} for asked in PROMPTS))

    def run(**changed):
        settings = {"ppo.max_prompt": 40, "ppo.max_response": 8, "reward_model.centering_samples": 32, **changed}
        params = load_params(ROOT, None, [f"{key}={value}" for key, value in settings.items()])
        train_on(SimpleNamespace(root=tmp_path, params=params), "train", 0)

    return run


def test_too_few_answers_of_sft_are_known_before_the_reward_model_is_even_loaded(stage, monkeypatch):
    monkeypatch.setattr(RewardModel, "from_policy", None)
    with pytest.raises(UserError, match="at least 8 of them; found 0"):
        stage(**{"ppo.max_response": 1, "ppo.temperature": 0.01})
    with pytest.raises(UserError, match=r"None of the 5 prompts fits ppo\.max_prompt = 3 tokens"):
        stage(**{"ppo.max_prompt": 3})


def test_sft_has_answered_and_is_let_go_before_the_reward_model_is_loaded(stage, monkeypatch):
    class Seen(Exception):
        """That far the stage has come."""

    load, loaded = LanguageModel.load, []

    def noted(folder):
        lm = load(folder)
        loaded.append(weakref.ref(lm.model))
        return lm

    def from_policy(folder, max_length, seed):
        assert len(loaded) == 1 and loaded[0]() is None
        raise Seen

    monkeypatch.setattr(LanguageModel, "load", noted)
    monkeypatch.setattr(RewardModel, "from_policy", from_policy)
    with pytest.raises(Seen):
        stage()


def test_parameters_ask_for_as_many_samples_as_answers_are_needed_to_centre():
    load_params(ROOT, None, [f"reward_model.centering_samples={LEAST_TO_CENTRE}"])
    with pytest.raises(UserError, match=rf"`reward_model\.centering_samples` is {LEAST_TO_CENTRE - 1}, but must be"):
        load_params(ROOT, None, [f"reward_model.centering_samples={LEAST_TO_CENTRE - 1}"])
