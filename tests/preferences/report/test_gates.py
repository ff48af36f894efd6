"""Limits on data: what is worse beyond doubt is refused with what to do, noise and the unmeasured are not."""

import random
from dataclasses import fields

import pytest

from plumbline.preferences.report.gates import DataLimits, check_gates, not_measured
from testing.reported import COUNTS, judged, reported


def pairs(n, longer_share, position=0.5):
    """n pairs in which the longer response, and the one shown first, win with such a share."""
    rows = []
    for i in range(n):
        longer_wins, first_wins = i < longer_share * n, i % 100 < position * 100
        longer_first = longer_wins == first_wins
        rows.append(judged("A" if first_wins else "B", "ada",
                           ("longer", "x") if longer_first else ("x", "longer"), f"Q{i}"))
    return rows


def judged_twice(n, opposite):
    return [judged("B" if who == "ben" and i < opposite else "A", who, (f"one {i}", f"two {i}"), f"Q{i}")
            for i in range(n) for who in ("ada", "ben")]


def test_no_limits_refuse_nothing():
    assert check_gates(reported([judged("A")]), DataLimits()) == []


def test_length_bias_trips_only_when_it_is_beyond_doubt():
    limits = DataLimits(max_longer_wins=0.6)
    assert check_gates(reported(pairs(20, 0.7)), limits) == []  # 14 of 20: 48 to 85 %
    reason, = check_gates(reported(pairs(1000, 0.7)), limits)
    assert "70.0 % (67.1 to 72.8) of 1,000" in reason
    assert "ingest.max_longer_wins allows 60 %" in reason


@pytest.mark.parametrize(("position", "side"), [(0.8, "first"), (0.2, "second")])
def test_position_bias_trips_towards_either_side(position, side):
    reason, = check_gates(reported(pairs(1000, 0.5, position)), DataLimits(max_first_shown_wins=0.6))
    assert f"shown {side} wins" in reason
    assert "80.0 %" in reason


def test_disagreement_and_contradictions_trip():
    report = reported(judged_twice(200, 80))
    reasons = check_gates(report, DataLimits(min_agreement=0.5, max_contradictions=0.1))
    assert len(reasons) == 2
    assert "40.0 % (33.5 to 46.9) of 200 pairs judged again have both labels" in reasons[0]
    assert "Krippendorff's alpha is 0.20" in reasons[1]
    assert check_gates(report, DataLimits(min_agreement=0.25, max_contradictions=0.35)) == []


def test_annotators_who_guess_are_named():
    rng = random.Random(0)
    rows = [judged(rng.choice("AB") if who == "coin" else "A", who, (f"one {i}", f"two {i}"), f"Q{i}")
            for i in range(100) for who in ("ada", "ben", "coin")]
    reason, = check_gates(reported(rows), DataLimits(max_near_chance_annotators=0.0))
    assert "1 of 3 annotators" in reason
    assert "(coin)" in reason
    assert "plumbline data remove --annotator" in reason


def test_circles_trip():
    rows = [judged("A", "ada", pair, f"Q{i}") for i in range(4) for pair in ("ab", "bc", "ca" if i == 0 else "ac")]
    assert "1 of 4 prompts" in check_gates(reported(rows), DataLimits(max_cycles=0.2))[0]
    assert check_gates(reported(rows), DataLimits(max_cycles=0.25)) == []


def test_quarantine_machines_damage_and_held_out_rows_are_counted():
    rows = [judged("A", "gpt", of=f"Q{i}", machine=i < 6, source="web" if i else "bad") for i in range(10)]
    rows.append(judged("A", "ada", ("cafÃ©", "x"), "Good", "bad", machine=False))
    report = reported(rows, counts=COUNTS | {"rows_read": 100, "quarantined": 30},
                      sizes={"preferences": {"train": 8, "validation": 1, "heldout": 2}})
    reasons = check_gates(report, DataLimits(max_quarantined=0.2, max_machine=0.5, max_damaged_texts=0.1,
                                             min_heldout_preferences=50))
    assert [reason.split(",")[0] for reason in reasons] == [
        "30 of 100 rows read are in quarantine (30.0 %)", "6 of 11 judged rows have a machine's label (54.5 %)",
        "2 preferences are held out", "1 of 6 texts of bad have traces of a wrong encoding (16.7 %)"]
    assert check_gates(report, DataLimits(max_quarantined=0.3, max_machine=0.6, max_damaged_texts=0.2,
                                          min_heldout_preferences=2)) == []


def test_texts_that_were_rendered_for_a_model_trip():
    plain = [judged("A", of=f"Q{i}") for i in range(4)]
    rendered = [judged("A", of=f"<|im_start|>user\nQ{i}<|im_end|>\n", source="dump") for i in range(2)]
    report = reported([*plain, *rendered])
    reason, = check_gates(report, DataLimits(max_templated_texts=0.3))
    assert reason.startswith("2 of 6 texts of dump carry the markers of a chat template (33.3 %)")
    assert check_gates(report, DataLimits(max_templated_texts=0.4)) == []


def test_what_cannot_be_measured_is_not_refused_and_is_named():
    limits = DataLimits(**{field.name: 0.0 if field.name.startswith("max") else 1.0 for field in fields(DataLimits)})
    report = reported([], counts=dict.fromkeys(COUNTS, 0))
    assert check_gates(report, limits) == []
    assert not_measured(report, limits) == [field.name for field in fields(DataLimits)]
    assert not_measured(report, DataLimits()) == []


@pytest.mark.parametrize("name", [field.name for field in fields(DataLimits)])
def test_a_limit_that_makes_no_sense_is_named(name):
    with pytest.raises(ValueError, match=rf"ingest\.{name} is -5"):
        check_gates(reported([judged("A")]), DataLimits(**{name: -5}))
