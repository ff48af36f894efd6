"""How the data rooms carry a million comparisons of a kilobyte: seconds and peak memory of each step.

    python benchmarks/data_scale.py 100000 1000000      # or: make bench
    python benchmarks/data_scale.py 1000000 --workers 1 2

Each step runs in a process of its own, so that its peak memory is its own. Check and split is repeated with each
number of --workers (by default as many as there are cores); its peak is that of its process and, for each worker,
that of the largest one. Beside them stands the yardstick: pandas reading the same file and counting its distinct
prompts.
"""

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from plumbline.workers import cores

SIZES = [100_000, 1_000_000]
WORDS = [f"{a}{b}{c}" for a in ("ba", "ko", "li", "mu", "ne", "ra") for b in ("den", "fol", "gar", "sim", "tor", "vel")
         for c in ("", "as", "er", "in", "on", "um")]
NEAR = 0.02
RELABELLED = 0.01


def generate(file, rows, seed=0, flipped=0.0):
    """Write comparisons of about 1 KB; one prompt in fifty nearly repeats the one before it."""
    rng, flips, prompt = random.Random(seed), random.Random(seed + 1), ""
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            prompt = f"{prompt} please" if rng.random() < NEAR else " ".join(rng.choices(WORDS, k=35))
            answers = [" ".join(rng.choices(WORDS, k=48)) for _ in range(2)]
            annotator = f"annotator {rng.randrange(20)}"
            if flips.random() < flipped:
                answers.reverse()
            out.write(json.dumps({"prompt": prompt, "chosen": answers[0], "rejected": answers[1],
                                  "annotator": annotator, "source": "bench"}) + "\n")


def pandas_pass(folder):
    import pandas

    pandas.read_json(folder / "in.jsonl", lines=True)["prompt"].nunique()


def import_and_index(folder):
    arrive(folder, "in.jsonl")


def import_other(folder):
    arrive(folder, "other.jsonl")


def arrive(folder, name):
    from plumbline.preferences.batches.arrivals import NO_ROWS, draft, publish
    from plumbline.preferences.reading.read import read_file

    folders = folders_in(folder)
    with draft(folders, name, read_file(folder / name, name)) as drafted:
        publish(folders, drafted, "add", name, name, NO_ROWS, "")


def snapshot(folder):
    from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot

    fix_snapshot(["added"], Simulation(0, 0, 0, 0), folders_in(folder), folder / "snapshot")


def check_and_split(folder, workers):
    from plumbline.preferences.prepare.prepare import prepare
    from plumbline.preferences.prepare.writer import Splitting
    from plumbline.preferences.report.pages import write_report

    counts, report = prepare(folder / "snapshot", folder / "prepared", Splitting(0.05, 0.05, True, 0.8), workers)
    write_report(report, folder / "report")
    assert counts["near_heldout"] > 0
    assert counts["rows_read"] == sum(counts[name] for name in
                                      ("rows_accepted", "duplicates", "near_heldout", "quarantined"))


def diff(folder):
    from plumbline.preferences.batches.arrivals import arrivals, folder_of
    from plumbline.preferences.versions.compare import DataVersion, compare

    folders = folders_in(folder)
    files = [(folder_of(folders, arrival) / "rows.jsonl", arrival.batch.digest) for arrival in arrivals(folders)]
    one, other = (DataVersion(file.parent.name, ((file, digest),)) for file, digest in files)
    found = compare(one, other, folders.indexes)
    assert found.relabelled.rows > 0


def folders_in(folder):
    from plumbline.preferences.batches.folders import Folders

    return Folders(folder, folder / "home")


def measured(step, folder, workers=0):
    """Run a step in a new process; its seconds, those of processors, and its peak memory in MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, step, folder, workers).result()


def timed(step, folder, workers):
    started = time.perf_counter()
    step(*([folder, workers] if workers else [folder]))
    seconds = time.perf_counter() - started
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = sum(one.ru_utime + one.ru_stime for one in (own, others))
    return seconds, busy, (own.ru_maxrss + (workers > 1) * workers * others.ru_maxrss) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="ROWS")
    parser.add_argument("--workers", nargs="+", type=int, default=[cores()], metavar="N")
    given = parser.parse_args()
    print("| rows | step | seconds | seconds a million rows | of processors | peak MiB |\n|---|---|---|---|---|---|")
    for rows in given.sizes:
        folder = Path(tempfile.mkdtemp(prefix="data-scale-"))
        try:
            generate(folder / "in.jsonl", rows)
            for step in (pandas_pass, import_and_index, snapshot):
                show(rows, name_of(step), *measured(step, folder))
            for workers in given.workers:
                name = f"{name_of(check_and_split)}, workers: {workers}"
                show(rows, name, *measured(check_and_split, folder, workers))
            shutil.rmtree(folder / "prepared")
            generate(folder / "other.jsonl", rows, flipped=RELABELLED)
            measured(import_other, folder)
            show(rows, name_of(diff), *measured(diff, folder))
        finally:
            shutil.rmtree(folder)


def name_of(step):
    return step.__name__.replace("_", " ")


def show(rows, name, seconds, busy, peak):
    print(f"| {rows:,} | {name} | {seconds:.1f} | {seconds * 1e6 / rows:.1f} | {busy * 1e6 / rows:.1f} | {peak:.0f} |",
          flush=True)


if __name__ == "__main__":
    main()
