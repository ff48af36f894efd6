"""The model registry: versions of the policy, and the aliases champion, challenger and previous.

A version is one content digest: registering the same bytes again finds the version that exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.lineage import tracking
from plumbline.lineage.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DIGEST = "dvc.md5"
COMPARED_WITH = "compared_with"
NOBODY, OPEN = "none", "open"
MOST_VERSIONS = 10_000


@dataclass(frozen=True)
class PolicyVersion:
    """One registered policy."""

    version: int
    md5: str
    """DVC's digest of the model's folder."""
    model_id: str
    """MLflow's logged model."""
    compared_with: int | None
    """The version that was champion when this one was evaluated, if there was one."""
    settled: bool
    """Whether that comparison counts; not if another version became champion meanwhile."""


class Registry:
    """The versions of one registered model."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client = client
        self.name = name

    @classmethod
    def open(cls, home: Home, name: str) -> "Registry":
        """The registry in the project's MLflow store."""
        return cls(tracking.connect(home), name)

    def champion(self) -> PolicyVersion | None:
        """The policy in use."""
        return self.aliased(CHAMPION)

    def aliased(self, alias: str) -> PolicyVersion | None:
        """The version that carries an alias."""
        from mlflow.exceptions import MlflowException

        try:
            return _policy(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException:
            return None

    def find(self, md5: str) -> PolicyVersion | None:
        """The version with these bytes."""
        query = f"name = '{self.name}' and tags.`{DIGEST}` = '{md5}'"
        found = self._client.search_model_versions(query, max_results=10)
        return min((_policy(version) for version in found), key=lambda policy: policy.version, default=None)

    def version(self, number: int) -> PolicyVersion | None:
        """The version of that number, unless someone deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            return _policy(self._client.get_model_version(self.name, str(number)))
        except MlflowException:
            return None

    def versions(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """Every version, newest first, with the pipeline run that registered it and its aliases."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(self.name).aliases
        except MlflowException:
            return []
        found = self._client.search_model_versions(f"name = '{self.name}'", max_results=MOST_VERSIONS)
        numbers = sorted(((int(one.version), one.tags.get("pipeline_run", "")) for one in found), reverse=True)
        return [(number, run, tuple(sorted(name for name, of in aliases.items() if int(of) == number)))
                for number, run in numbers]

    def to_compare_with(self, md5: str) -> PolicyVersion | None:
        """The champion that a policy must beat.

        A policy that is registered already meets the champion of its own time again: otherwise an unchanged pipeline
        would be evaluated anew after each promotion, against itself.
        """
        known = self.find(md5)
        if known is None or not known.settled:
            return self.champion()
        return self.version(known.compared_with) if known.compared_with else None

    def register(self, md5: str, model_id: str, run_id: str, compared_with: int | None,
                 tags: Mapping[str, str]) -> PolicyVersion:
        """The version of these bytes, made if there is none."""
        known = self.find(md5)
        if known:
            self._mark(known.version, compared_with)
            return known
        self._ensure_model()
        marks = {DIGEST: md5, COMPARED_WITH: str(compared_with or NOBODY), "model_id": model_id}
        made = self._client.create_model_version(self.name, source=f"models:/{model_id}", run_id=run_id,
                                                 tags={**tags, **marks})
        return _policy(made)

    def leave_open(self, version: int) -> None:
        """Let the next run compare the version with the champion of that time."""
        self._client.set_model_version_tag(self.name, str(version), COMPARED_WITH, OPEN)

    def make_challenger(self, version: int) -> None:
        """Name the newest version."""
        self._client.set_registered_model_alias(self.name, CHALLENGER, str(version))

    def make_champion(self, version: int) -> None:
        """Put a version into use; the one before keeps the alias `previous`."""
        before = self.champion()
        if before and before.version == version:
            return
        if before:
            self._client.set_registered_model_alias(self.name, PREVIOUS, str(before.version))
        self._client.set_registered_model_alias(self.name, CHAMPION, str(version))

    def _mark(self, version: int, compared_with: int | None) -> None:
        self._client.set_model_version_tag(self.name, str(version), COMPARED_WITH, str(compared_with or NOBODY))

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException:
            self._client.create_registered_model(self.name)


def _policy(version: "ModelVersion") -> PolicyVersion:
    compared = version.tags.get(COMPARED_WITH, NOBODY)
    return PolicyVersion(int(version.version), version.tags.get(DIGEST, ""), version.tags.get("model_id", ""),
                         int(compared) if compared.isdecimal() else None, settled=compared != OPEN)
