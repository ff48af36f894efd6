"""A correction takes the place of what its annotators said before in the same way, and of nothing else."""

import json
import shutil
from dataclasses import replace

import pytest

from plumbline.data import changes
from plumbline.preferences.batches.arrivals import arrival_index
from plumbline.preferences.batches.index import index_of_rows
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading.formats import RECOGNISED
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating, Row, to_line
from plumbline.project.home import Home
from testing.fake_project import CHECKOUT

PROMPT, ADA = (Message("user", "Why?"),), Origin("house", "ada")
SHOWN = Demonstration(PROMPT, "yes", ADA)
RATED = Rating(PROMPT, "yes", 1.0, ADA)
COMPARED = Comparison(PROMPT, ("yes", "no"), "A", ADA)
RANKED = Ranking(PROMPT, ("no", "yes"), (1, 2), ADA)
RANKED_THREE = Ranking(PROMPT, ("no", "yes", "perhaps"), (1, 2, 3), ADA)


@pytest.fixture
def project(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, home.root / file)
    monkeypatch.setattr(changes, "track", lambda home: None)  # there is no DVC repository
    monkeypatch.chdir(home.root)
    return home


def given(home: Home, *rows: Row) -> str:
    file = home.root / "given.jsonl"
    file.write_text("".join(map(to_line, rows)))
    return str(file)


def learned(home: Home) -> list[dict[str, object]]:
    out = home.root / "snapshot"
    manifest = fix_snapshot(["added"], Simulation(0, 0, 0, 0), home.preferences, out)
    return [json.loads(line) for batch in manifest.batches for line in (out / f"{batch.digest}.jsonl").open()]


def parsed(*rows: Row) -> list[dict[str, object]]:
    return [json.loads(to_line(row)) for row in rows]


@pytest.mark.parametrize(("correction", "stay"), [
    (Rating(PROMPT, "yes", 0.0, ADA), [SHOWN, COMPARED, RANKED_THREE]),
    (Demonstration(PROMPT, "yes", Origin("second edition", "ada")), [RATED, COMPARED, RANKED_THREE]),
    (Comparison(PROMPT, ("yes", "no"), "B", ADA), [SHOWN, RATED, RANKED_THREE]),
    (RANKED, [SHOWN, RATED, RANKED_THREE])])
def test_a_correction_takes_away_judgements_of_its_own_sort_alone(project: Home, correction: Row,
                                                                  stay: list[Row]) -> None:
    changes.add(project, given(project, SHOWN, RATED, COMPARED, RANKED_THREE), RECOGNISED)
    changed = changes.supersede(project, given(project, correction), RECOGNISED, "was wrong", None)
    assert len(changed.gone) == 1
    assert learned(project) == parsed(*stay, correction)


def test_rows_alike_are_of_the_same_sort(project: Home) -> None:
    added = changes.add(project, given(project, SHOWN, RATED, COMPARED, RANKED), RECOGNISED)
    rows = arrival_index(project.preferences, added.arrival).row
    shown, rated, *preferred = rows.tolist()
    nothing = index_of_rows([])
    assert [changes.alike(project, rows[[n]], nothing)[0].tolist() for n in range(4)] == [
        [shown], [rated], sorted(preferred), sorted(preferred)]
    # The annotators of other rows have said the same of the same.
    assert [changes.alike(project, rows[:0], index_of_rows([row]))[0].tolist() for row in (SHOWN, RATED, COMPARED)] == [
        [shown], [rated], sorted(preferred)]


def test_a_growing_export_under_another_name_is_told_to_judge_again_what_a_correction_would_replace(
        project: Home) -> None:
    def told(source: str, *rows: Row) -> tuple[int, int, int]:
        renamed = [replace(row, origin=replace(row.origin, source=source)) for row in rows]
        changed = changes.add(project, given(project, *renamed), RECOGNISED, dry_run=source == "dry")
        return changed.known, changed.new, changed.judged_again

    by_ben = replace(COMPARED, origin=Origin("house", "ben"))
    assert told("monday", COMPARED, RATED) == (0, 2, 0)
    assert told("dry", COMPARED, RATED, SHOWN, by_ben) == (0, 4, 2)
    assert told("monday", COMPARED, SHOWN, by_ben) == (1, 2, 0)
    assert told("tuesday", COMPARED, RATED, SHOWN, by_ben) == (0, 4, 4)
    changes.remove(project, [], None, "monday", "is in Tuesday's")
    assert told("wednesday", RATED, SHOWN) == (0, 2, 2)
    changed = changes.supersede(project, given(project, COMPARED, RATED, SHOWN, by_ben), RECOGNISED, "", None)
    assert (changed.judged_again, len(learned(project))) == (0, 4)
