"""Find what would fail later before anything is trained.

Parameters have been checked one by one; here they meet the world: the files, the base model, its context, the
disk.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from plumbline import __version__
from plumbline.compute.footprint import FP32, ModelSize
from plumbline.compute.memory import described, require_room, room_here
from plumbline.compute.settings import StageCompute, check_compute, compute_of
from plumbline.config import DirectParams, Params, PpoParams, RewardParts, candidate_params
from plumbline.config.methods import RejectionParams
from plumbline.config.online import WITH_CRITIC, require_usable
from plumbline.errors import UserError
from plumbline.evaluation.judging.chat import ChatJudge
from plumbline.evaluation.judging.names import (
    ENDPOINT,
    FUNCTION,
    GOLD,
    MODEL,
    REWARD,
    SECOND,
    kind_of_judge,
    require_one_host,
)
from plumbline.functions import FUNCTION_NAME, find_module
from plumbline.lm.engines.address import vllm_addresses
from plumbline.preferences.batches.arrivals import arrivals, require_all_here
from plumbline.preferences.batches.batch import SIMULATED
from plumbline.preferences.batches.snapshot import ADDED
from plumbline.preferences.reading.source_files import place_of
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.project.watcher import watcher
from plumbline.runs.outcome import would_reuse
from plumbline.runs.workspace import Request
from plumbline.whole_file import write_whole

Values = TypeVar("Values")
PRETRAIN = "pretrain"
HUB = "hub:"
NANOSECONDS = 1_000_000_000
"""In a second."""
LEAST_FREE_BYTES = 1_000_000_000
MODELS = 6
"""A run keeps base, SFT, reward, judge, policy and champion, each in its workspace and in the cache."""
EXAMINE = """
import json, sys
from pathlib import Path
from plumbline.errors import UserError
try:
    role, name, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    found = {"context": None, "size": None, "unsplit": None, "question": None, "weights": None}
    if role == "function":
        from plumbline.functions import import_function
        import_function("reward", name, root, "ppo.rewards")
    elif role == "reward":
        from plumbline.alignment.classifier import require_classifier
        from plumbline.alignment.reward import members_beside
        from plumbline.compute.model_size import classifier_weights
        from plumbline.lm.source import Source
        weights = classifier_weights(require_classifier(name, root))
        members = members_beside(Path(Source.find(name, root).where))
        found |= {"weights": weights and [weights] * (1 + len(members))}
    elif role == "judge":
        from plumbline.evaluation.judging.judges import QUESTION
        from plumbline.lm.chat import encode_prompt
        from plumbline.lm.examination import require_judge
        from plumbline.lm.source import Source, context_of
        from plumbline.preferences.types import Message
        require_judge(name, root)
        source = Source.find(name, root)
        config = source.config()
        asked = Message("user", QUESTION.format(request="", first="", second=""))
        question = encode_prompt(source.tokenizer(config), (asked,))
        found |= {"context": context_of(config), "question": len(question)}
    else:
        from plumbline.alignment.trunk import why_unsplit
        from plumbline.compute.model_size import measure_source
        from plumbline.lm.examination import examine
        from plumbline.lm.source import Source
        found |= {"context": examine(name, root).context, "size": measure_source(name, root),
                  "unsplit": why_unsplit(Source.find(name, root).config())}
except UserError as error:
    sys.stderr.write(" ".join(str(error).split()))
    raise SystemExit(error.exit_code)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Examined:
    """What the examination of a model found."""

    context: int | None
    """The longest sequence in tokens; None for a model without a limit."""
    size: dict[str, Any] | None
    """Of a base model its `ModelSize`, as plain values; None where it cannot be measured."""
    unsplit: str | None
    """Why the layers of a base model cannot be split into a frozen trunk and top layers; None if they can."""
    question: int | None
    """Tokens in which a judge is asked, without the prompt and the answers; None for other models."""
    weights: list[int] | None
    """Of a reward model its weights, and those of further members of an ensemble; None where not known."""


def preflight(home: Home, params: Params) -> None:
    """Raise UserError for the first thing that would stop the run later."""
    check_compute(home.root, params.candidates)
    require_all_here(home.preferences)
    _sources(home.root, params)
    _judges(home, params)
    base = None if params.base.source == PRETRAIN else _examined(home, "base", params.base.source)
    _within_context(params, base.context if base else params.base.context)
    _lengths_agree(params)
    _methods(home, params)
    _splits(params, base)
    _judge_models(home, params)
    rewards = _rewards(home, params)
    _engines(home, params)
    size = ModelSize.read(base.size) if base and base.size else None
    if size:
        _memory(home, params, size, rewards)
    _disk(home, params, size)


def require_base_unchanged(home: Home, params: Params, request: Request) -> None:
    """Raise UserError if stage `base` would be reused although its local model has changed since.

    The stage depends on parameters alone. A retry goes on from what its run has read.
    """
    source, stage = params.base.source, read_stages(home.root, params.model_dump()).get("base")
    changed = _newest(home.root / Path(source).expanduser()) // NANOSECONDS
    if stage is None or source == PRETRAIN or not changed or request.retry_of or "base" in request.force:
        return
    made = would_reuse(home, params, stage)
    if made and changed > datetime.fromisoformat(made.started).timestamp():
        raise UserError(f"The base model {source} has changed since {made.started}, when stage `base` read "
                        "it, and a run would go on with the model of then, because the stage depends on "
                        "parameters alone. Raise base.version, or run once with --force base; what comes "
                        "after is reused where the content is the same after all.")


def _sources(root: Path, params: Params) -> None:
    for source in params.snapshot.sources:
        if source not in (SIMULATED, ADDED) and not source.startswith(HUB):
            place_of(source, root)


def _judges(home: Home, params: Params) -> None:
    """Raise UserError for a judge that could not judge this run's data."""
    outside = _not_simulated(home, params)
    kinds = {name: kind_of_judge(name, simulated=not outside) for name in params.preference_eval.judges}
    require_one_host(kinds)
    for name, kind in kinds.items():
        if kind == GOLD and outside:
            raise UserError(f"A judge of preference_eval.judges is `{GOLD}`, which knows the simulated world "
                            f"only, but snapshot.sources has {', '.join(outside)}. Set "
                            "preference_eval.judges=[auto].")
        if kind == SECOND and not outside:
            raise UserError(f"preference_eval.judges names `{name}`, a second reward model, but where all "
                            "data is simulated none is trained: the gold reward judges there. Set "
                            "preference_eval.judges=[auto].")
        if kind == SECOND and not params.ingest.judge_fraction:
            raise UserError(f"preference_eval.judges names `{name}`, a second reward model, but "
                            "ingest.judge_fraction = 0 keeps no preference to train it on. Raise it, or name "
                            "another judge: a function of yours, an endpoint, a language model.")
        if kind == FUNCTION:
            find_module("judge", name, home.root, "preference_eval.judges")
        if kind == ENDPOINT:
            chosen = params.preference_eval
            ChatJudge.named(name, home.folder / "verdicts", chosen.judge_limit, chosen.version)


def _not_simulated(home: Home, params: Params) -> list[str]:
    """Return the sources whose rows are not all from the simulated world."""
    sources = params.snapshot.sources
    outside = [source for source in sources if source not in (SIMULATED, ADDED)]
    if ADDED in sources:
        batches = [arrival.batch for arrival in arrivals(home.preferences)]
        outside += [f"{ADDED}: {batch.source}" for batch in batches if not batch.simulated]
    return outside


def _judge_models(home: Home, params: Params) -> None:
    """Raise UserError for a language model that cannot judge, or not read a prompt with two answers."""
    answers = params.ppo.max_prompt + 2 * params.preference_eval.max_response
    for name in params.preference_eval.judges:
        if kind_of_judge(name, simulated=True) != MODEL:
            continue
        found = _examined(home, "judge", name)
        longest = answers + (found.question or 0)
        if found.context is not None and longest > found.context:
            raise UserError(f"The judge {name} of preference_eval.judges reads at most {found.context} "
                            "tokens, but its question with ppo.max_prompt + 2 preference_eval.max_response "
                            f"is {longest}. Lower what is too long, or name a judge with a longer context.")


def _rewards(home: Home, params: Params) -> dict[str, list[int]]:
    """Return the weights of other reward models; see `Examined`. Raises UserError for a reward, of PPO or of
    a candidate, that cannot be loaded.
    """
    found = {}
    for name in dict.fromkeys(name for values in _rewarded(params) for name in values.rewards):
        if FUNCTION_NAME.fullmatch(name):
            _examine(home, "function", name)  # each time: it may have changed with what it imports
        elif name != REWARD and (weights := _examined(home, "reward", name).weights):
            found[name] = weights
    return found


def _methods(home: Home, params: Params) -> None:
    """Raise UserError for values of an online method that contradict it, others, or its stage's processes."""
    for block, values in _online(params).items():
        name = block.partition(".")[2]
        method, stage = (params.candidates[name]["method"], f"candidate@{name}") if name else ("ppo", "ppo")
        require_usable(method, values, compute_of(home.root, stage).ranks, block)
        learns = params.reward_model.top_layers
        if method in WITH_CRITIC and values.critic == "shared" and values.trainable == "top" \
                and (learns is None or learns > values.top_layers):
            raise UserError(f"With {block}.critic: shared, the critic starts as the reward model on the "
                            f"policy's frozen layers, but reward_model.top_layers = {json.dumps(learns)} "
                            f"changes some of them. Set it to {values.top_layers}, or {block}.critic to "
                            "separate.")


def _splits(params: Params, base: Examined | None) -> None:
    """Raise UserError if top layers alone are to learn, of a model that cannot be split or has too few."""
    asked = {f"{block}.top_layers": values.top_layers for block, values in _online(params).items()
             if values.trainable == "top"}
    if params.reward_model.top_layers is not None:
        asked["reward_model.top_layers"] = params.reward_model.top_layers
    layers = params.base.layers if base is None else base.size and base.size["layers"]
    for name, top_layers in asked.items():
        if base and base.unsplit:
            raise UserError(f"{name}: {top_layers} cannot be done with the base model {params.base.source}. "
                            f"{base.unsplit}")
        if layers and top_layers >= layers:
            raise UserError(f"{name} = {top_layers} leaves no layer frozen: the base model has {layers}. "
                            "Lower it, or let all layers learn.")


def _engines(home: Home, params: Params) -> None:
    """Raise UserError if a stage is to let servers sample, and nobody has given an address for each of its
    processes.
    """
    engines = {"ppo": params.ppo.engine, "preference_eval": params.preference_eval.engine}
    sampling: dict[str, PpoParams | RejectionParams] = {
        **_candidates(params, PpoParams), **_candidates(params, RejectionParams)}
    for block, values in sampling.items():
        engines[f"candidate@{block.partition('.')[2]}"] = values.engine
    for stage, engine in engines.items():
        if engine == "vllm":
            vllm_addresses(compute_of(home.root, stage).ranks)


def _examined(home: Home, role: str, source: str) -> Examined:
    """Examine a model. Raises UserError for one that cannot be used in this role.

    Asked in a child process, because this one must never import torch; and once for each model, because that
    takes seconds which an unchanged pipeline should not wait for. Each answer has a file of its own, so that
    two runs that ask at once do not overwrite each other's.
    """
    # What holds of a model may change with our own code and with transformers.
    code = f"plumbline {__version__}, transformers {version('transformers')}"
    key = f"{role} {source} {_newest(home.root / Path(source).expanduser())} {code}"
    kept_in = home.folder / "examined" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    try:
        kept = json.loads(kept_in.read_text(encoding="utf-8"))
        if kept["size"]:
            ModelSize.read(kept["size"])
        return Examined(kept["context"], kept["size"], kept["unsplit"], kept["question"],
                        kept["weights"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, damaged, or of code that asked for less
        found = _examine(home, role, source)
    kept_in.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept_in, json.dumps({"examined": key, **asdict(found)}, indent=1) + "\n")
    return found


def _examine(home: Home, role: str, source: str) -> Examined:
    command = [sys.executable, "-c", EXAMINE, role, source, str(home.root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                          env=environment)
    if done.returncode == UserError.exit_code:
        raise UserError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise UserError(f"The model {source} cannot be examined: {done.stderr.strip()[-500:]}")
    return Examined(**json.loads(done.stdout.splitlines()[-1]))


def _newest(path: Path) -> int:
    """Return when the files of a local model were last changed, in nanoseconds; 0 for what is no path.

    What `mv` or `cp -p` put there keeps its time: when it came there is the last change of its inode.
    """
    times = [file.stat() for file in (path, *path.glob("*")) if file.exists()]
    return max((max(one.st_mtime_ns, one.st_ctime_ns) for one in times), default=0)


def _sampled(params: Params) -> dict[str, int]:
    """Return the longest sequences, in tokens, that PPO, the evaluation and candidates of a comparison
    sample."""
    ppo, online, rejection = params.ppo, _online(params), _candidates(params, RejectionParams)
    return {"ppo.max_prompt + ppo.max_response": ppo.max_prompt + ppo.max_response,
            "ppo.max_prompt + preference_eval.max_response":
                ppo.max_prompt + params.preference_eval.max_response,
            **{f"{block}, max_prompt + max_response": values.max_prompt + values.max_response
               for block, values in online.items() if block != "ppo"},
            **{f"{block}.max_length": values.max_length for block, values in rejection.items()}}


def _candidates(params: Params, cls: type[Values]) -> dict[str, Values]:
    """Return the parameters of the candidates of a comparison that are of a class, by where they stand."""
    every = {f"candidates.{name}": candidate_params(params, name) for name in params.compare}
    return {block: values for block, values in every.items() if isinstance(values, cls)}


def _online(params: Params) -> dict[str, PpoParams]:
    """Return the parameters of PPO and of the online candidates of a comparison, by where they stand."""
    return {"ppo": params.ppo, **_candidates(params, PpoParams)}


def _rewarded(params: Params) -> list[RewardParts]:
    """Return the parameters of PPO and of the candidates of a comparison that learn from rewards."""
    return [params.ppo, *_candidates(params, RewardParts).values()]


def _within_context(params: Params, context: int | None) -> None:
    if context is None:
        return
    learnt = {f"{block}.max_length": values.max_length
              for block, values in _candidates(params, DirectParams).items()}
    wanted = {"sft.max_length": params.sft.max_length,
              "reward_model.max_length": params.reward_model.max_length, **_sampled(params), **learnt}
    too_long = [f"{name} is {tokens}" for name, tokens in wanted.items() if tokens > context]
    if too_long:
        raise UserError(f"The base model {params.base.source} reads at most {context} tokens, but "
                        f"{' and '.join(too_long)}. Lower what is too long, or take a model with a longer "
                        "context.")


def _lengths_agree(params: Params) -> None:
    """Raise UserError if the reward model would score what it never saw the like of, the evaluation cut what
    a method lets finish, or a rejection sampling have no room for a prompt."""
    longest, sampled = params.reward_model.max_length, _sampled(params)
    unseen = [f"{name} is {tokens}" for name, tokens in sampled.items() if tokens > longest]
    if unseen:
        raise UserError(f"reward_model.max_length is {longest}, so the reward model learns nothing about "
                        f"longer conversations, but {' and '.join(unseen)}. Raise reward_model.max_length, "
                        "or lower the others.")
    rejection, most = _candidates(params, RejectionParams), params.preference_eval.max_response
    answers = {block: values.max_response for block, values in _online(params).items()}
    answers |= {block: values.max_response for block, values in rejection.items()}
    for block, tokens in answers.items():
        if tokens > most:
            raise UserError(f"preference_eval.max_response is {most}, but {block}.max_response is {tokens}: "
                            "answers that training lets finish would count as cut. Make "
                            "preference_eval.max_response at least as long.")
    for block, values in rejection.items():
        if values.max_response >= values.max_length:
            raise UserError(f"{block}.max_response = {values.max_response} leaves no room for a prompt "
                            f"within {block}.max_length = {values.max_length}. Lower the one or raise the "
                            "other.")


def _disk(home: Home, params: Params, size: ModelSize | None) -> None:
    """Raise UserError if the models of a run do not fit onto the disks of its workspace and of the cache."""
    file = home.root / Path(params.base.source).expanduser()
    stored = FP32 * size.weights if size else file.stat().st_size if file.is_file() else 0
    places = [_existing(home.runs), _existing(home.cache)]
    disks = [_disk_of(place) for place in places]
    for place, disk in zip(places, disks, strict=True):
        models = MODELS + params.reward_model.members - 1
        needed = max(LEAST_FREE_BYTES, models * disks.count(disk) * stored)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(f"The disk of {place} has {free / 1e9:.1f} GB free; a run with these parameters "
                            f"wants at least {needed / 1e9:.1f} GB there. See `plumbline gc --dry-run`, or "
                            "free space elsewhere.")


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _disk_of(folder: Path) -> int:
    return folder.stat().st_dev


def _memory(home: Home, params: Params, size: ModelSize, rewards: dict[str, list[int]]) -> None:
    """Tell what each stage needs, with `rewards`, the weights of other reward models. Raises UserError for
    what cannot fit into the memory of this machine.
    """
    room, judge = room_here(), bool(_not_simulated(home, params)) and params.ingest.judge_fraction > 0

    def where(stage: str) -> StageCompute:
        return compute_of(home.root, stage)

    for one in require_room(params, size, where, judge, room, rewards):
        watcher.get().planned(one.stage, described(one, room, where(one.stage)))
