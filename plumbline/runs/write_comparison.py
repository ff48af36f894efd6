"""The end of `plumbline compare`: set the candidates of a run beside its PPO, from what their stages left."""

from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import read_receipt

COMPARISON = "comparison"
"""The folder of a run, and of its MLflow run, that holds the table, the picture and their numbers."""


def write_comparison(workspace: Workspace) -> None:
    """Write the table, the picture and their numbers into the run's folder."""
    from plumbline.evaluation.comparison import PPO, Evaluated, compare

    root = workspace.folder
    policies = [Evaluated.read(root / "reports/preference", PPO, PPO, _seconds(workspace, "ppo"))]
    for name in workspace.params.compare:
        method = workspace.params.candidates[name]["method"]
        policies.append(Evaluated.read(root / "reports/candidates" / name, name, method,
                                       _seconds(workspace, f"candidate@{name}")))
    compare(policies).write(root / COMPARISON)


def _seconds(workspace: Workspace, stage: str) -> float | None:
    receipt = read_receipt(workspace.folder, workspace.stages[stage])
    return receipt.seconds if receipt else None
