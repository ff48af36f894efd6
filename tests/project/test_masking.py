"""Secrets in parameters are kept and shown as what they are, not what they open."""

import json
import shutil
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.project.home import Home
from plumbline.project.masking import masked, masked_setting, masked_value
from plumbline.project.run_record import read_record
from plumbline.runs.pipeline import open_workspace, resolve
from plumbline.runs.workspace import Request
from testing.fake_project import CHECKOUT

HOOK = "https://hooks.slack.example/services/T000/B000/SECRETPATH"


@pytest.mark.parametrize(("text", "shown"), [
    ("s3://key:secret@bucket/prefix", "s3://***@bucket/prefix"),
    ("postgresql://plumbline:p%40ss@postgres/feedback", "postgresql://***@postgres/feedback"),
    ("https://token@host/x?api_key=abc&page=2&X-Amz-Signature=def#a",
     "https://***@host/x?api_key=***&page=2&X-Amz-Signature=***#a"),
    ("https://x.blob.example/c?sv=1&sig=abc%3D", "https://x.blob.example/c?sv=1&sig=***"),
    ("hub:Anthropic/hh-rlhf", "hub:Anthropic/hh-rlhf"), ("a@b.example", "a@b.example"), ("0.1", "0.1"),
    ("['one.jsonl', 'https://u:p@h/two.jsonl']", "['one.jsonl', 'https://***@h/two.jsonl']"),
    ("https://h/key=1", "https://h/key=1"), ("s3://bucket/a@b", "s3://bucket/a@b")])
def test_addresses(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_names_that_are_secrets() -> None:
    assert masked_value("retrain.webhook", HOOK) == "https://hooks.slack.example/***"
    assert masked_value("retrain.webhook", "https://u:p@h:8/x") == "https://h:8/***"
    assert masked_value("x.api_key", "abc") == masked_value("x.token", "abc") == "***"
    assert masked_value("retrain.webhook", "None") == "None"
    assert masked_value("sft.max_tokens", "12") == masked_value("base.tokenizer", "12") == "12"
    assert masked_setting(f"retrain.webhook={HOOK}") == "retrain.webhook=https://hooks.slack.example/***"
    assert masked_setting("snapshot.sources=[added]") == "snapshot.sources=[added]"


def test_a_whole_block_hides_its_secrets_as_single_values_do() -> None:
    shown = masked_setting(f"retrain={{webhook: '{HOOK}', cron: '0 3 * * *'}}")
    assert shown == 'retrain={"webhook": "https://hooks.slack.example/***", "cron": "0 3 * * *"}'
    assert masked_setting("snapshot={sources: ['https://u:p@h/x', added]}") \
        == 'snapshot={"sources": ["https://***@h/x", "added"]}'
    plain = "candidates.mine={method: ppo, kl_coef: 0.02}"
    assert masked_setting(plain) == plain
    for broken in ("x={not yaml", "x=[2026-99-99]"):
        assert masked_setting(broken) == broken
    assert masked_setting("ppo.kl_coef=0.1") == "ppo.kl_coef=0.1"


def test_a_run_keeps_no_secret_and_tells_whom_it_should(tmp_path: Path) -> None:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, tmp_path)
    home = Home(tmp_path, tmp_path / ".plumbline")
    request = Request(settings=[f"retrain.webhook={HOOK}", "snapshot.sources=['s3://k:SECRETPATH@b/x.jsonl']"])
    workspace = open_workspace(home, resolve(home, request), request)
    assert workspace.params.retrain.webhook == HOOK
    assert "SECRETPATH" not in (workspace.folder / "run.json").read_text()
    assert load_params(workspace.folder).retrain.webhook == "https://hooks.slack.example/***"
    # What a run before this one has written down is not shown either.
    record = json.loads((workspace.folder / "run.json").read_text())
    (workspace.folder / "run.json").write_text(json.dumps({**record, "settings": [f"retrain.webhook={HOOK}"]}))
    assert read_record(workspace.folder).settings == ["retrain.webhook=https://hooks.slack.example/***"]
