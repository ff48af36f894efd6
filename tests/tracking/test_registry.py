"""Versions and aliases, in a real MLflow store."""

import contextlib
import json

import pytest
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.project.digests import cached_file, cached_listing, digest
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home
from plumbline.project.locks import GC_LOCK, try_lock
from plumbline.tracking.recording import Recording
from plumbline.tracking.registry import CHALLENGER, MOVE, NO_CHAMPION, PREVIOUS, Registry
from plumbline.tracking.store import connect

WHY = ("a test", "tester")


@pytest.fixture
def registry(recording_home: Home) -> Registry:
    return Registry.open(recording_home, "policy")


def register(home: Home, registry: Registry, md5: str, compared_with: int | None = None) -> int:
    run = Recording(home, "ppo", {})
    model = run.model("policy", {"dvc.md5": md5})
    return registry.register(md5, model, run.run_id, compared_with, {"snapshot": "s"}).version


def test_the_life_of_two_champions(home: Home, registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.to_compare_with("a.dir") is None

    first = register(home, registry, "a.dir")
    registry.make_challenger(first, *WHY)
    registry.make_champion(first, *WHY)
    champion = registry.champion()
    assert champion and (champion.version, champion.md5, champion.compared_with) == (1, "a.dir", None)

    # The champion itself meets whom it met then, a new policy meets the champion.
    assert registry.to_compare_with("a.dir") is None
    other = registry.to_compare_with("b.dir")
    assert other and other.version == first

    second = register(home, registry, "b.dir", compared_with=first)
    registry.make_challenger(second, *WHY)
    registry.make_champion(second, *WHY)
    now, before = registry.champion(), registry.aliased(PREVIOUS)
    assert now and before and (now.version, before.version) == (second, first)
    again = registry.to_compare_with("b.dir")
    assert again and again.version == first

    registry.make_champion(second, *WHY)  # a second time changes nothing
    before, challenger = registry.aliased(PREVIOUS), registry.aliased(CHALLENGER)
    assert before and challenger and (before.version, challenger.version) == (first, second)


def moves(home: Home) -> list[tuple[str, int | None, int, str, str]]:
    tags = connect(home).get_registered_model("policy").tags
    found = [json.loads(tags[name]) for name in sorted(tags) if name.startswith(MOVE)]
    return [(move["alias"], move["before"], move["after"], move["reason"], move["by"]) for move in found]


def test_every_move_of_an_alias_is_written_down(home: Home, registry: Registry) -> None:
    first, second = register(home, registry, "a.dir"), register(home, registry, "b.dir")
    registry.make_champion(first, "better than SFT", "run 1")
    registry.make_champion(second, "better than both", "run 2")
    registry.make_champion(second, "nothing moves", "run 3")
    assert moves(home) == [("champion", None, 1, "better than SFT", "run 1"),
                           ("previous", None, 1, "version 2 became champion", "run 2"),
                           ("champion", 1, 2, "better than both", "run 2")]


@pytest.mark.parametrize("done", ["set_registered_model_tag", "set_registered_model_alias"])
def test_a_stop_amid_a_move_leaves_no_champion_without_a_reason(
        home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch, done: str) -> None:
    """Whether the process was killed after the record or after the move, and the stage runs once more."""
    first = register(home, registry, "a.dir")
    do = getattr(registry._client, done)

    def do_and_stop(*arguments: str) -> None:
        do(*arguments)
        raise SystemExit

    monkeypatch.setattr(registry._client, done, do_and_stop)
    with pytest.raises(SystemExit):
        registry.make_champion(first, "better than SFT", "run 1")
    monkeypatch.undo()
    registry.make_champion(first, "better than SFT", "run 1")
    champion = registry.champion()
    assert champion and champion.version == first
    assert set(moves(home)) == {("champion", None, 1, "better than SFT", "run 1")}


def test_who_registered_a_version_is_kept_when_others_evaluate_it(home: Home, registry: Registry) -> None:
    model = Recording(home, "ppo", {}).model("policy", {"dvc.md5": "a.dir"})
    for run in ("first", "second"):
        version = registry.register("a.dir", model, "", None, {"pipeline_run": run}).version
        assert (registry.tag(version, "registered_by"), registry.tag(version, "pipeline_run")) == ("first", run)


@pytest.fixture
def two_versions(home: Home, registry: Registry) -> list[str]:
    """Versions 1, the previous one, and 2, the champion, with their bytes in the cache; their digests."""
    repository = Repo.init(str(home.root), no_scm=True)
    with repository.config.edit("local") as local:
        local["cache"]["dir"] = str(home.cache)
    digests = []
    for number in (1, 2):
        folder = home.root / f"model{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(f"weights {number}")
        with contextlib.chdir(home.root):
            Repo(str(home.root)).add([str(folder)])
        digests.append(digest(folder))
        registry.make_champion(register(home, registry, digests[-1]), *WHY)
    return digests


def champion_and_previous(registry: Registry) -> tuple[int, int]:
    champion, previous = registry.champion(), registry.aliased(PREVIOUS)
    assert champion and previous
    return champion.version, previous.version


def test_rolling_back_and_promoting_again(home: Home, registry: Registry, two_versions: list[str]) -> None:
    assert registry.roll_back("it swears", "ann").version == 1
    assert champion_and_previous(registry) == (1, 2)
    assert moves(home)[-2:] == [("champion", 2, 1, "it swears", "ann"),
                                ("previous", 1, 2, "rolled back to version 1", "ann")]
    # A run that measures it again does not put it back by itself; a person may.
    out_of_use = registry.find(two_versions[1])
    assert out_of_use and out_of_use.rolled_back == "it swears"
    registry.promote(2, "the complaint was wrong", "ann")
    assert champion_and_previous(registry) == (2, 1)
    back = registry.find(two_versions[1])
    assert back and back.rolled_back is None


def test_a_decision_about_another_champion_is_refused(registry: Registry, two_versions: list[str]) -> None:
    with pytest.raises(UserError, match="expected version 1, found version 2"):
        registry.roll_back("a page that was open for a day", "ann", seen=1)
    assert champion_and_previous(registry) == (2, 1)
    assert registry.roll_back("the page of now", "ann", seen=2).version == 1


def test_who_saw_no_champion_replaces_none(registry: Registry, two_versions: list[str]) -> None:
    with pytest.raises(UserError, match="expected none, found version 2"):
        registry.promote(1, "the first one", "ann", seen=NO_CHAMPION)
    assert champion_and_previous(registry) == (2, 1)
    registry.promote(1, "whatever is in use", "ann", seen=None)
    assert champion_and_previous(registry) == (1, 2)


def test_who_saw_no_champion_makes_the_first(home: Home, registry: Registry,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "drop_damaged", lambda *_: None)
    monkeypatch.setattr(Storage, "fetch", lambda *_: [])
    Repo.init(str(home.root), no_scm=True)
    register(home, registry, "a.dir")
    assert registry.promote(1, "it is kind", "ann", seen=NO_CHAMPION).version == 1


def test_a_version_whose_bytes_are_nowhere_is_not_put_into_use(home: Home, registry: Registry,
                                                               two_versions: list[str]) -> None:
    listing = cached_listing(home.cache, two_versions[0])
    assert listing is not None
    cached_file(home.cache, listing["model.safetensors"]).unlink()
    with pytest.raises(UserError, match=r"Version 1 of `policy` cannot be put into use: 1 of its files"):
        registry.roll_back("it swears", "ann")
    assert champion_and_previous(registry) == (2, 1)


@pytest.mark.parametrize(("version", "reason", "words"), [
    (9, "why not", "has no version 9; the newest are 2, 1"),
    (2, "why not", "Version 2 of `policy` is the champion already"),
    (1, " ", "without a reason"),
])
def test_what_cannot_be_promoted(registry: Registry, two_versions: list[str], version: int, reason: str,
                                 words: str) -> None:
    with pytest.raises(UserError, match=words):
        registry.promote(version, reason, "ann")
    assert champion_and_previous(registry) == (2, 1)


def test_nothing_to_roll_back_to(home: Home, registry: Registry) -> None:
    with pytest.raises(UserError, match="found no champion"):
        registry.roll_back("why not", "ann")
    registry.make_champion(register(home, registry, "a.dir"), *WHY)
    with pytest.raises(UserError, match="found version 1 alone"):
        registry.roll_back("why not", "ann")


def test_gc_and_a_change_of_the_champion_wait_for_each_other(home: Home, registry: Registry,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise gc could free the bytes of a version that is just being put into use."""
    held, make_champion = [], Registry.make_champion

    def look() -> None:
        with try_lock(home.folder / GC_LOCK) as free:
            held.append(not free)

    def fetch(_storage: Storage, _digests: list[str]) -> list[str]:
        look()
        return []

    def made_champion(self: Registry, version: int, reason: str, by: str) -> None:
        make_champion(self, version, reason, by)
        look()

    monkeypatch.setattr(Registry, "make_champion", made_champion)
    monkeypatch.setattr(Storage, "drop_damaged", lambda *_: None)
    monkeypatch.setattr(Storage, "fetch", fetch)
    Repo.init(str(home.root), no_scm=True)
    register(home, registry, "a.dir")
    registry.promote(1, "it is kind", "ann")
    assert held == [True, True], "from the look at the bytes until an alias names them"
    with try_lock(home.folder / GC_LOCK) as free:
        assert free


def test_the_same_bytes_make_one_version(home: Home, registry: Registry) -> None:
    assert register(home, registry, "a.dir") == register(home, registry, "a.dir") == 1


def test_the_run_and_the_opponent_of_a_version_are_those_of_its_newest_evaluation(home: Home,
                                                                                 registry: Registry) -> None:
    register(home, registry, "a.dir")
    register(home, registry, "b.dir")
    for run, champion in (("monday", None), ("tuesday", 1)):
        registry.register("b.dir", "model", "run", champion, {"snapshot": "s", "pipeline_run": run})
        tags = connect(home).get_model_version("policy", "2").tags
        assert (tags["pipeline_run"], tags["compared_with"]) == (run, str(champion or "none"))
    assert [(number, run) for number, run, _ in registry.versions()] == [(2, "tuesday"), (1, "")]


def test_the_version_points_at_the_model_and_the_run_that_made_it(home: Home, registry: Registry) -> None:
    run = Recording(home, "ppo", {})
    model = run.model("policy", {"dvc.md5": "a.dir"})
    registry.register("a.dir", model, run.run_id, None, {"snapshot": "s.dir"})
    version = connect(home).get_model_version("policy", "1")
    assert (version.source, version.run_id) == (f"models:/{model}", run.run_id)
    assert version.tags["snapshot"] == "s.dir"
    assert version.tags["compared_with"] == "none"


def test_a_version_that_was_overtaken_meets_the_new_champion_next_time(home: Home, registry: Registry) -> None:
    first, second = register(home, registry, "a.dir"), register(home, registry, "b.dir")
    registry.make_champion(second, *WHY)
    assert registry.to_compare_with("a.dir") is None
    registry.leave_open(first)
    other = registry.to_compare_with("a.dir")
    assert other and other.version == second
    assert register(home, registry, "a.dir", compared_with=second) == first
    settled = registry.find("a.dir")
    assert settled and (settled.compared_with, settled.settled) == (second, True)


def test_a_version_that_was_left_open_and_promoted_by_a_person_meets_the_one_it_replaced(
    home: Home, registry: Registry
) -> None:
    first, second = register(home, registry, "a.dir"), register(home, registry, "b.dir")
    registry.make_champion(second, *WHY)
    registry.leave_open(first)
    registry.make_champion(first, *WHY)
    other = registry.to_compare_with("a.dir")
    assert other and other.version == second, "never itself"


def test_a_model_from_a_store_that_was_lost_is_registered_in_the_new_one(home: Home, registry: Registry) -> None:
    version = registry.register("a.dir", "m-" + "0" * 32, "1" * 32, None, {})
    assert (version.version, version.md5) == (1, "a.dir")
    again = registry.find("a.dir")
    assert again and again.model_id == version.model_id != "m-" + "0" * 32
