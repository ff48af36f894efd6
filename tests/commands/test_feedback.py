"""`plumbline feedback judge`, and what people said in `plumbline show` and `plumbline models`."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from plumbline.commands.versions import listed
from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
from plumbline.feedback.judging import judging_pairs, said_in
from plumbline.feedback.store import FeedbackStore
from plumbline.history.history import History
from plumbline.preferences.types import Message
from plumbline.project.home import Home
from plumbline.project.run_record import Outcome, RunRecord
from testing.fake_project import CHECKOUT
from testing.in_process import command
from testing.made_up import fill, run, step, version
from testing.verdict_makers import say, verdict

RUN = run()
ANSWERS = {name: SampleAnswer(f"{name} answers", True, {}) for name in ("policy", "sft")}
SAMPLES = [Sample((Message("user", f"Held out {number}?"),), ANSWERS, {"sft": 1.0}) for number in range(4)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A project with one run, whose evaluation left four samples."""
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / file).write_text((CHECKOUT / file).read_text())
    home = Home(tmp_path, tmp_path / ".plumbline")
    folder = home.runs / RUN.id
    (folder / "reports/preference/report").mkdir(parents=True)
    (folder / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
    (folder / "reports/preference/metrics.json").write_text('{"judge": "second", "win_rate_vs_sft": 1.0}')
    write_samples(folder / "reports/preference/report/samples.jsonl", SAMPLES)
    ran = Outcome(status="ran", reason="", seconds=1)
    RunRecord(id=RUN.id, created=RUN.created, project=str(tmp_path), pid=os.getpid(), host=socket.gethostname(),
              status="finished", stages={"preference_eval": ran}).save(folder)
    return home


def judged(home: Home, choices: Sequence[str]) -> None:
    """Let Ada say this of the first pairs."""
    store = FeedbackStore.open(home)
    pairs = judging_pairs(SAMPLES, RUN)
    store.add_pairs(pairs)
    say(store, *map(verdict, pairs, choices))
    store.close()


def test_show_says_what_people_said(home: Home) -> None:
    assert "people" not in command(home.root, "show", "latest").stdout
    judged(home, ["A", "B", "A"])
    shown = command(home.root, "show", "latest").stdout
    assert "people, against SFT: 0.667 [" in shown
    assert "n = 3 by 1 person on 3 of 4 pairs asked; with second on 0.67 of 3" in shown
    found, = json.loads(command(home.root, "show", "latest", "--json").stdout)["people"]
    assert (found["opponent"], found["win_rate"]["n"]) == ("sft", 3)
    assert found["with_judge"]["judges"] == ["people", "second"]


def test_a_store_that_cannot_be_used_costs_what_people_said_and_nothing_else(home: Home) -> None:
    done = command(home.root, "show", "latest", PLUMBLINE_FEEDBACK_URL="mysql://there/name")
    assert done.returncode == 0 and "win rate against SFT: 1.000" in done.stdout
    assert done.stderr.startswith("What people said is left out") and "expected postgresql or sqlite" in done.stderr


def evaluated(history: History) -> None:
    """Fill the history with the run and its two versions, one of them of a run that is gone."""
    made = run(folder=history.home.runs / RUN.id, steps={"preference_eval": step("preference_eval", mlflow_run=None)})
    fill(history, [made], [version(1, made, "awaiting"), version(2, run("gone"))])


def test_people_are_asked_about_a_version_or_a_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "refresh", evaluated)
    told = json.loads(command(home.root, "feedback", "judge", "awaiting", "--prompts", "3", "--json").stdout)
    assert told == {"run": RUN.id, "pairs": 3, "new": 3}
    assert "4 pairs" in command(home.root, "feedback", "judge", RUN.id[:8]).stdout
    again = json.loads(command(home.root, "feedback", "judge", "1", "--json").stdout)
    assert again == {"run": RUN.id, "pairs": 4, "new": 0}
    for name, words in (("2", "gone from MLflow"), ("9", "No runs")):
        done = command(home.root, "feedback", "judge", name)
        assert done.returncode == 2 and words in done.stderr
    assert "Examples:" in command(home.root, "feedback", "judge", "--help").stdout


def test_models_lists_what_people_said(home: Home) -> None:
    judged(home, ["A", "tie"])
    history = History(home)
    evaluated(history)
    second, first = listed(history, None, said_in(home))
    assert second.people == ()
    assert [one.win_rate.value for one in first.people] == [0.75]
