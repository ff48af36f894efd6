"""What is printed after a run."""

import json
from pathlib import Path

from plumbline.commands.summary import results
from plumbline.project.run_record import Outcome, RunRecord


def test_what_is_done_differently_for_a_base_model_is_said_and_what_was_not_measured_is_not(tmp_path: Path) -> None:
    for name, metrics in (("base", {"parameters": 7, "notes": "The date is fixed."}), ("reward", {"pairs": 3}),
                          ("sft", {"examples": 9, "packed": True, "system_before_user": 4})):
        (tmp_path / f"models/{name}").mkdir(parents=True)
        (tmp_path / f"models/{name}/metrics.json").write_text(json.dumps(metrics))
    ran = Outcome(status="ran", reason="", seconds=1.0)
    record = RunRecord.model_construct(stages=dict.fromkeys(("base", "sft", "reward_model"), ran))
    assert results(tmp_path, record) == [
        "base model: The date is fixed.",
        "SFT: the system message of 4 demonstrations stands before the first user's text"]
    assert results(tmp_path / "none", record) == []
