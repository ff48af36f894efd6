"""Whether what a run needs fits into this machine's memory, and what would fit if it does not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.compute.footprint import Footprint, ModelSize, footprints
from plumbline.compute.settings import StageCompute
from plumbline.config import Params
from plumbline.errors import UserError

GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
ASK_GPUS = """
import json, torch
found = [torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count())]
print(json.dumps(found))
"""
SMALL_BATCH: dict[str, object] = {"micro_batch_size": 1}
ADAPTERS: dict[str, object] = {"trainable": "lora", "critic": "shared"}
OF_STAGE = {"judge": "reward_model"}
"""The block of a stage that is trained as another one is."""
SAVINGS: dict[str, list[dict[str, object]]] = {
    "sft": [SMALL_BATCH], "direct": [SMALL_BATCH],
    "reward_model": [SMALL_BATCH, {"top_layers": 2}, {"top_layers": 2, **SMALL_BATCH}],
    "ppo": [SMALL_BATCH, ADAPTERS, {**ADAPTERS, **SMALL_BATCH}],
}
"""Values that take less memory, by block, the least change first."""
RANKS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Room:
    """The memory that one process may have."""

    bytes: int
    gpu: bool
    """True if it is a GPU's, of which each process has one; otherwise all processes share it."""

    def fits(self, one: Footprint, processes: int) -> bool:
        """True if all processes of a stage on this machine fit."""
        return one.bytes * (1 if self.gpu else processes) <= self.bytes


def room_here() -> Room:
    """Return the memory of the smallest GPU, or of this machine where there is none."""
    if any(driver.exists() for driver in GPU_DRIVERS):
        done = subprocess.run([sys.executable, "-c", ASK_GPUS], capture_output=True, text=True, check=False)
        gpus: list[int] = json.loads(done.stdout) if done.returncode == 0 else []
        if gpus:
            return Room(min(gpus), gpu=True)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if GROUP_LIMIT.exists() and (limit := GROUP_LIMIT.read_text(encoding="utf-8").strip()).isdigit():
        total = min(total, int(limit))
    return Room(total, gpu=False)


def described(one: Footprint, room: Room, place: StageCompute) -> str:
    """Return in words what a stage needs, and of how much."""
    where = f", of {room.bytes / 1e9:.1f} GB of {'a GPU' if room.gpu else 'this machine'},"
    if place.launcher:
        where = ", wherever its launcher starts it,"
    shared = f" on each of {place.ranks} processes" if place.ranks > 1 else ""
    return f"needs about {one.bytes / 1e9:.1f} GB{shared}{where} and {one.flops / 1e12:.3g} TFLOP {one.work}"


def require_room(
    params: Params, size: ModelSize, place_of: Callable[[str], StageCompute], judge: bool, room: Room,
    outside: Mapping[str, Sequence[int]] | None = None,
) -> list[Footprint]:
    """Return what each stage needs; see `footprints`. Raises UserError for what cannot fit here, with what
    would.

    What a launcher starts on other machines is told and not refused: their memory is not known here.
    """
    needed = footprints(params, size, lambda stage: place_of(stage).ranks, judge, outside)
    for number, one in enumerate(needed):
        place = place_of(one.stage)
        if place.launcher or room.fits(one, place.ranks):
            continue

        def fits(changed: Params, ranks: int, number: int = number) -> bool:
            return room.fits(footprints(changed, size, lambda _: ranks, judge, outside)[number], ranks)

        ways = [said for said, changed in _savings(params, one.stage) if fits(changed, place.ranks)]
        more = [ranks for ranks in RANKS if ranks > place.ranks and fits(params, ranks)]
        if more:
            ways.append(f"{more[0]} processes in compute.yaml, each with a GPU like this")
        advice = f"What would fit: {'; or '.join(ways)}." if ways else "Take a smaller model."
        raise UserError(f"Stage `{one.stage}` {described(one, room, place)}, which is too much: "
                        f"{_parts(one)}. {advice}")
    return needed


def _savings(params: Params, stage: str) -> Iterator[tuple[str, Params]]:
    """Yield changes of a stage's values that take less memory: in words, and as parameters."""
    name = stage.removeprefix("candidate@")
    block = params.compare[name] if name != stage else OF_STAGE.get(stage, stage)
    for values in SAVINGS[block]:
        if name == stage:
            changed = getattr(params, block).model_copy(update=values)
            given = params.model_copy(update={block: changed})
        else:
            candidate = {**params.candidates[name], **values}
            given = params.model_copy(update={"candidates": {**params.candidates, name: candidate}})
        where = block if name == stage else f"candidates.{name}"
        yield " and ".join(f"{where}.{key}={value}" for key, value in values.items()), given


def _parts(one: Footprint) -> str:
    parts = {"weights, gradients and optimizer": one.states, "frozen copies": one.copies,
             "activations, cache or whole models": one.moment}
    return ", ".join(f"{size / 1e9:.1f} GB for {what}" for what, size in parts.items() if size)
