"""The pipeline: from preference data to a promoted policy. `plumbline run` and deployments call it."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from plumbline.runs.not_run import decide
from plumbline.runs.pipeline import check_gate, check_judges, pipeline_run
from plumbline.runs.workspace import Request
from tasks.base import base
from tasks.champion import champion
from tasks.ingest import ingest
from tasks.judge import judge
from tasks.ppo import ppo
from tasks.preference_eval import preference_eval
from tasks.promote import promote
from tasks.reward_eval import reward_eval
from tasks.reward_model import reward_model
from tasks.sft import sft
from tasks.snapshot import snapshot


@flow(name="retrain", validate_parameters=True, persist_result=False)
def retrain(request: Request) -> str | State[None]:
    """Learn from the preferences that there are now; what has not changed since an earlier run is reused."""
    request, why_not = decide(request)
    if why_not:
        return Completed(name="Skipped", message=why_not)
    with pipeline_run(request) as run:
        snapshot(run)
        ingest(run)
        check_judges(run)
        base(run)
        sft(run)
        reward_model(run)
        reward_eval(run)
        check_gate(run)
        judge(run)
        ppo(run)
        champion(run)
        preference_eval(run)
        promote(run)
    return run.record.id
