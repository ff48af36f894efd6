"""`plumbline data` as a user types it, in a project of its own with git and DVC."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.feedback.store import FeedbackStore
from plumbline.project.home import Home
from testing.in_process import command
from testing.verdict_makers import pair_number, say, verdict

ROOT = Path(__file__).parents[2]
PAIRS = [{"prompt": f"Question {n}", "chosen": f"Good answer {n}", "rejected": "Bad",
          "annotator": "ada" if n % 2 else "ben"} for n in range(30)]


def project_in(folder):
    folder.mkdir()
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("simulated_comparisons: 10000", "simulated_comparisons: 50")
                                        .replace("simulated_demonstrations: 10000", "simulated_demonstrations: 50"))
    for room in ("plumbline", "tasks"):
        (folder / room).symlink_to(ROOT / room)
    git(folder, "init", "-q")
    return folder


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path):
    folder = project_in(tmp_path / "project")
    lines = [json.dumps(pair) for pair in PAIRS]
    (folder / "given.jsonl").write_text("\n".join([*lines, "not json", '{"prompt": "x"}']) + "\n")
    return folder


def data(folder, *arguments, status=0):
    done = command(folder, "data", *arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def dvc(folder, *arguments):
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, text=True, capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_adding_says_what_was_not_read_and_what_was_rendered_for_a_model(project):
    rows = [{"prompt": f"[INST] Question {n} [/INST]", "chosen": "Good", "rejected": "Bad", "id": n, "mood": "x"}
            for n in range(3)]
    withheld = {"prompt": "Book a table.", "chosen": "When?", "rejected": "No.", "tools": [{"name": "book"}]}
    (project / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, withheld]))
    said = data(project, "add", "more.jsonl", "--dry-run")
    assert "Not read: mood (3)" in said
    assert "Left alone: id (3)" in said
    assert "the texts of 3 rows carry markers" in said
    assert "tools: the answer depends on tools" in said
    assert data(project, "add", "more.jsonl", "--leave", "tools", "--json")["arrival"]["batch"]["rows"] == 4


def test_adding_says_what_came_in_and_the_same_content_is_added_once(project):
    said = data(project, "add", "given.jsonl")
    assert "30 comparisons" in said
    assert "Set aside: 2" in said
    assert "given.jsonl:31" in said
    (project / "renamed.jsonl").write_bytes((project / "given.jsonl").read_bytes())
    assert "Nothing was added" in data(project, "add", "renamed.jsonl")
    assert len(data(project, "list", "--json")) == 1


def test_the_list_fits_a_terminal_of_80_columns(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    given = project / "preferences of the spring campaign [2].jsonl"
    (project / "given.jsonl").rename(given)
    batch = data(project, "add", given.name, "--json")["arrival"]["digest"]
    data(project, "remove", "--annotator", "ben", "--reason", "withdrew consent")
    head, *lines = data(project, "list").splitlines()
    assert head.split() == ["batch", "when", "what", "rows", "from"]
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith(batch[:16]) and "add" in lines[0] and "30 comparisons" in lines[0]
    told = " ".join(" ".join(lines).split())
    assert "campaign [2].jsonl" in told and "set aside: 2" in told
    assert "takes away:" in told and "why: withdrew consent" in told


def test_two_that_add_at_once_both_get_in_and_dvc_knows_both(project):
    for name in ("one", "two"):
        (project / f"{name}.jsonl").write_text(json.dumps({**PAIRS[0], "prompt": name}) + "\n")
    adding = [subprocess.Popen([sys.executable, "-m", "plumbline", "data", "add", f"{name}.jsonl"], cwd=project,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE) for name in ("one", "two", "two")]
    assert [(one.communicate()[1], one.returncode) for one in adding] == [("", 0)] * 3
    assert [one["batch"]["rows"] for one in data(project, "list", "--json")] == [1, 1]
    assert len(list((project / "data/batches").glob("*.dvc"))) == 2


def test_a_hub_data_set_is_read_in_the_format_that_is_asked_for(project, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hh").mkdir()
    dialogues = {side: f"\n\nHuman: Why?\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    (tmp_path / "hh/train.jsonl").write_text(json.dumps(dialogues) + "\n")
    asked = data(project, "add", f"hub:{tmp_path / 'hh'}", "--format", "hh-chosen", "--json")
    assert asked["arrival"]["batch"]["kinds"] == {"demonstration": 1}
    assert data(project, "add", f"hub:{tmp_path / 'hh'}", "--json")["arrival"]["batch"]["kinds"] == {"comparison": 1}


def test_a_dry_run_writes_nothing(project):
    assert "Would make a batch" in data(project, "add", "given.jsonl", "--dry-run")
    assert data(project, "list", "--json") == []
    assert not list((project / "data/batches").iterdir())


def test_removing_an_annotator_and_correcting_labels_show_in_the_next_version(project):
    batch = data(project, "add", "given.jsonl", "--json")["arrival"]["digest"]
    data(project, "remove", "--annotator", "ben", "--reason", "withdrew consent")
    flipped = [{**PAIRS[1], "chosen": PAIRS[1]["rejected"], "rejected": PAIRS[1]["chosen"]}]
    (project / "given2").mkdir()
    (project / "given2/given.jsonl").write_text(json.dumps(flipped[0]) + "\n")
    assert data(project, "supersede", "given2/given.jsonl", "--json")["arrival"]["removes"] == 1
    found = data(project, "diff", batch, "now", "--json")
    assert found["removed"]["by_annotator"] == {"ben": 15}
    assert found["relabelled"]["rows"] == 1
    assert found["relabelled"]["flip_rate"] == 1 / 15
    row = found["relabelled"]["examples"][0]["before"]["row"]
    place = data(project, "blame", row, "--json")
    assert place["removed"]
    assert place["batches"][0]["digest"] == batch


def test_a_correction_says_which_removed_rows_it_brings_back(project):
    data(project, "add", "given.jsonl")
    data(project, "remove", "--annotator", "ben")
    flipped = {**PAIRS[1], "chosen": PAIRS[1]["rejected"], "rejected": PAIRS[1]["chosen"]}
    (project / "given.jsonl").write_text(json.dumps(PAIRS[0]) + "\n" + json.dumps(flipped) + "\n")
    added = data(project, "add", "given.jsonl", "--dry-run")
    assert "Stay out: 1 rows" in added and "Come back" not in added and "The next run: 1 rows more" in added
    corrected = data(project, "supersede", "given.jsonl")
    assert "Come back: 1 rows that were removed or corrected before" in corrected and "Stay out" not in corrected
    assert "The next run: 2 rows more" in corrected
    assert data(project, "show", "now", "--json")["by_source"]["given"] == 16


def test_a_removal_takes_verdicts_that_wait_in_the_feedback_store_too(project):
    offered = pair_number(0)
    store = FeedbackStore.open(Home(project, project / ".plumbline"))
    store.add_pairs([offered])
    say(store, verdict(offered, "A", annotator="quentin"))
    store.close()
    assert "no such row" in data(project, "remove", "--annotator", "quentin", "--dry-run", status=2)
    assert data(project, "list", "--json") == []
    assert len(data(project, "remove", "--annotator", "quentin", "--json")["gone"]) == 1
    assert [one["action"] for one in data(project, "list", "--json")] == ["add", "remove"]


def test_what_is_exported_comes_in_again_as_the_same_rows(project):
    batch = data(project, "add", "given.jsonl", "--json")["arrival"]["digest"]
    for form in ("trl", "hh", "jsonl", "parquet"):
        data(project, "export", batch, f"out.{form}", "--format", form)
        again = data(project, "add", f"out.{form}", "--dry-run", "--json")
        assert (again["known"], again["new"]) == (30, 0), form


def test_batches_travel_by_git_and_a_dvc_remote(project, tmp_path):
    batch = data(project, "add", "given.jsonl", "--json")["arrival"]["digest"]
    dvc(project, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    git(project, "add", "-A", ":!plumbline", ":!tasks")
    git(project, "commit", "-qm", "a batch")
    dvc(project, "push")
    git(tmp_path, "clone", "-q", str(project), "other")
    other = tmp_path / "other"
    assert data(other, "list", "--json") == []
    assert "plumbline pull" in data(other, "remove", "--annotator", "ben", status=2)
    dvc(other, "pull", f"data/batches/{batch[:16]}.dvc")
    assert data(other, "list", "--json") == data(project, "list", "--json")
    assert data(other, "diff", batch, "now", "--json")["unchanged"] == 30


def test_while_a_removal_is_not_here_no_row_is_said_to_be_in_use_and_nothing_is_exported_as_of_now(project):
    batch = data(project, "add", "given.jsonl", "--json")["arrival"]["digest"]
    row = data(project, "show", batch, "--json")["examples"][0]["row"]
    removal = data(project, "remove", "--row", row, "--json")["arrival"]["digest"]
    folder = project / "data/batches" / removal[:16]
    assert "It was removed: no later run learns from it." in data(project, "blame", row)
    folder.rename(project / "elsewhere")  # `git pull` brought its .dvc file
    said = data(project, "blame", row)
    assert "It is in use, as far as can be told here." in said
    assert f"{folder.name}. `plumbline pull` brings them" in said
    assert data(project, "blame", row, "--json")["not_here"] == [folder.name]
    for asked in (["export", "now", "out.jsonl"], ["show", "now"], ["supersede", "given.jsonl"]):
        assert f"{folder.name}. They may take away rows" in data(project, *asked, status=2)
    assert not (project / "out.jsonl").exists()


@pytest.mark.slow
def test_an_import_killed_at_any_moment_leaves_the_whole_batch_or_none(project):
    with (project / "large.jsonl").open("w") as large:
        for number in range(15_000):
            large.write(json.dumps({**PAIRS[0], "prompt": f"Question {number} " + "word " * 200}) + "\n")
    outcomes = []
    for seconds in (0.5, 0.9, 1.2, 1.5, 1.9, 2.4):
        adding = subprocess.Popen([sys.executable, "-m", "plumbline", "data", "add", "large.jsonl"], cwd=project,
                                  env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            adding.wait(seconds)
        adding.kill()
        adding.wait()
        outcomes.append([batch["batch"]["rows"] for batch in data(project, "list", "--json")])
    assert all(rows in ([], [15_000]) for rows in outcomes)
    data(project, "add", "large.jsonl")
    batch, = data(project, "list", "--json")
    assert batch["batch"]["rows"] == 15_000
    assert (project / f"data/batches/{batch['digest'][:16]}.dvc").exists()


@pytest.mark.parametrize(("arguments", "says"), [
    (["add", "nowhere.jsonl"], "does not exist"), (["add", "given.jsonl", "--format", "trll"], "trl"),
    (["add", "given.jsonl", "--map", "prompt"], "FIELD=COLUMN"), (["remove"], "--row"),
    (["remove", "--annotator", "nobody"], "no such row"), (["diff", "ffff", "now"], "plumbline data list"),
    (["blame", "0123456789abcdef"], "holds the row"), (["export", "now", "x", "--format", "xml"], "parquet")])
def test_a_mistake_is_one_paragraph_that_says_what_to_do(project, arguments, says):
    assert says in data(project, *arguments, status=2)
