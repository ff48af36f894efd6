"""The work pool of Kubernetes: what Prefect makes of its template, against the schemas of Kubernetes."""

import asyncio
import json

import kubernetes_validate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.base import BaseJobConfiguration
from pydantic import Field
from ruamel.yaml import YAML

from testing.fake_project import CHECKOUT

FOLDER = CHECKOUT / "deploy/kubernetes"
TEMPLATE = json.loads((FOLDER / "flow-pool.json").read_text(encoding="utf-8"))
SHARED = list(YAML(typ="safe").load_all((FOLDER / "project.yaml").read_text(encoding="utf-8")))
VERSIONS = "1.32", "1.37"


class Rendered(BaseJobConfiguration):
    """As prefect-kubernetes has it, which is not installed for the tests."""

    namespace: str = Field()
    job_manifest: dict[str, object] = Field(json_schema_extra={"template": {}})


def job(**values: object) -> dict[str, object]:
    """The job that is sent to the cluster; Prefect's class makes lists of variables and command."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):  # nothing is asked there
        made = asyncio.run(Rendered.from_template_and_values(TEMPLATE, values)).job_manifest
    container = made["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    return made


def test_the_job_is_valid() -> None:
    made = job(image="plumbline:1", name="retrain", env={"PLUMBLINE_HOME": "/plumbline/.plumbline"},
               gpus=1, command="prefect flow-run execute", labels={"team": "rlhf"})
    pod = made["spec"]["template"]["spec"]
    # Prefect's worker refuses a template without these two, which are no fields of a pod; clusters drop them.
    assert [pod.pop("completions"), pod.pop("parallelism")] == [1, 1]
    assert pod["containers"][0]["name"] == "prefect-job"  # and one whose container has another name
    for version in VERSIONS:
        kubernetes_validate.validate(made, version, strict=True)
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}


def test_what_pods_share_is_valid() -> None:
    assert [one["kind"] for one in SHARED] == ["PersistentVolumeClaim", "ServiceAccount", "Role", "RoleBinding"]
    for one in SHARED:
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def test_a_flow_and_its_stages_see_the_same_folders() -> None:
    """What a job makes must outlive it, and a stage's pods find the run where the flow has it."""
    flow = job(image="plumbline:1", name="retrain", env={}, command="true")["spec"]["template"]["spec"]
    kept = {mount["mountPath"] for mount in flow["containers"][0]["volumeMounts"] if mount["name"] == "project"}
    assert kept == {"/plumbline/data", "/plumbline/runs", "/plumbline/.plumbline"}
    stage = YAML(typ="safe").load((CHECKOUT / "deploy/launchers/kubernetes-job.yaml").read_text(encoding="utf-8"))
    pod = stage["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"] == flow["containers"][0]["volumeMounts"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for one in (flow, pod) for volume in one["volumes"]
              if volume["name"] == "project"]
    assert claims == [SHARED[0]["metadata"]["name"]] * 2
    assert flow["serviceAccountName"] == SHARED[1]["metadata"]["name"]
