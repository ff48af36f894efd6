"""The stage `champion` by itself: which version it takes, and where its bytes are nowhere."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from plumbline.errors import UserError
from plumbline.project import dvc_objects
from plumbline.tracking.registry import PolicyVersion, Registry
from tasks.champion import _to_compare_with
from tasks.stage import StageRun

FIRST, NOW = (PolicyVersion(number, f"{number}" * 32 + ".dir", "", None, True, None) for number in (1, 2))


def chosen(monkeypatch: pytest.MonkeyPatch, gone: list[PolicyVersion], now: PolicyVersion | None,
           policy: str = "new") -> PolicyVersion | None:
    """What a policy must beat that once met the first version, where the bytes of some are gone."""
    registry = SimpleNamespace(name="policy", to_compare_with=lambda _: FIRST, champion=lambda: now)
    storage = SimpleNamespace(where=lambda: "the cache here", fetch=lambda wanted: {
        one.md5 for one in gone if one.md5 in wanted})
    monkeypatch.setattr(Registry, "open", lambda *_: registry)
    monkeypatch.setattr(dvc_objects, "Storage", lambda _: storage)
    params = SimpleNamespace(promote=SimpleNamespace(model_name="policy"))
    return _to_compare_with(cast(StageRun, SimpleNamespace(home=Path(), params=params)), policy)


def test_where_the_bytes_of_an_earlier_champion_are_freed_that_of_now_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, [], NOW) == FIRST
    assert chosen(monkeypatch, [FIRST], NOW) == NOW
    assert chosen(monkeypatch, [FIRST], NOW, policy=NOW.md5) is None
    assert chosen(monkeypatch, [FIRST], None) is None


def test_a_champion_whose_bytes_are_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"version 2 of policy, and 1 of its files, such as {NOW.md5}, are gone\. "
                                        r"Looked in the cache here\. `plumbline push` .* `plumbline retry`"):
        chosen(monkeypatch, [FIRST, NOW], NOW)
