"""Hub data sets come through `load_dataset`; without a hub the error is quick and says what to do."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches import Unread
from plumbline.preferences.formats import Reading
from plumbline.preferences.hub import find
from plumbline.preferences.types import Demonstration, Message, Origin

datasets = pytest.importorskip("datasets")

ANSWERS = {"chosen": "Good.", "rejected": "Bad."}
HH = [{side: f"\n\nHuman: Question {i}\n\nAssistant: {answer}" for side, answer in ANSWERS.items()} for i in range(4)]


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A data set laid out as on the hub, in a folder, which `load_dataset` takes in place of a name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hh-rlhf"
    folder.mkdir()
    for split, rows in (("train", HH[:3]), ("test", HH[3:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_data_set_is_recognised_like_a_file(local_hub, snapshot):
    manifest, folder = snapshot(f"hub:{local_hub}", f"hub:{local_hub}:test")
    assert [batch.rows for batch in manifest.batches] == [3, 1]
    row = json.loads((folder / f"{manifest.batches[1].digest}.jsonl").read_text())
    assert row == {"kind": "comparison", "prompt": [{"role": "user", "content": "Question 3"}],
                   "responses": ["Good.", "Bad."], "label": "A", "source": "hh-rlhf"}


def test_a_data_set_is_read_as_it_is_asked_for_one_row_at_a_time(local_hub):
    reading = find(f"hub:{local_hub}", Reading(format="hh-chosen")).read()
    assert next(reading) == Demonstration((Message("user", "Question 0"),), "Good.", Origin("hh-rlhf"))
    assert [type(one) for one in reading] == [Demonstration, Demonstration, Unread]  # `rejected` is left alone


def test_a_split_that_is_not_there_is_named(local_hub, snapshot):
    with pytest.raises(UserError, match="hh-rlhf:nowhere cannot be loaded"):
        snapshot(f"hub:{local_hub}:nowhere")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://no-such-host.invalid"])
def test_without_a_hub_it_fails_at_once(snapshot, monkeypatch, endpoint):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    started = time.perf_counter()
    with pytest.raises(UserError, match=f"{endpoint} cannot be reached") as caught:
        snapshot("hub:Anthropic/hh-rlhf")
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("drops_the_line", [False, True])
def test_a_data_set_that_the_hub_does_not_give_is_named(snapshot, monkeypatch, drops_the_line):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            if not drops_the_line:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()

        def log_message(self, *args):
            pass

    from huggingface_hub import constants

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="does not give the data set 'nobody/nothing'"):
            snapshot("hub:nobody/nothing")
        server.shutdown()


def test_offline_without_a_copy_fails_at_once_too(snapshot, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    started = time.perf_counter()
    with pytest.raises(UserError, match="cannot be loaded"):
        snapshot("hub:Anthropic/hh-rlhf")
    assert time.perf_counter() - started < 10
