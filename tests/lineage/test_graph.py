"""What was made of what: one node a result, whoever used it, and never a wrong answer about the data."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.history.history import RegisteredVersion
from plumbline.lineage.graph import Filter, Graph, Node, Ref, chosen_runs, neighbourhood
from plumbline.lineage.graph_build import build
from testing.histories import Story, step


def made(graph: Graph, kind: str) -> list[Node]:
    return [node for ref, node in graph.nodes.items() if ref.kind == kind]


def names(graph: Graph, refs) -> set[str]:
    return {f"{ref.kind} {graph.nodes[ref].made_by or ref.key}" for ref in refs}


def test_a_run_is_a_chain_from_its_batches_to_its_version():
    story = Story()
    run = story.run("monday+tuesday")
    graph = story.graph()
    (version,) = made(graph, "version")
    assert {ref.kind for ref in graph.upstream(version.ref)} == {
        "batch", "snapshot", "base", "sft", "reward", "examination", "judge", "policy", "evaluation"}
    assert {ref.key for ref in graph.upstream(version.ref) if ref.kind == "batch"} == {"monday", "tuesday"}
    assert all(node.runs == (run.id,) for node in graph.nodes.values())


def test_a_reused_result_is_one_node_that_knows_its_maker_and_its_users():
    story = Story()
    first, second = story.run(), story.run(ppo="other")
    graph = story.graph()
    (sft,) = made(graph, "sft")
    assert (sft.made_by, sft.runs) == (first.id, (second.id, first.id))
    assert sorted(node.made_by for node in made(graph, "policy")) == [first.id, second.id]


def test_a_model_that_comes_out_the_same_from_other_data_does_not_mix_the_data_up():
    story = Story()
    same = {"sft": "the same bytes"}
    first, second = story.run("monday", bytes_of=same), story.run("monday+tuesday", bytes_of=same)
    graph = story.graph()
    policies = {node.made_by: node for node in made(graph, "policy")}
    for run, batches in ((first, {"monday"}), (second, {"monday", "tuesday"})):
        upstream = graph.upstream(policies[run.id].ref)
        assert {ref.key for ref in upstream if ref.kind == "batch"} == batches
        assert sum(ref.kind == "snapshot" for ref in upstream) == 1


def test_a_candidate_is_made_from_the_data_of_its_run_and_judged_on_its_own():
    story = Story()
    run = story.run("monday+tuesday")
    paths = ("models/sft/model", "models/reward/model", "data/prepared")
    ours = {path: run.steps["ppo"].inputs[path] for path in paths}
    model = "models/candidates/near/model"
    for name, group, read, left in (("candidate@near", "candidate", ours, {model: "bytes of near"}),
                                    ("candidate_eval@near", "evaluation", {**ours, model: "bytes of near"},
                                     {"reports/candidates/near/metrics.json": "figures"})):
        run.steps[name] = step(name, "ran", run.id, inputs=read, outputs=left, mlflow_run=f"{group} of near")  # type: ignore[index]
    graph = story.graph()
    assert set(graph.candidates[run.id]) == {"candidate@near", "candidate_eval@near"}
    candidate, judged = graph.candidates[run.id].values()
    assert {ref.kind for ref in graph.upstream(candidate)} == {"batch", "snapshot", "base", "sft", "reward"}
    assert {ref.key for ref in graph.upstream(candidate) if ref.kind == "batch"} == {"monday", "tuesday"}
    assert candidate in graph.up[judged] and graph.rows[run.id]["policy"] not in graph.upstream(judged)
    assert graph.rows[run.id]["evaluation"] != judged, "the run's own evaluation is that of its policy"
    assert graph.find("candidate", "bytes of near").ref == candidate


def test_a_gate_that_said_no_is_seen_and_has_no_policy():
    story = Story()
    run = story.run(gate=False)
    graph = story.graph()
    (examination,) = made(graph, "examination")
    assert (examination.state, examination.made_by) == ("gate", run.id)
    assert not made(graph, "policy")


def test_a_stage_that_failed_is_a_node_of_its_run_with_the_reason():
    story = Story()
    run = story.run(failing="ppo")
    graph = story.graph()
    (policy,) = made(graph, "policy")
    assert (policy.ref.key, policy.state, policy.reason) == (run.id, "failed", "because")
    assert {ref.kind for ref in graph.upstream(policy.ref, 1)} == {"sft", "reward", "examination", "judge", "snapshot"}


def test_data_that_were_refused_stay_refused_until_they_pass():
    story = Story()
    story.run(failing="ingest")
    assert made(story.graph(), "snapshot")[0].state == "failed"
    story.run()
    assert made(story.graph(), "snapshot")[0].state == "made"


def test_an_evaluation_leads_back_to_the_champion_that_it_compared_with():
    story = Story()
    first, second = story.run(), story.run(ppo="other")
    graph = story.graph()
    evaluation = next(node for node in made(graph, "evaluation") if node.made_by == second.id)
    compared = [graph.nodes[ref].made_by for ref in graph.up[evaluation.ref] if ref.kind == "policy"]
    assert sorted(compared) == [first.id, second.id]


def test_up_and_down_are_each_other_and_end_where_they_are_told():
    story = Story()
    story.run()
    graph = story.graph()
    for near in graph.nodes:
        for far, steps in graph.upstream(near).items():
            assert graph.downstream(far)[near] == steps
        assert set(graph.upstream(near, 1)) == set(graph.up.get(near, ()))
        assert near not in graph.upstream(near)


def test_find_takes_beginnings_digests_and_aliases_and_names_the_fix():
    story = Story()
    run = story.run()
    graph = story.graph()
    (policy,) = made(graph, "policy")
    assert graph.find("policy", policy.ref.key[:8]) is policy
    assert policy.md5 is not None
    assert graph.find("policy", f"{policy.md5}.dir") is policy
    assert graph.find("version", "1").made_by == run.id
    with pytest.raises(UserError, match="no kind"):
        graph.find("kettle", "1")
    with pytest.raises(UserError, match="first 6 digits"):
        graph.find("policy", "nothing")


def test_of_the_same_bytes_made_twice_find_gives_the_first():
    story = Story()
    first = story.run("monday", bytes_of={"sft": "the same bytes"})
    story.run("tuesday", bytes_of={"sft": "the same bytes"})
    assert story.graph().find("sft", "the same bytes").made_by == first.id


def test_a_neighbourhood_keeps_its_columns_short_and_says_what_is_left_out():
    story = Story()
    for number in range(20):
        story.run(ppo=str(number))
    graph = story.graph()
    (snapshot,) = made(graph, "snapshot")
    first = next(node for node in made(graph, "policy") if node.made_by == list(story.runs)[-1])
    near = neighbourhood(graph, snapshot.ref, 2, first={first.ref}, most=5)
    policies = [ref for ref in near.nodes if ref.kind == "policy"]
    assert len(policies) == 5
    assert first.ref in policies, "what one looks from comes before what is newer"
    assert near.hidden["down", "policy"] == 15
    assert all(source in near.nodes and target in near.nodes for source, target in near.edges)


@given(st.lists(st.tuples(st.sampled_from(["a", "a+b", "b"]), st.sampled_from("xyz"), st.sampled_from("xy")),
                min_size=1, max_size=8), st.integers(1, 4))
def test_what_is_near_is_what_is_within_reach(runs, depth):
    story = Story()
    for data, ppo, sft in runs:
        story.run(data, ppo=ppo, sft=sft)
    graph = story.graph()
    for centre in graph.nodes:
        near = neighbourhood(graph, centre, depth, most=1000)
        assert set(near.nodes) == {centre, *graph.upstream(centre, depth), *graph.downstream(centre, depth)}


def test_every_policy_has_one_snapshot_whatever_was_reused():
    story = Story()
    for data, sft, ppo in (("a", "x", "x"), ("a+b", "x", "x"), ("a", "y", "x"), ("a+b", "y", "y"), ("a", "x", "x")):
        story.run(data, sft=sft, ppo=ppo)
    graph = story.graph()
    for policy in made(graph, "policy"):
        assert sum(ref.kind == "snapshot" for ref in graph.upstream(policy.ref)) == 1


def test_filters_choose_runs():
    story = Story()
    finished, failed, same = story.run(), story.run(gate=False), story.run()
    graph = story.graph()

    def chosen(**wanted) -> list[str]:
        return [run.id for run in chosen_runs(graph, Filter(**wanted))]

    assert chosen() == [same.id, failed.id, finished.id]
    assert chosen(status="failed") == [failed.id]
    assert chosen(promoted=True) == [finished.id]
    assert chosen(made="policy") == [finished.id]
    assert chosen(made="examination") == [failed.id, finished.id]
    assert chosen(since=failed.created) == [same.id, failed.id]
    assert chosen(text=finished.id[:15]) == [finished.id]


def test_a_stage_of_dvc_repro_stands_in_the_graph_beside_what_it_read():
    from plumbline.lineage.graph_build import build
    from testing.histories import LEAVES, step

    story = Story()
    run = story.run()
    alone = step("ppo", "ran", "", inputs=run.steps["ppo"].inputs, outputs={LEAVES["ppo"]: "by hand"}, mlflow_run="m")
    graph = build(story.runs, story.versions, {"m": type(alone)(**{**alone.__dict__, "made_by": None})})
    by_hand = graph.find("policy", "by hand")
    assert (by_hand.made_by, by_hand.runs) == (None, ())
    assert Ref("snapshot", "snapshot of monday") in graph.upstream(by_hand.ref)


def test_a_version_of_plain_dvc_repro_is_joined_to_its_policy_and_names_no_run():
    story = Story()
    run = story.run()
    ours = {path: run.steps["ppo"].inputs[path] for path in ("models/sft/model", "data/prepared")}
    alone = replace(step("ppo", "ran", "", ours, {"models/policy/model": "alone.dir"}, "mlflow of alone"), made_by=None)
    version = RegisteredVersion("policy", 2, "alone.dir", "dvc repro", "2026-01-02T00:00:00+00:00", (), None, {})
    graph = build(story.runs, {2: version, **story.versions}, {"mlflow of alone": alone})
    node = graph.nodes[Ref("version", "2")]
    (policy,) = graph.up[node.ref]
    assert node.made_by is None and graph.nodes[policy].step is alone
    assert {ref.kind for ref in graph.upstream(node.ref)} == {"policy", "sft", "base", "snapshot", "batch"}


def test_a_version_was_made_by_the_run_that_registered_it():
    story = Story()
    first = story.run()
    (number, version), = story.versions.items()
    anew = replace(version, run="20260102-000000-bbbbbb", tags={"registered_by": first.id})
    assert build(story.runs, {number: anew}, {}).nodes[Ref("version", str(number))].made_by == first.id
