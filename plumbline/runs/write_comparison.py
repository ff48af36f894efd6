"""The end of `plumbline compare`: set the candidates of a run beside its PPO, from what their stages left."""

from plumbline.project.dvc_yaml import JOIN
from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import read_receipt

COMPARISON = "comparison"
"""The folder of a run, and of its MLflow run, that holds the table, the picture and their numbers."""


def write_comparison(workspace: Workspace) -> None:
    """Write the table, the picture and their numbers into the run's folder."""
    from plumbline.evaluation.comparing.comparison import PPO, Evaluated, compare
    from plumbline.evaluation.comparing.report import write_comparison_report

    root = workspace.folder
    policies = [Evaluated.read(root / "reports/preference", PPO, PPO, _seconds(workspace, "ppo"))]
    for name in workspace.params.compare:
        method = workspace.params.candidates[name]["method"]
        seconds = _seconds(workspace, f"candidate{JOIN}{name}")
        policies.append(Evaluated.read(root / "reports/candidates" / name, name, method, seconds))
    write_comparison_report(root / COMPARISON, compare(policies))


def _seconds(workspace: Workspace, stage: str) -> float | None:
    receipt = read_receipt(workspace.folder, workspace.stages[stage])
    return receipt.seconds if receipt else None
