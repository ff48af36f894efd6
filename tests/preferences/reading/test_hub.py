"""Hub data sets come through `load_dataset`; without a hub the error is quick and says what to do."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumbline.errors import UserError
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.reading.hub import find
from plumbline.preferences.reading.results import Unread
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


@pytest.fixture
def two_configurations(tmp_path, monkeypatch):
    """A data set with two configurations, of which one has a split of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "summaries"
    for name, rows in (("comparisons/train", HH[:3]), ("comparisons/validation", HH[3:]), ("axis/train", HH[:2]),
                       ("axis/test", HH[:1])):
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    configure(folder, "")
    return folder


def configure(folder, default, renamed="axis"):
    lines = [f"- config_name: {renamed if name == 'axis' else name}\n  data_files:\n"
             + "".join(f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in splits)
             + ("  default: true\n" if name == default else "")
             for name, splits in (("comparisons", ("train", "validation")), ("axis", ("train", "test")))]
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(lines) + "---\n")


@pytest.mark.parametrize(("named", "count"), [
    (":comparisons", 3), (":axis", 2), (":comparisons:validation", 1), (":axis:test", 1), (":axis:train[:1]", 1),
    (":axis:train[0:2]", 2)])
def test_a_configuration_is_named_with_or_without_its_split(two_configurations, named, count):
    assert len(list(find(f"hub:{two_configurations}{named}").read())) == count


@pytest.mark.parametrize("named", ["", ":test"])
def test_a_data_set_with_several_configurations_lists_them(two_configurations, named):
    with pytest.raises(UserError, match="none is the default: comparisons, axis") as caught:
        find(f"hub:{two_configurations}{named}")
    assert str(caught.value).endswith(f":comparisons{named}.")


def test_the_default_configuration_needs_no_name(two_configurations):
    configure(two_configurations, "axis")
    assert len(list(find(f"hub:{two_configurations}").read())) == 2
    assert len(list(find(f"hub:{two_configurations}:test").read())) == 1
    assert len(list(find(f"hub:{two_configurations}:comparisons").read())) == 3


def test_a_name_of_a_configuration_and_of_a_split_must_be_said_in_full(two_configurations):
    configure(two_configurations, "comparisons", renamed="validation")
    with pytest.raises(UserError, match=r"Name both: hub:.*:validation:SPLIT, or hub:.*:comparisons:validation"):
        find(f"hub:{two_configurations}:validation")
    assert len(list(find(f"hub:{two_configurations}:validation:test").read())) == 1


@pytest.mark.parametrize("named", [":nowhere:train", ":comparisons:nowhere", ":nowhere"])
def test_a_configuration_or_a_split_that_is_not_there_is_answered_with_those_that_are(two_configurations, named):
    configure(two_configurations, "comparisons")
    with pytest.raises(UserError, match=r"comparisons|train"):
        find(f"hub:{two_configurations}{named}")


@pytest.mark.parametrize("source", ["hub:a:b:c:d", "hub:", "hub:a:", "hub:a::train"])
def test_a_source_that_names_too_much_or_nothing_says_what_is_expected(source):
    with pytest.raises(UserError, match="hub:NAME:CONFIG:SPLIT"):
        find(source)


def test_configurations_and_splits_of_one_commit_are_different_content(monkeypatch):
    monkeypatch.setattr("plumbline.preferences.reading.hub._revision", lambda name, source: "0123abcd")
    assert len({find(f"hub:nobody/x{named}").revision for named in ("", ":test", ":a:test", ":b:test")}) == 4


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
