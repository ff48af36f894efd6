"""The same as JSON: complete, described, and only for reading."""

from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from testing.sites import site_behind

PATHS = ("/api/runs", "/api/runs/{id}", "/api/versions", "/api/lineage/{kind}/{key}", "/api/lineage/openlineage")


def ask(client: TestClient, address: str):
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_runs_are_those_of_the_history(client: TestClient) -> None:
    history = site_behind(client).history
    found = ask(client, "/api/runs?limit=5&offset=2")
    assert found["total"] == len(history.runs)
    assert [run["id"] for run in found["runs"]] == list(history.runs)[2:7]
    failed = ask(client, "/api/runs?status=failed")
    assert {run["status"] for run in failed["runs"]} == {"failed"}


def test_a_run_has_its_steps_with_what_they_read_and_left(client: TestClient) -> None:
    run = next(run for run in site_behind(client).history.runs.values() if run.status == "finished")
    found = ask(client, f"/api/runs/{run.id}")
    assert list(found["steps"]) == list(run.steps)
    assert found["steps"]["sft"]["outputs"] == run.steps["sft"].outputs
    assert found["params"] == run.params
    assert ask(client, "/api/runs/latest")["id"] == next(iter(site_behind(client).history.runs))
    assert client.get("/api/runs/1999").status_code == 404


def test_versions_and_moves(client: TestClient) -> None:
    history = site_behind(client).history
    found = ask(client, "/api/versions")
    assert [version["number"] for version in found["versions"]] == list(history.versions)
    assert [move["reason"] for move in found["moves"]] == [move.reason for move in history.moves]


def test_the_lineage_of_a_version_reaches_its_batches(client: TestClient) -> None:
    history = site_behind(client).history
    version = next(iter(history.versions.values()))
    found = ask(client, f"/api/lineage/version/{version.number}?depth=10")
    batches = {node["key"] for node in found["nodes"] if node["kind"] == "batch"}
    assert batches == {batch.digest for batch in history.runs[version.run].batches}
    names = {(node["kind"], node["key"]) for node in found["nodes"]}
    for link in found["links"]:
        assert {(link[end]["kind"], link[end]["key"]) for end in ("source", "target")} <= names
    policy = next(node for node in found["nodes"] if node["md5"] == version.md5.removesuffix(".dir")
                  and node["kind"] == "policy")
    assert ask(client, f"/api/lineage/policy/{version.md5}")["centre"]["md5"] == policy["md5"]


@pytest.mark.parametrize("wrong", ["/api/lineage/policy/nothing", "/api/lineage/kettle/1"])
def test_what_is_not_there_says_what_to_ask_for(client: TestClient, wrong: str) -> None:
    answer = client.get(wrong)
    assert answer.status_code == 404
    assert "detail" in answer.json()


def test_events_follow_the_standard(client: TestClient) -> None:
    history = site_behind(client).history
    events = ask(client, "/api/lineage/openlineage?limit=500")
    assert {event["eventType"] for event in events} >= {"START", "COMPLETE"}
    for event in events:
        assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
        assert UUID(event["run"]["runId"])
        assert UUID(event["run"]["facets"]["parent"]["run"]["runId"])
        for facet in (*event["run"]["facets"].values(), *event["job"]["facets"].values()):
            assert {"_producer", "_schemaURL"} <= facet.keys()
    done = {event["run"]["runId"]: event for event in events if event["eventType"] == "COMPLETE"}
    ran = {step.mlflow_run: step for run in history.runs.values() for step in run.steps.values()
           if step.status == "ran" and step.mlflow_run}
    assert {UUID(run).hex for run in done} == ran.keys()
    for run, event in done.items():
        step = ran[UUID(run).hex]
        assert event["job"]["name"] == f"retrain.{step.stage}"
        assert {one["name"]: one["facets"]["version"]["datasetVersion"] for one in event["outputs"]} == step.outputs
        read = {one["name"]: one["facets"]["version"]["datasetVersion"] for one in event["inputs"]}
        assert read.items() >= step.inputs.items()


def test_a_stage_that_failed_has_its_reason(client: TestClient) -> None:
    history = site_behind(client).history
    run = next(run for run in history.runs.values() if any(step.status == "failed" for step in run.steps.values()))
    failed = next(step for step in run.steps.values() if step.status == "failed")
    events = ask(client, f"/api/lineage/openlineage?run={run.id}")
    (last,) = [event for event in events if event["eventType"] == "FAIL"]
    assert last["run"]["facets"]["errorMessage"]["message"] == failed.reason
    assert last["outputs"] == []


def test_the_description_names_every_address_and_what_it_answers(client: TestClient) -> None:
    described = ask(client, "/api/openapi.json")
    for path in PATHS:
        (operation,) = described["paths"][path].values()
        assert operation["summary"]
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]
    run = described["components"]["schemas"]["RunOut"]
    assert run["properties"]["params"]["description"]


@pytest.mark.parametrize("path", ["/api/runs", "/api/versions", "/lineage"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed_here(client: TestClient, path: str, method: str) -> None:
    assert client.request(method, path).status_code in (401, 403, 405)
