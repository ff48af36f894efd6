"""What is printed after a run."""

import json
from pathlib import Path

from plumbline.commands.summary import diagnoses, next_steps, results
from plumbline.project.run_record import Outcome, RunRecord
from testing.fake_project import CHECKOUT


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


def test_no_password_is_printed_with_the_command_for_mlflow(tmp_path: Path) -> None:
    assert next_steps(tmp_path, "postgresql://ada:hunter2@db/mlflow")[-1] == (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri postgresql://***@db/mlflow")


def promotion_of(folder: Path, **decision: object) -> list[str]:
    """What is printed of a decision."""
    (folder / "reports/promote").mkdir(parents=True, exist_ok=True)
    (folder / "reports/promote/decision.json").write_text(json.dumps({"version": 4, **decision}))
    ran = Outcome(status="ran", reason="", seconds=1.0)
    return results(folder, RunRecord.model_construct(stages={"promote": ran}))


def test_each_rule_of_promotion_is_printed(tmp_path: Path) -> None:
    rule = {"rule": "KL to SFT", "required": "at most 10 nats", "measured": "12.50 nats", "verdict": "failed"}
    reasons = ["KL to SFT 12.50 nats; required is at most 10 nats", "there was no champion to compare with"]
    assert promotion_of(tmp_path, promoted=False, reasons=reasons, rules=[rule]) == [
        "promotion: version 4 stays challenger: there was no champion to compare with",
        "  failed: KL to SFT 12.50 nats (required: at most 10 nats)"]
    assert promotion_of(tmp_path, promoted=False, awaiting=True, reasons=[], rules=[]) == [
        "promotion: version 4 awaits your word (`plumbline promote 4`)"]


def test_a_decision_of_before_there_were_rules_is_printed(tmp_path: Path) -> None:
    assert promotion_of(tmp_path, promoted=True, reasons=["it won", "twice"]) == [
        "promotion: version 4 became champion: it won; twice"]


def test_what_is_wrong_with_a_training_is_printed(tmp_path: Path) -> None:
    """By the curves that its stages left, with the parameters of their receipts."""
    (tmp_path / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text("compare: {mine: ppo}\n")
    lines = "".join(json.dumps({"what": "", "step": step, "reward": 0.1 * step, "kl": 0.2 * step, "entropy": 4 / step})
                    + "\n" for step in range(1, 21))
    for folder in ("policy", "candidates/mine"):
        (tmp_path / "models" / folder).mkdir(parents=True)
        (tmp_path / "models" / folder / "curves.jsonl").write_text(lines + '{"what": ')
    told = diagnoses(tmp_path)
    assert [line.split(":")[:2] for line in told] == [
        ["diagnosis of ppo", " entropy collapses"], ["diagnosis of candidate@mine", " entropy collapses"]]
    assert "Raise ppo.kl_coef" in told[0] and "Raise candidates.mine.kl_coef" in told[1]
