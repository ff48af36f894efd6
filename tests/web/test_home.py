"""The home page: what a new user, a user with a champion, and a user with a running pipeline find there."""

import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from plumbline.config import load_params
from plumbline.history.facts import shown_params
from plumbline.history.history import Move
from plumbline.project.home import Home
from plumbline.web.views.home import changed_code, changed_parameters, differences, win_rates
from testing.hostile import TEXTS, active_in
from testing.made_up import STAGES, fill, promotion, run, step, version, workspace
from testing.sites import site_behind, visit


@pytest.fixture
def anyone(empty: Home) -> TestClient:
    return visit(empty)


def test_a_new_project_says_how_to_begin(anyone: TestClient) -> None:
    page = anyone.get("/")
    assert page.status_code == 200
    for words in ("Nothing has run", "plumbline run", "plumbline data add"):
        assert words in page.text
    assert "http-equiv" not in page.text


def test_the_champion_since_when_why_and_how_good(anyone: TestClient) -> None:
    first = run()
    fill(site_behind(anyone).history, [first], [version(1, first, "champion")], [promotion(1)])
    page = anyone.get("/").text
    assert "Version 1 is in use" in page
    assert "20 Nov 2026, 10:05 UTC" in page
    assert "lower end above 0.5" in page
    assert "0.625 [0.575, 0.675], n = 400" in page
    assert f'href="/runs/{first.id}"' in page


def test_the_newest_promotion_counts(anyone: TestClient) -> None:
    """A champion that was rolled back to has been champion since then."""
    first, second = run(), run("20261120-110000-bbbbbb")
    back = Move("2026-11-20T12:00:00+00:00", "champion", 2, 1, "answers were too long", "ada")
    fill(site_behind(anyone).history, [first, second], [version(2, second, "previous", "challenger"),
                                                        version(1, first, "champion")],
         [back, promotion(2), promotion(1)])
    page = anyone.get("/").text
    assert "20 Nov 2026, 12:00 UTC" in page
    assert "answers were too long" in page
    assert "ada" in page
    assert "/compare?a=1&amp;b=2" in page  # the challenger beside it


def test_a_champion_whose_run_is_gone(anyone: TestClient) -> None:
    fill(site_behind(anyone).history, [], [version(1, run(), "champion")], [promotion(1)])
    page = anyone.get("/").text
    assert "Version 1 is in use" in page
    assert "records are gone" in page


def test_no_champion_after_a_failed_run(anyone: TestClient) -> None:
    fill(site_behind(anyone).history, [run(status="failed", message="The reward model failed its examination.")])
    page = anyone.get("/").text
    assert "No champion yet" in page
    assert "badge-failed" in page


class TestRunning:
    """While something runs the page shows it, and loads itself again."""

    @pytest.fixture
    def running(self, anyone: TestClient, tmp_path: Path) -> TestClient:
        report = ('{"stage": "ppo", "what": "", "step": 12, "total": 50, "eta_s": 95.2, "metrics": {"kl": 1.25}}\n'
                  '{"stage": "ppo", "what": "", "step": 13, "to')  # the last line is being written
        folder = workspace(tmp_path / "runs/now", {"logs/ppo.progress.jsonl": report})
        steps = {stage: step(stage) for stage in STAGES[:6]} | {"ppo": step("ppo", status="running", seconds=None)}
        fill(site_behind(anyone).history, [run("20261121-100000-cccccc", status="running", ended=None, steps=steps,
                                               folder=folder)])
        return anyone

    def test_progress(self, running: TestClient) -> None:
        page = running.get("/").text
        assert '<meta http-equiv="refresh" content="5">' in page
        assert "step 12 of 50, 1 min 35 s left" in page
        assert 'value="12" max="50"' in page

    def test_reloading_can_be_stopped(self, running: TestClient) -> None:
        page = running.get("/?reload=no").text
        assert "http-equiv" not in page
        assert "step 12 of 50" in page

    def test_a_link_out_of_the_workspace_is_not_followed(self, running: TestClient, tmp_path: Path) -> None:
        report = '{"what": "secret", "step": 1, "total": 2, "eta_s": 1, "metrics": {}}'
        (tmp_path / "elsewhere.jsonl").write_text(report)
        file = tmp_path / "runs/now/logs/ppo.progress.jsonl"
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere.jsonl")
        assert "secret" not in running.get("/").text


def test_latest_runs_and_the_way_to_the_others(anyone: TestClient) -> None:
    fill(site_behind(anyone).history, [run(f"20261120-1000{i:02d}-aaaaaa") for i in range(20)])
    page = anyone.get("/").text
    assert page.count('href="/runs/2026') == 8
    assert page.index("20261120-100019") < page.index("20261120-100018")
    assert "All 20 runs" in page


def test_trends_need_two_versions(anyone: TestClient) -> None:
    first, second = run(), run("20261120-110000-bbbbbb")
    history = site_behind(anyone).history
    fill(history, [first], [version(1, first)])
    assert "Over the versions" not in anyone.get("/").text
    fill(history, [first, second], [version(1, first), version(2, second, "champion")])
    page = anyone.get("/").text
    for words in ("Win rate against SFT", "held-out accuracy", "Rows learned from", "KL to SFT"):
        assert words in page


def test_what_has_changed_since_the_champion(anyone: TestClient, empty: Home) -> None:
    first = run(params={"ppo.clip": "0.75", "no.longer": "1"})
    fill(site_behind(anyone).history, [first], [version(1, first, "champion")], [promotion(1)])
    page = anyone.get("/").text
    assert "<code>ppo.clip</code> 0.75 → 0.2" in page
    assert "more</li>" in page  # the parameters that the made-up run does not have
    (empty.root / "params.yaml").write_text("broken: [")
    assert anyone.get("/").status_code == 200


def test_a_secret_that_is_as_it_was_has_not_changed_and_is_not_shown(anyone: TestClient, empty: Home) -> None:
    file = empty.root / "params.yaml"
    text = file.read_text().replace("webhook: null", "webhook: https://chat.example/hooks/s3cret")
    assert "s3cret" in text
    file.write_text(text)
    as_kept = shown_params(load_params(empty.root).model_dump())
    assert as_kept["retrain.webhook"] == "https://chat.example/***"
    one = run(params={**as_kept, "ppo.clip": "0.75"})
    fill(site_behind(anyone).history, [one], [version(1, one, "champion")], [promotion(1)])
    assert [change.name for change in changed_parameters(empty, one)] == ["ppo.clip"]
    file.write_text(text.replace("chat.example", "other.example"))
    changed = {change.name: (change.before, change.after) for change in changed_parameters(empty, one)}
    assert changed["retrain.webhook"] == ("https://chat.example/***", "https://other.example/***")
    assert "s3cret" not in anyone.get("/").text


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\nstages:\n=======\n", "stages: [", "- a\n", "", "stages: 1\n"])
def test_a_broken_dvc_yaml_leaves_the_page_whole(anyone: TestClient, empty: Home, text: str) -> None:
    first = run(git_commit="a" * 40)
    fill(site_behind(anyone).history, [first], [version(1, first, "champion")], [promotion(1)])
    (empty.root / "dvc.yaml").write_text(text)
    page = anyone.get("/")
    assert page.status_code == 200
    assert "Version 1 is in use" in page.text
    assert changed_code(empty, first) is None


def test_differences_are_by_name() -> None:
    found = differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"})
    assert [(one.name, one.before, one.after) for one in found] == [("b", "2", "3"), ("a", "1", None), ("c", None, "4")]


def test_changed_code_is_what_stages_depend_on(empty: Home) -> None:
    root = empty.root

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("tasks/ppo.py", "plumbline/web/app.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    commit = git("rev-parse", "HEAD")
    assert changed_code(empty, run(git_commit=commit)) == []
    for name in ("tasks/ppo.py", "plumbline/web/app.py"):
        (root / name).write_text("2\n")
    git("commit", "-qam", "change")
    assert changed_code(empty, run(git_commit=git("rev-parse", "HEAD"))) == []
    from plumbline.web.views import home as overview
    overview._git_diff.cache_clear()
    assert changed_code(empty, run(git_commit=commit)) == ["tasks/ppo.py"]  # the pages are no part of a stage
    for unknown in (None, "f" * 40, "--output=/tmp/x", "HEAD"):
        assert changed_code(empty, run(git_commit=unknown)) is None


def test_a_win_rate_that_was_not_measured_is_absent() -> None:
    assert win_rates(run(steps={})) == []
    assert [bar.label for bar in win_rates(run())] == ["against SFT"]


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(anyone: TestClient, text: str) -> None:
    steps = {text: step(text, reason=text), "ppo": step("ppo", status="running")}
    bad = run(text, trigger=text, settings=(text,), message=text, host=text, git_commit=text, params={text: text},
              steps=steps, status="running", ended=None)
    move = Move("2026-11-20T10:05:00+00:00", "champion", None, 1, text, text)
    versions = [version(1, bad, "champion", text), version(2, run(), "challenger")]
    fill(site_behind(anyone).history, [bad, run()], versions, [move])
    page = anyone.get("/")
    assert page.status_code == 200
    assert active_in(page.text) == []


def test_over_a_real_project(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "Latest runs" in page.text
