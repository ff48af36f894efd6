"""Anthropic's HH-RLHF, the short part: helpfulness judged by people, where length tells little.

    python -m examples.hh_short ../shared/data          # writes data/hh_short/
    plumbline run --params params/smollm2_hh.yaml       # or both, and the base model: make smollm2-hh

Of the helpful test files (Bai et al. 2022, arXiv 2204.05862) it keeps the comparisons whose answers have at
most 260 characters and whose prompt has at most 500, which a small model on a small machine can read whole.
Where one of the answers is longer, people chose it in 706 of 1,242, which is 57 %. The lines stay as they
are: ingest knows the format.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data/hh_short"
NAMES = ("base", "online", "rejection_sampled")
SOURCE = "https://github.com/anthropics/hh-rlhf"
TURN = "\n\nAssistant:"
LONGEST_ANSWER, LONGEST_PROMPT = 260, 500
"""Characters."""


def main() -> None:
    """Write the short comparisons of the three helpful files, and say how many there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where hh_helpful_base_test.jsonl.gz and its siblings lie")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        lines = [line for line in _lines(given.folder, name) if is_short(line)]
        file = FOLDER / f"helpful_{name}.jsonl"
        file.write_text("".join(lines), encoding="utf-8")
        print(f"{file}: {len(lines)} comparisons")


def is_short(line: str) -> bool:
    """Return True if both answers and the prompt before them are within the limits."""
    row = json.loads(line)
    prompt, _, chosen = row["chosen"].rpartition(TURN)
    rejected = row["rejected"].rpartition(TURN)[2]
    return max(len(chosen), len(rejected)) <= LONGEST_ANSWER and len(prompt) <= LONGEST_PROMPT


def _lines(folder: Path, name: str) -> Iterator[str]:
    """Yield the lines of one file, by a flat name or as Anthropic names it."""
    theirs = f"helpful-{name.replace('_', '-')}/test.jsonl.gz"
    for file in (folder / f"hh_helpful_{name}_test.jsonl.gz", folder / theirs):
        if file.is_file():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                yield from lines
            return
    raise SystemExit(f"Expected {theirs} in {folder}, and did not find it. Get the files from {SOURCE}, "
                     "and name their folder: python -m examples.hh_short FOLDER")


if __name__ == "__main__":
    main()
