"""Candidates beside PPO: other methods and parameters, from the same data, SFT policy and reward model."""

from prefect import flow

from plumbline.runs.not_run import decide
from plumbline.runs.pipeline import check_gate, check_judges, pipeline_run, write_comparison
from plumbline.runs.workspace import Request
from tasks.base import base
from tasks.candidate import candidate
from tasks.candidate_eval import candidate_eval
from tasks.champion import champion
from tasks.ingest import ingest
from tasks.judge import judge
from tasks.ppo import ppo
from tasks.preference_eval import preference_eval
from tasks.reward_eval import reward_eval
from tasks.reward_model import reward_model
from tasks.sft import sft
from tasks.snapshot import snapshot


@flow(name="compare", validate_parameters=True, persist_result=False)
def compare(request: Request) -> str:
    """Make and judge each candidate; what an ordinary run has made is reused, and nothing is promoted."""
    request, _ = decide(request)
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
        for name in run.params.compare:
            candidate.of(name)(run)
            candidate_eval.of(name)(run)
        write_comparison(run)
    return run.record.id
