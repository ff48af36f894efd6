"""The pages of runs: the list with its filters, and everything about one run."""

import json
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from plumbline.history.history import Run
from plumbline.project.home import Home
from plumbline.web.views.live import LARGEST_TAIL, LAST_LINES, log_tail, logs_of
from plumbline.web.views.run import chart_of, command_of, took
from testing.fake_project import CHECKOUT
from testing.hostile import TEXTS, active_in
from testing.made_up import STAGES, fill, run, step, version, workspace
from testing.sites import site_behind, visit


@pytest.fixture
def anyone(empty: Home) -> TestClient:
    return visit(empty)


def show(client: TestClient, *runs: Run, **query: str) -> str:
    """The page of the first of these runs."""
    fill(site_behind(client).history, runs)
    page = client.get(f"/runs/{runs[0].id}", params=query)
    assert page.status_code == 200
    return page.text


class TestList:
    """All runs."""

    @pytest.fixture
    def many(self, anyone: TestClient) -> TestClient:
        fill(site_behind(anyone).history, [
            run(f"20261120-10{i:04d}-aaaaaa", status="failed" if i % 10 == 0 else "finished",
                message="the disk is full" if i == 70 else None, settings=(f"ppo.clip={i}",)) for i in range(120)])
        return anyone

    def test_fifty_a_page_newest_first(self, many: TestClient) -> None:
        pages = [many.get("/runs", params={"page": page}).text for page in (1, 2, 3)]
        assert [page.count('href="/runs/2026') for page in pages] == [50, 50, 20]
        assert pages[0].index("100119") < pages[0].index("100118")
        assert "/runs?page=2" in pages[0]
        assert "Newer" not in pages[0]
        assert "Older" not in pages[2]

    def test_filters_stay_in_the_address(self, many: TestClient) -> None:
        assert many.get("/runs?status=failed").text.count('href="/runs/2026') == 12
        assert many.get("/runs?q=DISK").text.count('href="/runs/2026') == 1
        assert many.get("/runs?q=ppo.clip=7").text.count('href="/runs/2026') == 11
        assert "/runs?status=finished&amp;page=2" in many.get("/runs?status=finished").text

    def test_nothing_found(self, many: TestClient, anyone: TestClient) -> None:
        assert "No run is like that" in many.get("/runs?q=nothing+of+that").text

    def test_pages_beyond_the_end(self, many: TestClient) -> None:
        for page in (-5, 0, 99):
            assert many.get("/runs", params={"page": page}).status_code == 200

    def test_without_runs(self, anyone: TestClient) -> None:
        assert "There are no runs yet" in anyone.get("/runs").text


def test_a_run_is_found_by_the_beginning_of_its_id(anyone: TestClient) -> None:
    fill(site_behind(anyone).history, [run("20261120-100000-aaaaaa"), run("20261120-110000-bbbbbb")])
    assert anyone.get("/runs/latest").headers["location"] == "/runs/20261120-110000-bbbbbb"
    assert anyone.get("/runs/20261120-10").headers["location"] == "/runs/20261120-100000-aaaaaa"
    for name in ("2026", "nothing", "20261120-110000-bbbbbbb"):
        answer = anyone.get(f"/runs/{name}")
        assert answer.status_code == 404
        assert "have an id that begins with" in answer.text
    assert anyone.get("/runs/..%2F..%2Fetc").status_code == 404


def test_what_ran_and_what_was_reused_with_the_reason(anyone: TestClient) -> None:
    steps = {"sft": step("sft", status="reused", reason="nothing changed since 20261119-090000-ffffff", seconds=0.3,
                         started=None, made_by="20261119-090000-ffffff"),
             "ppo": step("ppo", reason="parameter ppo.clip 0.2 -> 0.3", seconds=90.0, made_by="20261120-100000-aaaaaa")}
    page = show(anyone, run(steps=steps))
    assert "parameter ppo.clip 0.2 -&gt; 0.3" in page
    assert 'href="/runs/20261119-090000-ffffff"' in page
    assert "span-reused" in page
    assert "1 min 30 s" in page


def test_on_how_many_processes_a_stage_was_made(anyone: TestClient) -> None:
    host = {"machine": "x86_64", "processes": "4", "nodes": "2", "launcher": "srun --nodes=2"}
    page = show(anyone, run(steps={"sft": step("sft", host={"machine": "x86_64"}), "ppo": step("ppo", host=host)}))
    assert page.count("on 4 processes on each of 2 nodes, started by srun") == 1


def test_parameters_and_figures_against_the_run_before(anyone: TestClient) -> None:
    before = run("20261119-100000-000000", params={"seed": "0", "ppo.clip": "0.1", "gone": "1"},
                 steps={"ppo": step("ppo", metrics={"kl": 3.0})})
    now = run(params={"seed": "0", "ppo.clip": "0.3"}, steps={"ppo": step("ppo", metrics={"kl": 3.5})})
    page = show(anyone, now, before)
    assert "Compared with" in page
    changed = page[page.index("Compared with"):page.index("<details>")]
    for words in ("ppo.clip", "0.1", "0.3", "gone"):
        assert f"<code>{words}</code>" in changed
    assert "<code>seed</code>" not in changed
    assert "+0.500" in page


def test_against_another_run(anyone: TestClient) -> None:
    runs = [run(f"20261120-1{i}0000-aaaaaa", params={"ppo.clip": str(i)}) for i in range(3)]
    page = show(anyone, runs[2], *runs[:2], against=runs[0].id)
    assert f'Compared with <a class="mono" href="/runs/{runs[0].id}">' in page
    assert anyone.get(f"/runs/{runs[2].id}?against=nonsense").status_code == 404


def test_the_first_run_has_none_before_it(anyone: TestClient) -> None:
    assert "This is the first run" in show(anyone, run())


def test_a_failed_run_says_why(anyone: TestClient, tmp_path: Path) -> None:
    gate = '{"passed": false, "reasons": ["accuracy 0.70 is too low"]}'
    folder = workspace(tmp_path / "failed", {"reports/reward/gate.json": gate, "dvc.yaml": DVC_YAML})
    steps = {"reward_eval": step("reward_eval", metrics={"passed": 0.0, "accuracy": 0.7}, mlflow_run=None)}
    page = show(anyone, run(status="failed", message="The reward model failed its examination.", steps=steps,
                            folder=folder))
    assert "The reward model failed its examination." in page
    assert "<li>accuracy 0.70 is too low</li>" in page


DVC_YAML = """
stages:
  reward_eval:
    cmd: python -m tasks.reward_eval
    deps: [models/reward/model]
    outs: [reports/reward/report, reports/reward/gate.json, reports/reward/receipt.json]
"""


def test_without_the_file_the_gate_is_as_mlflow_has_it(anyone: TestClient) -> None:
    steps = {"reward_eval": step("reward_eval", metrics={"passed": 1.0}), "promote": step("promote")}
    page = show(anyone, run(steps=steps))
    assert "badge-passed" in page
    assert "badge-promoted" in page
    assert "not on this machine" in page


def test_the_versions_that_it_registered(anyone: TestClient) -> None:
    one = run()
    fill(site_behind(anyone).history, [one], [version(3, one, "champion")])
    page = anyone.get(f"/runs/{one.id}").text
    assert 'href="/models/3"' in page
    assert "badge-champion" in page


def test_the_command_that_repeats_it() -> None:
    one = run(params_file="params/my file.yaml", settings=("ppo.clip=0.3", "snapshot.sources=[a b.jsonl]"), until="ppo")
    assert command_of(one) == ("plumbline run --params 'params/my file.yaml' --set ppo.clip=0.3 "
                               "--set 'snapshot.sources=[a b.jsonl]' --until ppo")


def test_links_to_the_other_pages(anyone: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_MLFLOW_URL", "http://127.0.0.1:5000/")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    page = show(anyone, run())
    assert f'href="http://127.0.0.1:5000/#/runs/{"b" * 32}"' in page
    assert 'href="http://127.0.0.1:4200/runs"' in page
    monkeypatch.delenv("PLUMBLINE_MLFLOW_URL")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:s3cret@mlflow.example/team?key=s3cret")
    monkeypatch.setenv("PREFECT_API_URL", "http://ada:s3cret@127.0.0.1:4200/api/")
    page = show(anyone, run())
    assert f'href="https://mlflow.example/team/#/runs/{"b" * 32}"' in page
    assert 'href="http://127.0.0.1:4200/runs"' in page
    assert "s3cret" not in page
    monkeypatch.setenv("PLUMBLINE_MLFLOW_URL", "javascript:alert(1)//")
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/1/workspaces/2")
    page = show(anyone, run())
    assert "javascript:" not in page
    assert "Elsewhere" not in page


def test_a_running_run_loads_itself_again(anyone: TestClient) -> None:
    steps = {"sft": step("sft"), "ppo": step("ppo", status="running", seconds=None),
             "promote": step("promote", status="waiting", seconds=None, started=None)}
    going = run(status="running", ended=None, steps=steps)
    assert 'http-equiv="refresh"' in show(anyone, going)
    assert 'http-equiv="refresh"' not in show(anyone, going, reload="no")
    assert "span-running" in chart_of(going)
    assert took(going) is not None
    assert took(run(status="killed", ended=None)) is None


class TestLog:
    """The end of a stage's log."""

    @pytest.fixture
    def logged(self, tmp_path: Path) -> Run:
        text = "".join(f"line {i}\n" for i in range(100_000))
        folder = workspace(tmp_path / "runs/one", {"logs/sft.log": text, "logs/ppo.log": "\x1b[31mred\x1b[0m \x00 end",
                                                   "logs/secret.log": "secret", "run.json": "{}"})
        steps = {stage: step(stage) for stage in STAGES} | {"ppo": step("ppo", status="failed")}
        return run(folder=folder, steps=steps)

    def test_is_the_last_lines_whatever_its_size(self, logged: Run) -> None:
        assert log_tail(logged, "sft") == [f"line {i}" for i in range(100_000 - LAST_LINES, 100_000)]

    def test_long_lines_do_not_make_it_large(self, logged: Run) -> None:
        assert logged.folder
        (logged.folder / "logs/sft.log").write_text("x" * 3_000_000 + "\nend\n")
        assert log_tail(logged, "sft") == ["end"]
        (logged.folder / "logs/sft.log").write_text(("y" * 10_000 + "\n") * 300)
        assert sum(map(len, log_tail(logged, "sft"))) <= LARGEST_TAIL

    def test_what_moves_a_terminal_is_left_out(self, logged: Run) -> None:
        assert log_tail(logged, "ppo") == ["red  end"]

    def test_bytes_that_are_no_text(self, logged: Run) -> None:
        assert logged.folder
        (logged.folder / "logs/ppo.log").write_bytes(b"\xff\xfe\r\nok\r\n")
        assert log_tail(logged, "ppo") == ["\ufffd\ufffd", "ok"]

    @pytest.mark.parametrize("name", ["secret", "../run", "..", "/etc/passwd", "ppo.log", "", "ppo\x00"])
    def test_only_stages_have_one(self, logged: Run, name: str) -> None:
        assert log_tail(logged, name) == []

    def test_a_link_out_of_the_workspace_is_not_followed(self, logged: Run, tmp_path: Path) -> None:
        assert logged.folder
        (tmp_path / "outside").write_text("secret")
        (logged.folder / "logs/base.log").symlink_to(tmp_path / "outside")
        assert log_tail(logged, "base") == []
        assert logs_of(logged) == ["sft", "ppo"]
        os.rename(logged.folder / "logs", tmp_path / "logs")  # noqa: PTH104
        (logged.folder / "logs").symlink_to(tmp_path / "logs")
        assert logs_of(logged) == []

    def test_the_one_that_broke_comes_first(self, anyone: TestClient, logged: Run) -> None:
        page = show(anyone, logged)
        assert "logs/ppo.log" in page
        assert "line 99999" in show(anyone, logged, log="sft")
        assert "logs/ppo.log" in show(anyone, logged, log="../../etc/passwd")


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_texts_are_inert(anyone: TestClient, tmp_path: Path, text: str) -> None:
    folder = workspace(tmp_path / "run", {"logs/ppo.log": text, "reports/promote/decision.json": "[]"})
    steps = {"ppo": step("ppo", reason=text, version=text, made_by=text, metrics={text: 1.0}, facts={text: text},
                         mlflow_run=text), text: step(text, status="reused", made_by=text)}
    bad = run(text, trigger=text, settings=(text,), message=text, host=text, git_commit=text, params={text: text},
              steps=steps, params_file=text, until=text, snapshot=text, mlflow_run=text, status="failed", folder=folder)
    fill(site_behind(anyone).history, [bad, run("0")], [version(1, bad, text)])
    for path in ("/runs", "/runs?q=" + "A", anyone.get("/runs/latest").headers.get("location", "/runs/latest")):
        page = anyone.get(path)
        assert active_in(page.text) == [], path
    wrong = anyone.get("/runs", params={"q": text, "status": text})
    assert active_in(wrong.text) == []
    assert active_in(anyone.get("/runs/nothing", params={"against": text}).text) == []


def test_every_real_run_has_a_page(client: TestClient) -> None:
    history = site_behind(client).history
    assert len(history.runs) >= 10
    for id in history.runs:
        page = client.get(f"/runs/{id}")
        assert page.status_code == 200
        assert id in page.text


class TestTraining:
    """How the stages of a run learned."""

    @pytest.fixture
    def trained(self, tmp_path: Path) -> Run:
        """A run whose policy and whose candidate lost their entropy, and whose SFT is well."""
        online = [{"what": "", "step": i, "reward": 0.1 * i, "kl": 0.1 * i, "kl_error": 0.02, "entropy": 4 / i,
                   "length": 30.0, "stopped": 1.0, "policy_loss": 0.1, "value_loss": 1 / i} for i in range(1, 31)]
        for i in range(4, 30, 5):
            online[i] |= {"validation_judge_win_rate": 0.6, "validation_judge_win_rate_error": 0.05,
                          "validation_kl": 0.1 * i}
        sft = [{"what": "", "step": i, "loss": 3 / i} for i in range(1, 31)]
        files = {f"models/{name}/curves.jsonl": "".join(json.dumps(point) + "\n" for point in points)
                 for name, points in (("policy", online), ("candidates/mine", online), ("sft", sft))}
        folder = workspace(tmp_path / "run", {"dvc.yaml": (CHECKOUT / "dvc.yaml").read_text(), **files})
        steps = {name: step(name, mlflow_run=None) for name in ("sft", "ppo", "candidate@mine")}
        return run(folder=folder, steps=steps)

    def test_curves_are_drawn_with_what_is_wrong_beside_them(self, anyone: TestClient, trained: Run) -> None:
        page = show(anyone, trained)
        for label in ("Reward", "KL to SFT, nats a response", "Entropy, nats a token", "Length, tokens",
                      "Answers that stop", "Win rate against SFT, by the judge", "Policy loss", "Value loss"):
            assert page.count(f"<figcaption>{label}</figcaption>") == 2, "of PPO and of the candidate"
        assert page.count("<figcaption>Loss</figcaption>") == 1
        assert page.count("Entropy collapses.") == 2
        assert "Raise ppo.kl_coef" in page and "Raise candidates.mine.kl_coef" in page
        assert page.index("Raise candidates.mine.kl_coef") < page.index("Raise ppo.kl_coef"), "policies first"

    def test_the_model_page_says_it_too(self, anyone: TestClient, trained: Run) -> None:
        fill(site_behind(anyone).history, [trained], [version(1, trained)])
        assert anyone.get("/models/1?view=curves").text.count("Entropy collapses.") == 1

    def test_a_run_without_curves_has_no_such_part(self, anyone: TestClient) -> None:
        assert 'id="training"' not in show(anyone, run())
