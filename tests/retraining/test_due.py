"""When a retraining is due: what arrived since the champion's snapshot and since the last run, and the clock."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from plumbline.data.changes import add, remove, supersede
from plumbline.data.intake import take_in_rows
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, to_line
from plumbline.project.home import Home, enter
from plumbline.project.run_record import RunRecord
from plumbline.retraining.due import due
from plumbline.runs.not_run import BY_THE_CLOCK, decide, not_run
from plumbline.runs.workspace import Request
from plumbline.tracking.store import connect
from testing.fake_project import CHECKOUT
from testing.format_fixtures import TWO_ANSWERS, annotation, label_studio

NEEDED = 5
Run = Callable[..., str]


def rows(start: int, count: int = NEEDED) -> list[Comparison]:
    return [Comparison((Message("user", f"Question {number}?"),), (f"yes {number}", f"no {number}"), "A",
                       Origin("test", f"annotator {number}")) for number in range(start, start + count)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, tmp_path / file)
    shutil.copytree(CHECKOUT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    made = Home(tmp_path, tmp_path / ".plumbline")
    for name in ("PREFECT_API_URL", "PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    enter(made)
    change(made, "snapshot", sources=["added"])
    change(made, "retrain", min_new_comparisons=NEEDED)
    return made


def change(home: Home, block: str, **values: object) -> None:
    yaml, file = YAML(), home.root / "params.yaml"
    params = yaml.load(file.read_text())
    params[block].update(values)
    time.sleep(0.01)  # another time of change
    with file.open("w") as out:
        yaml.dump(params, out)


@pytest.fixture
def run(home: Home) -> Run:
    """A run that learned from what there is, and became champion unless it is told otherwise."""
    made: list[str] = []

    def run(champion: bool = True, status: str = "finished", **more: object) -> str:
        name = f"20261121-1000{len(made):02d}-aaaaaa"
        made.append(name)
        folder = home.runs / name
        fix_snapshot(["added"], Simulation(0, 0, 0, 0), home.preferences, folder / "data/snapshot")
        shutil.copy(home.root / "params.yaml", folder)
        RunRecord(id=name, created=datetime.now(UTC).isoformat(), project=str(home.root), pid=1, host="test",
                  status=status, **more).save(folder)  # type: ignore[arg-type]
        if champion:
            client = connect(home)
            if not made[1:]:
                client.create_registered_model("policy")
            version = client.create_model_version("policy", source=str(folder), tags={"pipeline_run": name})
            client.set_registered_model_alias("policy", "champion", version.version)
        return name

    return run


def test_at_the_beginning(home: Home) -> None:
    found = due(home)
    assert (found.new_comparisons, found.needed, found.since, found.enough) == (0, NEEDED, None, True)
    assert found.why == "there is no champion yet"


def test_what_arrives_after_the_champion_counts(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    champion = run()
    assert due(home).why == f"nothing new since run {champion}, which had the same data"
    take_in_rows(home, rows(10, 4), "second")
    found = due(home)
    assert (found.new_comparisons, found.since, found.enough) == (4, champion, False)
    assert found.why == f"4 new comparisons since the champion's snapshot (run {champion}); 5 are needed"
    take_in_rows(home, rows(20, 1), "third")
    assert (due(home).new_comparisons, due(home).enough) == (5, True)


def test_demonstrations_are_not_judgements(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    run()
    take_in_rows(home, [Demonstration((Message("user", f"{n}?"),), "Yes.", Origin("test")) for n in range(9)], "shown")
    assert (due(home).new_comparisons, due(home).enough) == (0, False)


def test_a_run_without_a_champion_does_not_make_every_judgement_start_one(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    run()
    take_in_rows(home, rows(10), "second")
    later = run(champion=False)
    take_in_rows(home, rows(20, 1), "third")
    assert (due(home).new_comparisons, due(home).enough) == (6, False)
    assert due(home).why == f"1 new comparisons since run {later}, which gave no champion; 5 are needed"
    take_in_rows(home, rows(30), "fourth")
    assert due(home).enough


@pytest.mark.parametrize("more", [{"status": "killed"}, {"status": "failed"}, {"settings": ["ppo.clip=0.3"]},
                                  {"until": "sft"}, {"params_file": "params/smollm2.yaml"}, {"compare": ["dpo"]}])
def test_a_run_that_could_not_promote_settles_nothing(home: Home, run: Run, more: dict[str, object]) -> None:
    take_in_rows(home, rows(0), "first")
    run()
    take_in_rows(home, rows(10), "second")
    run(champion=False, **more)
    assert due(home).enough


def test_a_run_that_a_gate_stopped_is_not_repeated(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    run()
    take_in_rows(home, rows(10), "second")
    refused = run(champion=False, status="failed")
    gate = home.runs / refused / "reports/reward/gate.json"
    gate.parent.mkdir(parents=True)
    gate.write_text(json.dumps({"passed": False, "reasons": []}))
    file = home.runs / refused / "run.json"
    file.write_text(file.read_text())
    assert due(home).why == f"nothing new since run {refused}, which had the same data"


def test_a_batch_of_which_nothing_is_left_is_not_new(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    take_in_rows(home, rows(10, 6), "second")
    for number in range(10, 16):
        remove(home, [], f"annotator {number}", None, "withdrawn")
    run()
    assert (due(home).new_comparisons, due(home).enough) == (0, False)


def test_rows_that_were_removed_since_the_last_run_make_one_due(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    champion = run()
    for number in (0, 3):
        remove(home, [], f"annotator {number}", None, "withdrew consent")
    found = due(home)
    assert (found.new_comparisons, found.enough) == (0, True)
    assert found.why == f"2 rows that run {champion} learned from were removed since"
    last = run(champion=False)
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def test_a_removal_that_was_made_elsewhere_before_the_last_run_and_came_later_counts(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    removal = home.preferences.arrived / remove(home, [], "annotator 0", None, "withdrew").arrival.digest[:16]
    tracked = removal.with_suffix(".dvc").rename(home.root / "elsewhere.dvc")
    elsewhere = removal.rename(home.root / "elsewhere")
    last = run()
    assert not due(home).enough
    tracked.rename(removal.with_suffix(".dvc"))  # `git pull`
    with pytest.raises(UserError, match=f"{removal.name}.*`plumbline pull` brings them"):
        due(home)
    elsewhere.rename(removal)
    assert due(home).why == f"1 rows that run {last} learned from were removed since"


def test_a_correction_that_was_learned_from_is_not_new(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    run()
    corrected = home.root / "corrected.jsonl"
    corrected.write_text("".join(to_line(replace(row, label="B")) for row in rows(0)))
    supersede(home, str(corrected), Reading(), "they meant the other", None)
    assert (due(home).new_comparisons, due(home).enough) == (NEEDED, True)
    last = run()
    assert (due(home).new_comparisons, due(home).enough) == (0, False)
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def test_what_a_run_learned_from_is_not_new_in_another_order_or_beside_one_row_more(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    champion = run()
    take_in_rows(home, rows(0)[::-1], "the same")
    assert (due(home).new_comparisons, due(home).enough) == (0, False)
    assert due(home).why == f"nothing new since run {champion}, which had the same data"
    take_in_rows(home, rows(0, 6), "a longer export")
    take_in_rows(home, rows(0, 7), "a longer one")
    assert (due(home).new_comparisons, due(home).enough) == (2, False)
    last = run(champion=False)
    take_in_rows(home, rows(0, 8), "the longest")
    assert (due(home).new_comparisons, due(home).enough) == (3, False)
    assert due(home).why == f"1 new comparisons since run {last}, which gave no champion; 5 are needed"


def test_where_the_rows_of_a_runs_snapshot_are_gone_all_of_a_new_batch_counts(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    for file in (home.runs / run() / "data/snapshot").glob("*.jsonl"):
        file.unlink()
    shutil.rmtree(home.preferences.indexes)
    take_in_rows(home, rows(0)[::-1], "the same")
    assert (due(home).new_comparisons, due(home).enough) == (NEEDED, True)


def test_a_correction_that_takes_away_more_than_it_brings_counts_by_what_it_takes(home: Home, run: Run) -> None:
    change(home, "retrain", min_new_comparisons=2)
    batch = take_in_rows(home, rows(0), "first").arrival.digest
    champion = run()
    fewer = home.root / "fewer.jsonl"
    fewer.write_text("".join(map(to_line, rows(0, 3))))
    supersede(home, str(fewer), Reading(), "two were copied by mistake", batch)
    assert (due(home).new_comparisons, due(home).enough) == (2, True)
    assert due(home).why == f"2 new comparisons since the champion's snapshot (run {champion}); 2 are needed"
    last = run()
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def exported(home: Home, **more: object) -> str:
    """An export of Label Studio with one annotation."""
    file = home.root / "export.json"
    file.write_text(json.dumps([label_studio(TWO_ANSWERS, annotation("pairwise", {"selected": "left"}, **more))]))
    return str(file)


def test_an_export_in_which_everything_was_skipped_since_the_last_run_makes_one_due(home: Home, run: Run) -> None:
    add(home, exported(home), Reading())
    champion = run()
    changed = supersede(home, exported(home, was_cancelled=True), Reading(), "exported anew", None)
    assert (changed.arrival.action, changed.arrival.batch.rows, changed.arrival.removes) == ("remove", 0, 1)
    assert (due(home).enough, due(home).why) == (
        True, f"1 rows that run {champion} learned from were removed since")


def test_a_run_that_cannot_start_is_written_down(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.root)
    change(home, "retrain", cron="every night")
    with pytest.raises(UserError, match="every night"):
        decide(Request(trigger=BY_THE_CLOCK))
    assert [(one.trigger, "every night" in one.reason) for one in not_run(home)] == [(BY_THE_CLOCK, True)]


def test_a_champion_whose_folder_is_gone(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    champion = run()
    shutil.rmtree(home.runs / champion)
    time.sleep(0.01)
    take_in_rows(home, rows(10, 4), "second")
    assert (due(home).new_comparisons, due(home).since) == (4, champion)


def test_a_source_that_changed(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["added", "more.jsonl"])
    take_in_rows(home, rows(0), "first")
    run()
    assert not due(home).enough
    time.sleep(0.01)
    (home.root / "more.jsonl").write_text("{}")
    assert due(home).enough
    assert "the source more.jsonl has changed since run" in due(home).why


def test_a_source_where_the_champion_came_from_elsewhere(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["added", "more.jsonl"])
    take_in_rows(home, rows(0), "first")
    shutil.rmtree(home.runs / run())
    assert not due(home).enough
    (home.root / "more.jsonl").write_text("{}")
    assert (due(home).enough, due(home).why) == (True, "no run here has learned from the source more.jsonl yet")


def test_a_source_that_a_file_of_before_the_run_was_moved_onto(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["added", "more.jsonl"])
    for name in ("more.jsonl", "staged.jsonl"):
        (home.root / name).write_text("{}")
    take_in_rows(home, rows(0), "first")
    run()
    assert not due(home).enough
    time.sleep(0.01)
    (home.root / "staged.jsonl").rename(home.root / "more.jsonl")
    assert "the source more.jsonl has changed since run" in due(home).why


@pytest.mark.parametrize(("before", "learned"), [("kept", False), ("gone", False), ("damaged", False),
                                                ("without a snapshot", True), ("with another snapshot", True)])
def test_a_source_that_changed_between_a_run_and_its_retry(home: Home, run: Run, before: str, learned: bool) -> None:
    """A retry has the snapshot of the run before, unless that left none that could be taken."""
    change(home, "snapshot", sources=["added", "more.jsonl"])
    take_in_rows(home, rows(0), "first")
    first = f"{datetime.now(UTC) - timedelta(minutes=1):%Y%m%d-%H%M%S}-aaaaaa"
    (home.root / "more.jsonl").write_text("{}")
    time.sleep(0.01)
    retry = home.runs / run(retry_of=first)
    if before != "gone":
        shutil.copytree(retry, home.runs / first)
        record = RunRecord.model_validate_json((retry / "run.json").read_text())
        record.id, record.retry_of, record.status = first, None, "failed"
        record.created = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        record.save(home.runs / first)
    if before == "damaged":
        (home.runs / first / "run.json").write_text("half of")
    manifest = home.runs / first / "data/snapshot/manifest.json"
    if before == "without a snapshot":
        manifest.unlink()
    if before == "with another snapshot":
        manifest.write_text(manifest.read_text() + "\n")
    assert due(home).enough is not learned
    assert ("the source more.jsonl has changed" in due(home).why) is not learned


def test_a_source_that_the_last_run_did_not_have(home: Home, run: Run) -> None:
    (home.root / "own.jsonl").write_text("{}")
    time.sleep(0.01)
    take_in_rows(home, rows(0), "first")
    last = run()
    assert not due(home).enough
    for source in ("own.jsonl", "simulated", "hub:org/data"):
        change(home, "snapshot", sources=["added", source])
        assert (due(home).enough, due(home).why) == (True, f"run {last} has not learned from the source {source}")
    change(home, "snapshot", sources=["s3://key:secret@bucket/own.jsonl"])
    assert due(home).why == f"run {last} has not learned from the source s3://***@bucket/own.jsonl"
    last = run()
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def test_what_was_added_is_counted_where_the_last_run_did_not_have_it(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["simulated"])
    champion = run()
    change(home, "snapshot", sources=["simulated", "added"])
    assert due(home).why == f"nothing new since run {champion}, which had the same data"
    take_in_rows(home, rows(0, 4), "first")
    assert due(home).why == f"4 new comparisons since the champion's snapshot (run {champion}); 5 are needed"


def test_a_source_that_was_taken_out_is_not_the_same_data(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["simulated", "added"])
    champion = run()
    change(home, "snapshot", sources=["added"])
    assert (due(home).enough, due(home).why) == (
        False, f"nothing new since run {champion}, which learned from simulated as well")


@pytest.mark.parametrize("text", ["snapshot: [1", "snapshot: 3\nbase: 4\n", "snapshot: {sources: added}\n", ""])
def test_a_run_whose_parameters_cannot_be_read_is_taken_to_have_had_the_same(home: Home, run: Run, text: str) -> None:
    take_in_rows(home, rows(0), "first")
    last = run()
    (home.runs / last / "params.yaml").write_text(text)
    change(home, "snapshot", sources=["added", "simulated"])
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def test_no_run_by_itself_makes_the_policy_of_another_base_model(home: Home, run: Run,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.root)
    champion = run(settings=["base.source=org/model"])
    change(Home(home.runs / champion, home.folder), "base", source="org/model")
    take_in_rows(home, rows(0), "first")
    why = (f"params.yaml has base.source: pretrain, but the champion's run {champion} had org/model: write that into "
           "params.yaml, or start one run by hand (`plumbline run`) if it is to be replaced")
    assert (due(home).new_comparisons, due(home).enough, due(home).why) == (NEEDED, False, why)
    assert decide(Request(trigger=BY_THE_CLOCK))[1] == why
    assert [one.reason for one in not_run(home)] == [why]
    assert decide(Request())[1] is None, "a person asks for it"
    change(home, "base", source="org/model")
    assert due(home).why == f"5 new comparisons since the champion's snapshot (run {champion}); 5 are needed"


def test_a_run_by_hand_since_the_champions_decides_for_its_base_model(home: Home, run: Run) -> None:
    champion = run(settings=["base.source=org/model"])
    change(Home(home.runs / champion, home.folder), "base", source="org/model")
    take_in_rows(home, rows(0), "first")
    last = run(champion=False)
    assert due(home).why == f"nothing new since run {last}, which had the same data"
    change(home, "base", source="org/third")
    assert "params.yaml has base.source: org/third, but" in due(home).why


def test_no_run_by_itself_learns_from_quite_other_data_than_a_person_gave_the_champion(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["simulated", "added"])
    champion = run(settings=["snapshot.sources=[own.jsonl, added]"])
    change(Home(home.runs / champion, home.folder), "snapshot", sources=["own.jsonl", "added"])
    take_in_rows(home, rows(0), "first")
    assert (due(home).enough, due(home).why) == (
        False, f"params.yaml has snapshot.sources: [simulated, added], but the champion's run {champion} had "
               "[own.jsonl, added]: write that into params.yaml, or start one run by hand (`plumbline run`) if it is "
               "to be replaced")
    change(home, "snapshot", sources=["simulated", "own.jsonl", "added"])
    assert due(home).enough


def test_other_sources_than_params_yaml_had_then_are_learned_from(home: Home, run: Run) -> None:
    change(home, "snapshot", sources=["simulated", "added"])
    champion = run()
    change(home, "snapshot", sources=["own.jsonl", "added"])
    assert (due(home).enough, due(home).why) == (True, f"run {champion} has not learned from the source own.jsonl")


def test_a_copy_of_a_run_that_a_person_keeps_tells_nothing(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    champion = run()
    shutil.copytree(home.runs / champion, home.runs / "x-good")
    take_in_rows(home, rows(10), "second")
    last = run(champion=False)
    assert due(home).why == f"nothing new since run {last}, which had the same data"


def test_what_runs_do_not_learn_from_is_not_new(home: Home, run: Run) -> None:
    run()
    change(home, "snapshot", sources=["simulated"])
    take_in_rows(home, rows(0), "first")
    assert due(home).new_comparisons == 0


def test_a_damaged_manifest_is_named(home: Home, run: Run) -> None:
    take_in_rows(home, rows(0), "first")
    manifest = home.runs / run() / "data/snapshot/manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    with pytest.raises(UserError, match=f"{manifest} is damaged"):
        due(home)


def test_a_damaged_batch_is_named(home: Home) -> None:
    folder = home.preferences.arrived / take_in_rows(home, rows(0), "first").arrival.digest[:16]
    file = folder / "batch.json"
    file.write_text(file.read_text()[:40])
    for ask in (due, lambda home: arrivals(home.preferences)):
        with pytest.raises(UserError, match=f"{file} is damaged"):
            ask(home)


def test_it_is_quick(home: Home, run: Run) -> None:
    """Pages ask it each time."""
    for number in range(300):
        take_in_rows(home, rows(10 * number, 1), f"batch {number}")
    run()
    due(home)
    started = time.perf_counter()
    for _ in range(5):
        due(home)
    assert (time.perf_counter() - started) / 5 < 0.2
