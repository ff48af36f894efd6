"""Why a stage ran, from two entries of dvc.lock."""

from pathlib import Path

import pytest

from plumbline.project.digests import listing
from plumbline.project.dvc_yaml import LockEntry
from plumbline.runs import outcome
from plumbline.runs.outcome import changed_files, why


def entry(**changes: object) -> LockEntry:
    deps = [{"path": "models/sft/model", "md5": "a.dir"}, {"path": "plumbline/alignment", "md5": "b.dir"},
            {"path": "tasks/ppo.py", "md5": "c"}]
    params = {"params.yaml": {"seed": 0, "ppo": {"kl_coef": 0.05, "kl_target": None, "clip": 0.2}}}
    return {"cmd": "python -m tasks.ppo", "deps": deps, "params": params, **changes}


def nothing_known(_path: str) -> list[str]:
    return []


def test_no_earlier_run() -> None:
    assert why(entry(), None, nothing_known) == "first run"


@pytest.mark.parametrize(("params", "reason"), [
    ({"seed": 0, "ppo": {"kl_coef": 0.1, "kl_target": None, "clip": 0.2}}, "parameter ppo.kl_coef 0.05 -> 0.1"),
    ({"seed": 1, "ppo": {"kl_coef": 0.05, "kl_target": None, "clip": 0.2}}, "parameter seed 0 -> 1"),
    ({"seed": 0, "ppo": {"kl_coef": 0.05, "kl_target": 6.0, "clip": 0.2}}, "parameter ppo.kl_target null -> 6.0"),
    ({"seed": 0, "ppo": {"kl_coef": 0.05, "kl_target": None, "clip": 0.2, "gamma": 1.0}},
     "parameter ppo.gamma (absent) -> 1.0"),
    ({"seed": 0, "ppo": {"kl_coef": 0.05, "clip": 0.2}}, "parameter ppo.kl_target null -> (absent)"),
])
def test_parameters(params: dict[str, object], reason: str) -> None:
    assert why(entry(params={"params.yaml": params}), entry(), nothing_known) == reason


def test_an_input() -> None:
    deps = [{"path": "models/sft/model", "md5": "new.dir"}, *entry()["deps"][1:]]  # type: ignore[index]
    assert why(entry(deps=deps), entry(), nothing_known) == "input models/sft/model changed"
    named = why(entry(deps=deps), entry(), lambda path: ["a", "b", "c", "d", "e"])
    assert named == "input models/sft/model changed (a, b, c and 2 more)"


def test_code_names_the_files() -> None:
    old = entry()
    new_deps = [{**dep, "md5": "new"} if dep["path"] != "models/sft/model" else dep
                for dep in old["deps"]]  # type: ignore[attr-defined]
    files = {"plumbline/alignment": ["ppo.py"]}
    found = why(entry(deps=new_deps), old, lambda path: files.get(path, []))
    assert found == "code plumbline/alignment/ppo.py changed; code tasks/ppo.py changed"


def test_dependencies_that_came_and_went() -> None:
    deps = [*entry()["deps"][:2], {"path": "plumbline/lm", "md5": "d.dir"}]  # type: ignore[index]
    found = why(entry(deps=deps), entry(), nothing_known)
    assert found == "code plumbline/lm is new; code tasks/ppo.py is no longer used"


def test_the_command() -> None:
    assert why(entry(cmd="accelerate launch"), entry(), nothing_known) == "command changed"


def test_nothing_differs_yet_it_ran() -> None:
    assert why(entry(), entry(), nothing_known) == "its earlier result is no longer in the cache"


def test_several_reasons_are_all_given() -> None:
    params = {"params.yaml": {"seed": 1, "ppo": {"kl_coef": 0.1, "kl_target": None, "clip": 0.2}}}
    found = why(entry(params=params, cmd="x"), entry(), nothing_known)
    assert found == "parameter seed 0 -> 1; parameter ppo.kl_coef 0.05 -> 0.1; command changed"


def test_files_of_a_run_that_gc_deletes_at_this_moment_have_no_names(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for root, text in ((new, "1"), (old, "0")):
        (root / "data").mkdir(parents=True)
        (root / "data/rows").write_text(text)
    assert changed_files(new, old, "data") == ["rows"]

    def listed(folder: Path) -> dict[str, str]:
        if old.exists():
            old.rename(tmp_path / ".old-")  # as gc does first
        return listing(folder)

    monkeypatch.setattr(outcome, "listing", listed)
    assert changed_files(new, old, "data") == []
    assert changed_files(new, old, "data") == [], "it is gone by now"
