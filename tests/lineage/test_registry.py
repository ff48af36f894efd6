"""Versions and aliases, in a real MLflow store."""

import pytest

from plumbline.lineage import tracking
from plumbline.lineage.home import Home
from plumbline.lineage.registry import CHALLENGER, PREVIOUS, Registry


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry.open(home, "policy")


def register(home: Home, registry: Registry, md5: str, compared_with: int | None = None) -> int:
    client = tracking.connect(home)
    run = tracking.Recording(client, tracking.experiment(client, home), "ppo", {})
    model = run.model("policy", {"dvc.md5": md5})
    return registry.register(md5, model, run.run_id, compared_with, {"snapshot": "s"}).version


def test_the_life_of_two_champions(home: Home, registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.to_compare_with("a.dir") is None

    first = register(home, registry, "a.dir")
    registry.make_challenger(first)
    registry.make_champion(first)
    champion = registry.champion()
    assert champion and (champion.version, champion.md5, champion.compared_with) == (1, "a.dir", None)

    # The champion itself meets whom it met then, a new policy meets the champion.
    assert registry.to_compare_with("a.dir") is None
    other = registry.to_compare_with("b.dir")
    assert other and other.version == first

    second = register(home, registry, "b.dir", compared_with=first)
    registry.make_challenger(second)
    registry.make_champion(second)
    now, before = registry.champion(), registry.aliased(PREVIOUS)
    assert now and before and (now.version, before.version) == (second, first)
    again = registry.to_compare_with("b.dir")
    assert again and again.version == first

    registry.make_champion(second)  # a second time changes nothing
    before, challenger = registry.aliased(PREVIOUS), registry.aliased(CHALLENGER)
    assert before and challenger and (before.version, challenger.version) == (first, second)


def test_the_same_bytes_make_one_version(home: Home, registry: Registry) -> None:
    assert register(home, registry, "a.dir") == register(home, registry, "a.dir") == 1


def test_the_version_points_at_the_model_and_the_run_that_made_it(home: Home, registry: Registry) -> None:
    client = tracking.connect(home)
    run = tracking.Recording(client, tracking.experiment(client, home), "ppo", {})
    model = run.model("policy", {"dvc.md5": "a.dir"})
    registry.register("a.dir", model, run.run_id, None, {"snapshot": "s.dir"})
    version = client.get_model_version("policy", "1")
    assert (version.source, version.run_id) == (f"models:/{model}", run.run_id)
    assert version.tags["snapshot"] == "s.dir"
    assert version.tags["compared_with"] == "none"


def test_a_version_that_was_overtaken_meets_the_new_champion_next_time(home: Home, registry: Registry) -> None:
    first, second = register(home, registry, "a.dir"), register(home, registry, "b.dir")
    registry.make_champion(second)
    assert registry.to_compare_with("a.dir") is None
    registry.leave_open(first)
    other = registry.to_compare_with("a.dir")
    assert other and other.version == second
    assert register(home, registry, "a.dir", compared_with=second) == first
    settled = registry.find("a.dir")
    assert settled and (settled.compared_with, settled.settled) == (second, True)
