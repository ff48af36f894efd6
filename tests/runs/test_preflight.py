"""What is found out before anything is trained."""

import json
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.compute.footprint import KeptBytes, ModelSize
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.evaluation.judging.judges import QUESTION
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt
from plumbline.project.digests import combined, digests
from plumbline.project.dvc_yaml import read_stages, stage_params
from plumbline.project.home import Home
from plumbline.project.run_record import Outcome, RunRecord
from plumbline.project.watcher import Watcher
from plumbline.runs import preflight as preflight_
from plumbline.runs.pipeline import check_judges
from plumbline.runs.preflight import Examined, _within_context, preflight, require_base_unchanged
from plumbline.runs.workspace import Request, Workspace
from plumbline.tracking.receipts import Receipt
from testing.tiny_models import prompt, small_causal, small_gpt2, small_model

ROOT = Path(__file__).resolve().parents[2]


def check(root: Path, *settings: str) -> None:
    home = Home(root, root / ".plumbline")
    home.folder.mkdir(exist_ok=True)
    preflight(home, load_params(ROOT, None, settings))


def test_the_default_passes_in_a_moment_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    check(tmp_path)
    assert time.monotonic() - started < 10  # no model is loaded for it
    assert list(tmp_path.rglob("*")) == [tmp_path / ".plumbline"]


def test_a_mistake_in_compute_yaml_is_found_before_anything_starts(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "compute.yaml").write_text("ingest: {processes: 2}\n")
    with pytest.raises(UserError, match=r"compute.yaml asks for 2 processes for `ingest`, which runs as one"):
        check(tmp_path)


def test_a_method_that_cannot_share_its_work_out_is_found_before_anything_starts(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "compute.yaml").write_text("candidate: {processes: 2}\n")
    check(tmp_path, "compare.ppo-top=ppo")
    with pytest.raises(UserError, match=r"trpo makes its step on all weights at once, .* here are 2"):
        check(tmp_path, "compare.trpo=ppo")


def test_an_arrival_that_was_not_pulled_is_found_whatever_the_sources_are(tmp_path: Path) -> None:
    batches = tmp_path / "data/batches"
    batches.mkdir(parents=True)
    (batches / "0123456789abcdef.dvc").write_text("outs: []\n")
    for sources in ("[simulated]", "[simulated, added]"):
        with pytest.raises(UserError, match=r"0123456789abcdef\. .* `plumbline pull` brings them"):
            check(tmp_path, f"snapshot.sources={sources}")


@pytest.mark.parametrize(("settings", "words"), [
    (["snapshot.sources=[here.jsonl]"], "here.jsonl does not exist"),
    (["base.context=100", "sft.max_length=101", "reward_model.max_length=100", "ppo.max_prompt=50",
      "ppo.max_response=50"], "at most 100 tokens, but sft.max_length is 101"),
    (["base.context=100", "sft.max_length=100", "reward_model.max_length=100", "ppo.max_prompt=50",
      "ppo.max_response=51"], "ppo.max_prompt + ppo.max_response is 101"),
    (["snapshot.sources=[simulated, 'hub:a/b']", "preference_eval.judges=[auto, gold]"],
     "preference_eval.judges is `gold`"),
    (["preference_eval.judges=[gold, second]"], "names `second`, a second reward model, but where all data is "
     "simulated none is trained: the gold reward judges there. Set preference_eval.judges=[auto]."),
    (["snapshot.sources=['hub:a/b']", "ingest.judge_fraction=0.0"], "names `auto`, a second reward model, but "
     "ingest.judge_fraction = 0 keeps no preference to train it on. Raise it, or name another judge"),
    (["snapshot.sources=['hub:a/b']", "ingest.judge_fraction=0.0", "preference_eval.judges=[reward, second]"],
     "names `second`, a second reward model, but ingest.judge_fraction = 0 keeps"),
    (["preference_eval.judges=['nowhere.rules:no_lists']"], "no module `nowhere`"),
    (["base.context=100", "sft.max_length=100", "reward_model.max_length=100", "ppo.max_prompt=50",
      "ppo.max_response=50", "preference_eval.max_response=51"],
     "ppo.max_prompt + preference_eval.max_response is 101"),
    (["reward_model.max_length=127"], "reward_model.max_length is 127, so the reward model learns nothing about longer "
     "conversations, but ppo.max_prompt + ppo.max_response is 128"),
    (["ppo.max_response=64", "reward_model.max_length=120"],
     "but ppo.max_prompt + preference_eval.max_response is 128. Raise reward_model.max_length"),
    (["preference_eval.max_response=71"], "preference_eval.max_response is 71, but ppo.max_response is 72"),
    (["candidates.long={method: ppo, max_response: 90}", "compare.long=ppo"],
     "candidates.long, max_prompt + max_response is 146"),
    (["direct.max_length=129", "compare.dpo=direct"], "at most 128 tokens, but candidates.dpo.max_length is 129"),
    (["candidates.rejection.max_length=129", "compare.rejection=sft"], "but candidates.rejection.max_length is 129"),
    (["base.context=200", "sft.max_length=150", "compare.rejection=sft"],
     "longer conversations, but candidates.rejection.max_length is 150"),
    (["candidates.rejection.max_response=80", "compare.rejection=sft"],
     "but candidates.rejection.max_response is 80: answers that training lets finish would count as cut"),
    (["candidates.long={method: rloo, answers_per_prompt: 4, max_prompt: 40, max_response: 80}", "compare.long=ppo"],
     "preference_eval.max_response is 72, but candidates.long.max_response is 80"),
    (["candidates.rejection.max_length=72", "compare.rejection=sft"],
     "candidates.rejection.max_response = 72 leaves no room for a prompt within candidates.rejection.max_length = 72"),
    (["ppo.batch_size=10", "ppo.answers_per_prompt=4"], "ppo.batch_size = 10 responses cannot be divided into groups"),
    (["candidates.fast={method: a2c, epochs: 3}", "compare.fast=ppo"], "but candidates.fast.epochs is 3"),
    (["ppo.trainable=top", "ppo.critic=shared"], "reward_model.top_layers = null changes some of them. Set it to 2"),
    (["ppo.trainable=top", "ppo.top_layers=4"], "ppo.top_layers = 4 leaves no layer frozen: the base model has 4"),
    (["reward_model.top_layers=99"], "reward_model.top_layers = 99 leaves no layer frozen: the base model has 4"),
    (["candidates.ppo-top.top_layers=9", "compare.ppo-top=ppo"],
     "candidates.ppo-top.top_layers = 9 leaves no layer frozen: the base model has 4"),
    (["ppo.engine=vllm"], "wants the address of a vLLM server in the environment variable PLUMBLINE_VLLM_URL"),
    (["preference_eval.judges=['https://host/v1']"], "names no model: expected https://host/v1#MODEL"),
    (["preference_eval.judges=['https://host/v1#m']", "preference_eval.judge_limit=8"],
     "preference_eval.judge_limit = 8 requests are too few"),
    (["preference_eval.engine=vllm"], "engine: vllm wants the address of a vLLM server"),
    (["candidates.rejection.engine=vllm", "compare.rejection=sft"], "engine: vllm wants the address of a vLLM server"),
    (["base.source=missing/model.gguf"], "missing/model.gguf"),
    (["ppo.rewards={'nowhere.rules:no_lists': 1.0}"], "The reward nowhere.rules:no_lists cannot be imported"),
    (["ppo.rewards={reward: 1.0, 'json:no_lists': 1.0}"], "has no function `no_lists`, which ppo.rewards names"),
    (["candidates.other={method: ppo, rewards: {./nowhere: 1.0}}", "compare.other=ppo"], "nowhere, which does not"),
])
def test_what_cannot_work_is_named(tmp_path: Path, settings: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check(tmp_path, *settings)
    assert words in str(caught.value)


def prepared(root: Path, simulated: bool, *settings: str, until: str | None = None) -> Workspace:
    """A run whose data is prepared, without a preference for a second reward model."""
    data, home = root / "data/prepared", Home(root, root / ".plumbline")
    (data / "preferences").mkdir(parents=True, exist_ok=True)
    (data / "preferences/judge.jsonl").write_text("")
    batch = {"digest": "0" * 64, "source": "some", "rows": 1, "kinds": {}, "quarantined": 0, "simulated": simulated}
    (data / "manifest.json").write_text(json.dumps({"digest": "0" * 64, "batches": [batch]}))
    record = RunRecord(id="20260101-000000-aaaaaa", created="", project="", pid=1, host="", until=until,
                       stages={"ingest": Outcome(status="ran", seconds=1.0, reason="")})
    return Workspace(home, root, load_params(ROOT, None, settings), record, {})


def test_a_judge_for_whom_no_preference_was_kept_is_missed_before_anything_is_trained(tmp_path: Path) -> None:
    def judges(simulated: bool, names: str, until: str | None = None) -> None:
        check_judges(prepared(tmp_path, simulated, f"preference_eval.judges=[{names}]", until=until))

    for simulated, names, named in ((False, "reward, auto", "auto"), (False, "second", "second"),
                                    (True, "auto, second", "second")):
        with pytest.raises(UserError, match=rf"names `{named}`, a second .*no preference .*ingest\.judge_fraction"):
            judges(simulated, names)
        judges(simulated, names, until="ingest")
    judges(False, "'rules:polite', reward")
    judges(True, "auto, reward")
    workspace = prepared(tmp_path, False)
    kept = tmp_path / "data/prepared/preferences/judge.jsonl"
    kept.write_text("{}\n")
    check_judges(workspace)
    kept.unlink()  # of a version that kept none
    check_judges(workspace)


def test_the_key_of_one_endpoint_is_not_for_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judges = "preference_eval.judges=['https://one/v1#m', 'https://two/v1#m']"
    check(tmp_path, judges)
    monkeypatch.setenv("PLUMBLINE_JUDGE_API_KEY", "secret")
    with pytest.raises(UserError, match=r"on 2 hosts \(one, two\)") as caught:
        check(tmp_path, judges)
    assert "secret" not in str(caught.value)


def test_each_process_of_a_stage_that_lets_a_server_sample_needs_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_VLLM_URL", "http://127.0.0.1:8000")
    check(tmp_path, "ppo.engine=vllm")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "compute.yaml").write_text("ppo: {processes: 2}\n")
    check(tmp_path, "preference_eval.engine=vllm")
    with pytest.raises(UserError, match="one for each of 2 ranks"):
        check(tmp_path, "ppo.engine=vllm")


def test_a_source_in_the_home_folder_of_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here.jsonl").touch()
    check(tmp_path, "snapshot.sources=[~/here.jsonl]", "preference_eval.judges=[reward]")
    (tmp_path / "here.jsonl").rename(tmp_path / "here.jsonl.dvc")
    with pytest.raises(UserError, match="`dvc pull` fetches the data"):
        check(tmp_path, "snapshot.sources=[~/here.jsonl]", "preference_eval.judges=[reward]")


def test_a_local_model_is_asked_once(tmp_path: Path, random_lm) -> None:
    random_lm.save(tmp_path / "model")
    context = random_lm.model.config.max_position_embeddings
    settings = ["base.source=model", f"sft.max_length={context}", f"reward_model.max_length={context}",
                f"ppo.max_prompt={context // 2}", f"ppo.max_response={context // 2}",
                f"preference_eval.max_response={context // 2}"]
    check(tmp_path, *settings)
    kept, = (tmp_path / ".plumbline/examined").iterdir()
    asked = kept.stat().st_mtime_ns
    check(tmp_path, *settings)
    assert kept.stat().st_mtime_ns == asked
    kept.write_text('{"context"')  # half of it, as after a power loss
    check(tmp_path, *settings)
    whole = json.loads(kept.read_text())
    assert whole["context"] == context
    older = {name: value for name, value in whole["size"].items() if name != "width"}
    kept.write_text(json.dumps(whole | {"size": older}))  # as code that did not ask for the width has left it
    check(tmp_path, *settings)
    assert json.loads(kept.read_text()) == whole
    with pytest.raises(UserError, match=f"at most {context} tokens"):
        check(tmp_path, *settings, f"sft.max_length={context + 1}")


@pytest.fixture
def base_read(tmp_path: Path) -> Home:
    """A project with a local base model, which stage `base` of a run read a minute ago."""
    home = Home(tmp_path, tmp_path / ".plumbline")
    (tmp_path / "dvc.yaml").write_text("stages: {base: {cmd: python code.py, deps: [code.py], params: [seed, base], "
                                       "outs: [models/base/model, models/base/receipt.json]}}\n")
    (tmp_path / "code.py").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    made_from(home, "20260101-000000-aaaaaa", datetime.now(UTC) - timedelta(minutes=1))
    return home


def made_from(home: Home, run: str, started: datetime) -> None:
    """Leave what stage `base` of a run leaves."""
    (home.runs / run / "models/base").mkdir(parents=True)
    (home.runs / run / "run.json").touch()
    used = stage_params(load_params(ROOT, None, ["base.source=model"]), read_stages(home.root)["base"])
    receipt = Receipt(
        stage="base", version="1", mlflow_run="m", pipeline_run=run, git_commit=None, git_dirty=None, inputs={},
        outputs={}, code=combined(digests(home.root, ["code.py"])), params=used, seed=0,
        started=started.isoformat(timespec="seconds"), seconds=1.0, host={})
    (home.runs / run / "models/base/receipt.json").write_text(receipt.model_dump_json())


def would_start(home: Home, *settings: str, **request: object) -> None:
    params = load_params(ROOT, None, ["base.source=model", *settings])
    require_base_unchanged(home, params, Request.model_validate(request))


def test_a_local_base_model_that_changed_is_not_used_as_it_was(base_read: Home) -> None:
    with pytest.raises(UserError, match=r"base model model has changed since 20.* Raise base.version, or run once "):
        would_start(base_read)
    would_start(base_read, "base.version='2'")
    would_start(base_read, "base.source=other/model")
    would_start(base_read, force=["base"])
    would_start(base_read, retry_of="20260101-000000-aaaaaa")
    made_from(base_read, "20260102-000000-bbbbbb", datetime.now(UTC))  # with --force
    would_start(base_read)
    future = time.time() + 60
    os.utime(base_read.root / "model/config.json", (future, future))
    with pytest.raises(UserError, match="has changed since"):
        would_start(base_read)
    (base_read.root / "code.py").write_text("pass")  # so the stage runs again
    would_start(base_read)


def test_a_base_model_with_an_old_date_that_was_moved_there_has_changed(base_read: Home) -> None:
    (base_read.root / "model/config.json").unlink()
    (base_read.root / "model").rmdir()
    (base_read.root / "model").write_text("one file")
    os.utime(base_read.root / "model", (0, 0))
    with pytest.raises(UserError, match="has changed since"):
        would_start(base_read)


def test_a_damaged_receipt_of_another_run_stops_no_run(base_read: Home) -> None:
    (base_read.runs / "20260101-000000-aaaaaa/models/base/receipt.json").write_text("")
    would_start(base_read)


def test_top_layers_of_a_model_that_cannot_be_split_are_refused_before_the_run(tmp_path: Path, tokenizer) -> None:
    LanguageModel(small_gpt2(tokenizer), tokenizer).save(tmp_path / "model")
    settings = ["base.source=model", "sft.max_length=128", "reward_model.max_length=128", "ppo.max_prompt=56",
                "ppo.critic=separate"]
    check(tmp_path, *settings)
    for setting, named in (("ppo.trainable=top", "ppo.top_layers: 2"),
                           ("reward_model.top_layers=1", "reward_model.top_layers: 1")):
        with pytest.raises(UserError, match=f"{named} cannot be done with .* model. The architecture gpt2 cannot"):
            check(tmp_path, *settings, setting)


def test_a_base_model_that_no_reward_model_can_be_made_of_is_refused_before_the_run(tmp_path: Path, tokenizer) -> None:
    LanguageModel(small_causal("granite", tokenizer), tokenizer).save(tmp_path / "model")
    with pytest.raises(UserError, match="AutoModelForSequenceClassification") as caught:
        check(tmp_path, "base.source=model")
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_rewards_is_found_before_the_run(tmp_path: Path, random_lm) -> None:
    random_lm.save(tmp_path / "model")
    with pytest.raises(UserError, match="sequence classifier with one output; found the type llama with 2"):
        check(tmp_path, "ppo.rewards={reward: 1.0, model: 0.5}")


def test_what_a_model_needs_is_told_and_one_too_large_is_refused_before_the_run(
        tmp_path: Path, random_lm, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(Watcher, "planned", lambda _, stage, said: told.append((stage, said)))
    lengths = ["sft.max_length=128", "reward_model.max_length=128"]
    random_lm.save(tmp_path / "small")
    check(tmp_path, "base.source=small", *lengths)
    assert [stage for stage, _ in told] == ["sft", "reward_model", "ppo"]
    assert all(re.search(r"needs about 0\.\d GB, of .* GB of .*, and \S+ TFLOP", said) for _, said in told)
    told.clear()
    (tmp_path / "here.jsonl").touch()  # people's own: a second reward model judges
    check(tmp_path, "base.source=small", *lengths, "snapshot.sources=[here.jsonl]")
    assert [stage for stage, _ in told] == ["sft", "reward_model", "judge", "ppo"]

    shutil.copytree(tmp_path / "small", tmp_path / "large")
    (tmp_path / "large/model.safetensors").unlink()  # a model is measured by its configuration
    config = json.loads((tmp_path / "small/config.json").read_text()) | {
        "hidden_size": 1024, "intermediate_size": 20_000_000, "num_attention_heads": 8, "num_key_value_heads": 8,
        "head_dim": 128}
    (tmp_path / "large/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"Stage `sft` needs about \d{4}\.\d GB, .* which is too much"):
        check(tmp_path, "base.source=large", *lengths)


def test_another_reward_model_too_large_is_refused_before_the_run(tmp_path: Path, random_lm) -> None:
    random_lm.save(tmp_path / "small")
    shutil.copytree(tmp_path / "small", tmp_path / "reward")
    (tmp_path / "reward/model.safetensors").unlink()
    (tmp_path / "reward/members/2").mkdir(parents=True)
    config = json.loads((tmp_path / "small/config.json").read_text()) | {
        "architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "id2label": {"0": "reward"},
        "label2id": {"reward": 0}, "intermediate_size": 100_000_000}
    (tmp_path / "reward/config.json").write_text(json.dumps(config))
    home, width, layers = Home(tmp_path, tmp_path / ".plumbline"), config["hidden_size"], config["num_hidden_layers"]
    settings = ["base.source=small", "sft.max_length=128", "reward_model.max_length=128"]
    check(tmp_path, *settings)
    with pytest.raises(UserError, match=r"Stage `ppo` needs about \d{3,}\.\d GB, .* GB for frozen copies"):
        check(tmp_path, *settings, "ppo.rewards={reward: 1.0, reward/: 0.5}")
    first, second = preflight_._examined(home, "reward", "reward/").weights or [0, 1]
    assert first == second == pytest.approx(layers * 3 * width * 100_000_000, rel=0.01)


@pytest.mark.parametrize(("disks", "wanted"), [
    ([1, 1], "48.0 GB"),  # six models of 4 GB in the workspace, and in the cache
    ([1, 2], "24.0 GB")])
def test_the_models_of_a_run_need_room_on_the_disks_of_workspace_and_cache(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disks: list[int], wanted: str) -> None:
    home = Home(tmp_path / "checkout", tmp_path / "home")
    home.runs.mkdir(parents=True)
    home.cache.mkdir(parents=True)
    device = {home.runs: disks[0], home.cache: disks[1]}
    free = {home.runs: 10**12, home.cache: 10**12}
    monkeypatch.setattr(preflight_, "_disk_of", device.__getitem__)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[folder]))
    kept = KeptBytes(0, 0, 0)
    size = ModelSize(10**9, 0, 0, 1, 1, 1, kept, kept, 0, 0, 0)
    params = load_params(ROOT, None, ["base.source=org/model"])
    preflight_._disk(home, params, size)
    for place in (home.runs, home.cache):
        free[place] = 23 * 10**9
        with pytest.raises(UserError, match=rf"The disk of {place} has 23.0 GB free; .* at least {wanted} there"):
            preflight_._disk(home, params, size)
        free[place] = 10**12
    free[home.cache] = 2 * 10**9
    preflight_._disk(home, load_params(ROOT), None)
    free[home.cache] = 10**8
    with pytest.raises(UserError, match=r"has 0.1 GB free; .* at least 1.0 GB there"):
        preflight_._disk(home, load_params(ROOT), None)


def test_a_model_without_a_limit_has_no_context_to_exceed() -> None:
    params = load_params(ROOT, None, ["sft.max_length=100000"])
    _within_context(params, None)
    with pytest.raises(UserError, match="100000"):
        _within_context(params, 2048)


def test_a_judge_that_cannot_judge_is_found_before_the_run(tmp_path: Path, random_lm) -> None:
    random_lm.save(tmp_path / "judge")
    (tmp_path / "judge/chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"The model judge cannot be used\. The model has no chat template"):
        check(tmp_path, "preference_eval.judges=[judge]")


def test_a_judge_that_cannot_read_two_answers_is_found_before_the_run(
        tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 4 tokens with two answers of 8, and the question, whose tokens are counted by its own tokenizer."""
    question = len(encode_prompt(tokenizer, prompt(QUESTION.format(request="", first="", second=""))))
    context = question + 19
    LanguageModel(small_model(tokenizer, max_position_embeddings=context), tokenizer).save(tmp_path / "judge")
    settings = ["ppo.max_response=8", "preference_eval.max_response=8", "preference_eval.judges=[judge]"]
    check(tmp_path, *settings, "ppo.max_prompt=3")
    words = f"The judge judge .* at most {context} tokens, but .* is {context + 1}"
    with pytest.raises(UserError, match=words):
        check(tmp_path, *settings, "ppo.max_prompt=4")
    (kept,) = (tmp_path / ".plumbline/examined").iterdir()
    older = {name: value for name, value in json.loads(kept.read_text()).items() if name != "question"}
    kept.write_text(json.dumps(older | {"context": None}))  # as code that asked no judge for its context has left it
    monkeypatch.setattr("plumbline.runs.preflight._examine", lambda *_: Examined(context, None, None, question, None))
    with pytest.raises(UserError, match=words):
        check(tmp_path, *settings, "ppo.max_prompt=4")
