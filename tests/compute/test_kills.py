"""`kill -9` of each process of a training on two ranks: none is left, and it goes on from its checkpoint."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from plumbline.compute.start import GRACE_SECONDS
from plumbline.project.home import Home
from plumbline.runs.stage_process import StageFailed
from testing.fake_project import CHECKOUT
from testing.staged_project import alive, child_of, none_left, staged
from testing.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.evidence]
TRAINING = f'''
sys.path.append("{CHECKOUT}")
from plumbline.alignment.sft import train_sft
from plumbline.lm.base import LanguageModel
from testing.tiny_models import demonstrations, sft_params, small_model, small_tokenizer
tokenizer = small_tokenizer()
lm = LanguageModel(small_model(tokenizer), tokenizer)
def report(step, total, metrics=None, what=""):
    with open(f"done-{{rank()}}", "a") as out:
        out.write(f"{{step}}\\n")
    time.sleep(0.5 if Path("slowly").exists() else 0)
    run.report(step, total, metrics, what)
params = sft_params(epochs=4, batch_size=2, micro_batch_size=2, checkpoint_every=1)
found = train_sft(lm, demonstrations(), [], params, 0, report, run.scratch())
lm.save(run.folder / "model.txt")
run.finish(found)
'''
FLOW = """
import sys
from pathlib import Path
from plumbline.project.home import Home, enter
from testing.staged_project import child_of
home = Home(Path(sys.argv[1]), Path(sys.argv[1]) / ".plumbline")
enter(home)
child_of(home)[0].run()
"""


def steps_done(root: Path) -> list[int]:
    """The steps that rank 0 has done, those that it did again included."""
    file = root / "done-0"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def a_few_steps_after(before: int, root: Path) -> None:
    eventually(lambda: len(steps_done(root)) > before + 2, "a few steps", 120)


def process(root: Path, words: str, number: int = 0) -> psutil.Process:
    """The process in a folder with these words in its command line, by its number among them."""
    return psutil.Process(sorted(pid for pid, line in alive(root).items() if words in line)[number])


def shell(root: Path) -> psutil.Process:
    found = process(root, "plumbline.compute.agent").parent()
    assert found and found.pid != os.getpid()
    return found


TREE: dict[str, Callable[[Path], psutil.Process]] = {
    "the flow's child": shell,
    "the agent": lambda root: process(root, "plumbline.compute.agent"),
    "a rank": lambda root: process(root, "-m tasks.ppo"),
    "the other rank": lambda root: process(root, "-m tasks.ppo", -1)}


def test_each_process_of_the_tree(recording_home: Home) -> None:
    home = staged(recording_home, TRAINING, "ppo: {processes: 2}\n")
    (home.root / "slowly").touch()
    with ThreadPoolExecutor(1) as pool:
        for victim in TREE.values():
            before = len(steps_done(home.root))
            running = pool.submit(child_of(home)[0].run)
            a_few_steps_after(before, home.root)
            victim(home.root).kill()
            with pytest.raises(StageFailed) as caught:
                running.result(GRACE_SECONDS)
            assert caught.value.killed
            none_left(home.root)
    flow = subprocess.Popen([sys.executable, "-c", FLOW, str(home.root)], cwd=CHECKOUT,
                            env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
    a_few_steps_after(len(steps_done(home.root)), home.root)
    flow.kill()
    flow.wait()
    none_left(home.root)

    (home.root / "slowly").unlink()
    last, _ = child_of(home)
    last.run()
    done = steps_done(home.root)
    again = len(done) - len(set(done))
    assert again <= 2 * 5, "each kill costs the step that was being done, and what had not been kept"
    curves = (home.root / "models/policy/curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curves] == list(range(1, max(done) + 1))
    last.drop_scratch()
    assert list(home.scratch.iterdir()) == []
    none_left(home.root)
