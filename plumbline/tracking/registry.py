"""The model registry: versions of the policy, and the aliases champion, challenger, previous and awaiting.

A version is one content digest: registering the same bytes again finds the version that exists. Every move of
an alias is written down as a tag of the registered model, with its reason and who moved it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.locks import file_lock, gc_waits
from plumbline.tracking.store import MlflowStore

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
AWAITING = "awaiting"
"""The alias of a version that passed every rule and waits for a person's approval."""
SNAPSHOT = "snapshot"
"""The tag with DVC's digest of the snapshot that a version learned from."""
DIGEST = "dvc.md5"
COMPARED_WITH = "compared_with"
EVALUATED_BY, REGISTERED_BY = "pipeline_run", "registered_by"
"""The tags with the pipeline run that evaluated a version last, and with the one that registered it; versions
from before there was the second have only the first.
"""
NOBODY, OPEN = "none", "open"
NO_CHAMPION = 0
"""The number of the champion where there is none: versions begin with 1."""
MOST_VERSIONS = 10_000
MOVE = "plumbline.move."
"""Begins the tag of a move; its UTC time follows."""
LONGEST_REASON = 2000
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How MLflow says that there is no such model or version, and no such alias."""
ROLLED_BACK = "rolled_back"
"""The tag of a version that a person has taken out of use; its value is the reason."""


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
    """True if that comparison counts; not if another version became champion meanwhile."""
    rolled_back: str | None
    """Why a person took it out of use; only a person puts it back."""


class Registry:
    """The versions of one registered model."""

    def __init__(self, store: MlflowStore, name: str) -> None:
        self._store = store
        self._home = store.home
        self._client = store.client
        self.name = name

    @classmethod
    def open(cls, home: Home, name: str) -> "Registry":
        """Return the registry in the project's MLflow store. Raises StoreGone if there is no store."""
        return cls(MlflowStore(home), name)

    def champion(self) -> PolicyVersion | None:
        """Return the policy in use, if there is one."""
        return self.aliased(CHAMPION)

    def aliased(self, alias: str) -> PolicyVersion | None:
        """Return the version that carries an alias, if one does."""
        from mlflow.exceptions import MlflowException

        try:
            return _policy(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            _expect_absent(error)
            return None

    def find(self, md5: str) -> PolicyVersion | None:
        """Return the version with these bytes, the first if there are several; `md5` is DVC's digest."""
        query = f"name = '{self.name}' and tags.`{DIGEST}` = '{md5}'"
        found = self._client.search_model_versions(query, max_results=10)
        return min((_policy(version) for version in found), key=lambda policy: policy.version, default=None)

    def version(self, number: int) -> PolicyVersion | None:
        """Return the version of a number, or None if there is none or it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return _policy(self._client.get_model_version(self.name, str(number)))
        except MlflowException as error:
            _expect_absent(error)
            return None

    def versions(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """Return all versions as (number, pipeline run that evaluated it last, aliases), newest first."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(self.name).aliases
        except MlflowException as error:
            _expect_absent(error)
            return []
        found = self._client.search_model_versions(f"name = '{self.name}'", max_results=MOST_VERSIONS)
        versions = []
        for one in sorted(found, key=lambda one: int(one.version), reverse=True):
            names = sorted(name for name, number in aliases.items() if int(number) == int(one.version))
            versions.append((int(one.version), one.tags.get(EVALUATED_BY, ""), tuple(names)))
        return versions

    def tag(self, number: int, name: str) -> str | None:
        """Return a tag of a version; None if there is no such version or tag."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version(self.name, str(number)).tags.get(name)
        except MlflowException as error:
            _expect_absent(error)
            return None
        return str(found) if found is not None else None

    def to_compare_with(self, md5: str) -> PolicyVersion | None:
        """Return the champion that the policy with these bytes must beat, if there is one.

        A policy that is registered already meets the champion of its own time again: otherwise an unchanged
        pipeline would be evaluated anew after each promotion, against itself. One that was left open and is
        in use since a person promoted it meets the one that it replaced.
        """
        known, champion = self.find(md5), self.champion()
        if known and not known.settled and champion and champion.version == known.version:
            return self.aliased(PREVIOUS)
        if known is None or not known.settled:
            return champion
        return self.version(known.compared_with) if known.compared_with else None

    def register(self, md5: str, model_id: str, run_id: str, compared_with: int | None,
                 tags: Mapping[str, str]) -> PolicyVersion:
        """Return the version of these bytes, made if there is none.

        A version that is known gets the tags of its newest evaluation: with whom it was compared, and the run
        whose record has the figures, belong together. The MLflow model and run may be named by ids of ours.
        """
        known = self.find(md5)
        if known:
            for key, value in {**tags, COMPARED_WITH: str(compared_with or NOBODY)}.items():
                self._client.set_model_version_tag(self.name, str(known.version), key, value)
            return known
        self._ensure_model()
        model = self._existing(self._store.find(model_id)) or self._pointer(md5)
        marks = {DIGEST: md5, COMPARED_WITH: str(compared_with or NOBODY), "model_id": model}
        if EVALUATED_BY in tags:
            marks[REGISTERED_BY] = tags[EVALUATED_BY]
        made = self._client.create_model_version(self.name, source=f"models:/{model}", tags={**tags, **marks},
                                                 run_id=self._store.find(run_id), model_id=model)
        return _policy(made)

    def _existing(self, model_id: str | None) -> str | None:
        """Return the id of a logged model if this store has it: a receipt may be older than the store."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_logged_model(model_id).model_id) if model_id else None
        except MlflowException as error:
            _expect_absent(error)
            return None

    def _pointer(self, md5: str) -> str:
        """Log and return a model that stands for bytes whose own was lost with an earlier store."""
        marks = {DIGEST: md5}
        made = self._client.create_logged_model(self._store.experiment, name=self.name, model_type=self.name,
                                                tags=marks, params=marks)
        self._client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)

    def leave_open(self, version: int) -> None:
        """Let the next run compare the version with the champion of that time."""
        self._client.set_model_version_tag(self.name, str(version), COMPARED_WITH, OPEN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this machine from moving an alias."""
        with file_lock(self._home.folder / "registry.lock"):
            yield

    def make_challenger(self, version: int, reason: str, by: str) -> None:
        """Set the alias of the newest version."""
        self._move(CHALLENGER, version, reason, by)

    def make_awaiting(self, version: int, reason: str, by: str) -> None:
        """Let a version wait for a person's approval; another one that waited waits no longer."""
        self._move(AWAITING, version, reason, by)

    def stop_waiting(self, version: int) -> None:
        """Let a version that no longer passes every rule wait for nobody's approval."""
        waiting = self.aliased(AWAITING)
        if waiting and waiting.version == version:
            self._client.delete_registered_model_alias(self.name, AWAITING)

    def make_champion(self, version: int, reason: str, by: str) -> None:
        """Put a version into use; the one before keeps the alias `previous`."""
        self._end_waiting(version)
        before = self.champion()
        if before and before.version == version:
            return
        if before:
            self._move(PREVIOUS, before.version, f"version {version} became champion", by)
        self._move(CHAMPION, version, reason, by)

    def promote(self, version: int, reason: str, by: str, seen: int | None = None) -> PolicyVersion:
        """Put a version into use because a person says so.

        `seen` is the champion that the person knew of, NO_CHAMPION where there was none, and None where
        nobody looked. Raises UserError for a version that does not exist, is champion already, or whose bytes
        are nowhere; without a reason; and when the champion is not, or no longer, the one that was seen.
        """
        chosen = self.version(version)
        if chosen is None:
            known = ", ".join(str(number) for number, _, _ in self.versions()[:10]) or "none"
            raise UserError(f"`{self.name}` has no version {version}; the newest are {known}.")
        before = self.champion()
        if before and before.version == version:
            raise UserError(f"Version {version} of `{self.name}` is the champion already.")
        with self._prepared(chosen, reason), self._unchanged(before, seen):
            self._client.delete_model_version_tag(self.name, str(version), ROLLED_BACK)
            self.make_champion(version, reason, by)
        return chosen

    def roll_back(self, reason: str, by: str, seen: int | None = None) -> PolicyVersion:
        """Let champion and previous version change places, because a person says so.

        No run makes the version that was taken out of use champion again by itself: that takes `promote`.
        Raises UserError where nothing came before, and as `promote` does.
        """
        before, chosen = self.champion(), self.aliased(PREVIOUS)
        if before is None or chosen is None or chosen.version == before.version:
            raise UserError(f"`{self.name}` cannot be rolled back: expected a champion and a version before "
                            f"it, found {f'version {before.version} alone' if before else 'no champion'}.")
        with self._prepared(chosen, reason), self._unchanged(before, seen):
            short = reason[:LONGEST_REASON]
            self._client.set_model_version_tag(self.name, str(before.version), ROLLED_BACK, short)
            self._client.delete_model_version_tag(self.name, str(chosen.version), ROLLED_BACK)
            self._end_waiting(chosen.version)
            self._move(CHAMPION, chosen.version, reason, by)
            self._move(PREVIOUS, before.version, f"rolled back to version {chosen.version}", by)
        return chosen

    @contextmanager
    def _prepared(self, chosen: PolicyVersion, reason: str) -> Iterator[None]:
        """Fetch the bytes of a version that is to be used, and keep gc from them until an alias names them.

        Raises UserError if some are nowhere.
        """
        from plumbline.project.dvc_objects import Storage

        if not reason.strip():
            raise UserError("A champion is not changed without a reason: say why, for whoever reads the "
                            "history.")
        with gc_waits(self._home.folder):
            storage = Storage(self._home)
            storage.drop_damaged([chosen.md5])
            lacking = storage.fetch([chosen.md5])
            if lacking:
                raise UserError(f"Version {chosen.version} of `{self.name}` cannot be put into use: "
                                f"{len(lacking)} of its files, such as {min(lacking)}, are nowhere. Looked "
                                f"in {storage.where()}.")
            yield

    @contextmanager
    def _unchanged(self, before: PolicyVersion | None, seen: int | None) -> Iterator[None]:
        """Keep others from moving an alias. Raises UserError if one has since the champion was seen."""
        with self.alone():
            now, then = _number(self.champion()), _number(before) if seen is None else seen
            if now != then:
                raise UserError(f"The champion of `{self.name}` has changed meanwhile: expected "
                                f"{_named(then)}, found {_named(now)}. Look again, then decide again.")
            yield

    def _end_waiting(self, champion: int) -> None:
        """Let nothing wait once another version is in use: what waited was not compared with that one."""
        waiting = self.aliased(AWAITING)
        if waiting is None:
            return
        self._client.delete_registered_model_alias(self.name, AWAITING)
        if waiting.version != champion:
            self.leave_open(waiting.version)

    def _move(self, alias: str, version: int, reason: str, by: str) -> None:
        before = self.aliased(alias)
        if before and before.version == version:
            return
        now = datetime.now(UTC)
        move = {"alias": alias, "before": before.version if before else None, "after": version,
                "reason": reason[:LONGEST_REASON], "by": by, "when": now.isoformat(timespec="seconds")}
        # The reason first: who tries again after a kill finds that the alias has moved, and writes nothing.
        self._client.set_registered_model_tag(self.name, f"{MOVE}{now:%Y%m%dT%H%M%S.%fZ}", json.dumps(move))
        self._client.set_registered_model_alias(self.name, alias, str(version))

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            _expect_absent(error)
            self._client.create_registered_model(self.name)


def _number(champion: PolicyVersion | None) -> int:
    return champion.version if champion else NO_CHAMPION


def _named(number: int) -> str:
    return "none" if number == NO_CHAMPION else f"version {number}"


def _expect_absent(error: "MlflowException") -> None:
    """Raise MLflow's error again unless it means that there is no such model, version or alias."""
    if error.error_code not in ABSENT:
        raise error


def _policy(version: "ModelVersion") -> PolicyVersion:
    compared = version.tags.get(COMPARED_WITH, NOBODY)
    return PolicyVersion(int(version.version), version.tags.get(DIGEST, ""), version.tags.get("model_id", ""),
                         int(compared) if compared.isdecimal() else None, settled=compared != OPEN,
                         rolled_back=version.tags.get(ROLLED_BACK))
