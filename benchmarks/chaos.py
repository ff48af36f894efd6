"""Break the service again and again, and see whether anything is lost: `make chaos`.

    python benchmarks/chaos.py --rounds 100
    python benchmarks/chaos.py --rounds 3 --only disk-full,kill-stage --seed 7

A project with quick stages but a real Prefect server, DVC and MLflow runs under `plumbline up`. Each round brings new
preferences, breaks one thing, mostly in the middle of a run, does what a message asks a person to do, if one does, and
then checks that

- every part is up again by itself,
- the batches are exactly those that were accepted: none lost, none doubled,
- a run has learned from all of them, and its policy is what an undisturbed run makes of this data,
- the champion is that policy, and loads.

At the end a second project, which nothing disturbs, gets the same batches and must come to the same files. The rounds
take their turns in a shuffled order. Needs Linux; `disk-full` needs root (a tmpfs), `clock-jump` a C compiler.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from chaos_faults import FAULTS, World, possible, settle  # noqa: E402

from plumbline.config import load_params  # noqa: E402
from plumbline.project.digests import digest, restore_folder  # noqa: E402
from plumbline.project.home import Home  # noqa: E402
from plumbline.tracking.registry import Registry  # noqa: E402
from testing.always_on_project import make_always_on  # noqa: E402
from testing.fake_project import plumbline  # noqa: E402
from testing.running_service import Up  # noqa: E402

TMPFS_SIZE = "2500m"
CHECKED = ("models/policy/model", "models/reward/model", "models/sft/model", "data/prepared")

PPO = '''"""Stage `ppo` of the chaos benchmark: it checks its resume checkpoint as the real one does."""

import hashlib
import time

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    folder = run.folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    if any(run.scratch().glob("*.pt")):
        from plumbline.lm.checkpoint import Checkpoint

        Checkpoint(run.scratch(), {}).load()  # damaged, it is refused before anything is put into a learner
    for step in range(1, 21):
        time.sleep(0.2)
        run.report(step, 20, {"loss": 1.0 / step}, "training")
    made_from = [path.read_bytes() for path in sorted(run.root.glob("models/[rs]*/model/*"))]
    text = hashlib.sha256(b"".join(made_from)).hexdigest() + repr(run.params.ppo) + str(run.params.seed)
    (folder / "model.safetensors").write_text(text)
    (run.folder / "samples.md").write_text("# Samples")
    run.finish({"kl": 1.5})


ppo = Stage("ppo", program, retries=1)

if __name__ == "__main__":
    ppo.main()
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=len(FAULTS))
    parser.add_argument("--only", default="", help=f"comma-separated; all are {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    chosen = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # started in the background it would ignore the first
        signal.signal(number, signal.default_int_handler)
    names = chosen.only.split(",") if chosen.only else list(FAULTS)
    with place(chosen.keep) as folder:
        done, failed = run_rounds(folder, names, chosen.rounds, random.Random(chosen.seed))
    print(f"\n{sum(done.values()) + sum(failed.values())} rounds, {sum(failed.values())} failed")
    for name in names:
        print(f"  {name:<18} {done[name]:>3} passed {failed[name]:>3} failed")
    raise SystemExit(1 if failed else 0)


def run_rounds(folder: Path, names: list[str], rounds: int, chance: random.Random) -> tuple[Counter[str], Counter[str]]:
    done, failed = Counter[str](), Counter[str]()
    world = World(Up(prepare(folder / "project"), {"FAKE_STEP_SECONDS": "0.05"}), chance)
    try:
        world.up.start()
        world.bring()
        settle(world)
        check(world)
        for number, name in enumerate(turns(names, rounds, chance), start=1):
            if why := possible(name, folder):
                print(f"{number:>4}  {name:<18} left out: {why}", flush=True)
                continue
            good, line = one_round(world, name)
            (done if good else failed)[name] += 1
            print(f"{number:>4}  {name:<18} {line}", flush=True)
        compare_with_undisturbed(world, folder / "undisturbed")
        print("      an undisturbed project comes to the same files", flush=True)
    except (Exception, KeyboardInterrupt):
        traceback.print_exc()
        failed["the whole"] += 1
    finally:
        world.up.stop()
    return done, failed


def one_round(world: World, name: str) -> tuple[bool, str]:
    """Break one thing and see. Returns whether all is well, and a line."""
    started = time.monotonic()
    try:
        note = FAULTS[name](world)
        settle(world)
        check(world)
    except Exception as error:
        return False, f"FAILED after {time.monotonic() - started:.0f} s: {type(error).__name__}: {error}"
    return True, f"{time.monotonic() - started:4.0f} s  {note}"


def turns(names: list[str], rounds: int, chance: random.Random) -> Iterator[str]:
    """Each kind as often as the others, shuffled anew each time."""
    while rounds > 0:
        yield from chance.sample(names, len(names))[:rounds]
        rounds -= len(names)


def check(world: World) -> None:
    home = Home(world.up.root, world.up.home)
    assert set(world.arrived()) == world.accepted, (
        f"lost {world.accepted - set(world.arrived())}, not accepted {set(world.arrived()) - world.accepted}")
    assert len(world.arrived()) == len(set(world.arrived())), "a batch is there twice"
    last = world.finished()[-1]
    workspace = world.up.root / "runs" / str(last["id"])
    champion = Registry.open(home, "policy").champion()
    assert champion is not None, "there is no champion"
    with tempfile.TemporaryDirectory() as folder:
        restore_folder(home.cache, champion.md5, Path(folder))
        loaded = (Path(folder) / "model.safetensors").read_text()
    assert loaded == expected_policy(workspace), "the champion is not what this data makes"
    counted = json.loads(plumbline(world.up.root, "data", "list", "--json").stdout)
    assert {one["digest"] for one in counted} == world.accepted, "`plumbline data list` knows other batches"


def expected_policy(workspace: Path) -> str:
    """What the stages make of a snapshot, worked out without them."""
    params = load_params(workspace)
    manifest = (workspace / "data/snapshot/manifest.json").read_text()
    sft = _sha((manifest + repr(params.ingest)).encode()) + repr(params.sft) + str(params.seed)
    reward = _sha(sft.encode()) + repr(params.reward_model) + str(params.seed)
    return _sha((reward + sft).encode()) + repr(params.ppo) + str(params.seed)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compare_with_undisturbed(world: World, root: Path) -> None:
    prepare(root)
    shutil.copytree(world.up.root / "data/batches", root / "data/batches", ignore=shutil.ignore_patterns(".new-*"))
    done = plumbline(root, "run", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    other, ours = (folder / "runs" / name for folder, name in (
        (root, json.loads(done.stdout)["id"]), (world.up.root, str(world.finished()[-1]["id"]))))
    for path in CHECKED:
        assert digest(other / path) == digest(ours / path), f"{path} is not what an undisturbed run makes"


def prepare(root: Path) -> Path:
    make_always_on(root)
    (root / "tasks/ppo.py").write_text(PPO)
    return root


@contextmanager
def place(keep: bool) -> Iterator[Path]:
    """A folder of our own; on a small file system of its own where that can be had."""
    folder = Path(tempfile.mkdtemp(prefix="plumbline-chaos-"))
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE}", "tmpfs", str(folder)], capture_output=True,
        check=False).returncode
    print(f"in {folder}{', a tmpfs of ' + TMPFS_SIZE if mounted else ''}", flush=True)
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            if mounted:
                subprocess.run(["umount", str(folder)], check=False)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
