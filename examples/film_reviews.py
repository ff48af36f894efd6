"""Film reviews that critics liked: real human labels, short answers that end, and judges from outside.

    python -m examples.film_reviews ../shared/data      # writes data/film_reviews/
    plumbline run --params params/smollm2.yaml          # or both, and the base model: make smollm2

The data are 10,662 sentences of film reviews with their critics' own verdicts (Pang & Lee 2005, "Seeing
stars", sentence polarity data set v1.0). Half of the sentences, by their hash, are to learn from:

- each is a demonstration, liked or not: so that SFT writes reviews, which end, and takes no side;
- a liked and a disliked one in which the same two words stand make a comparison: how does it go on after
  these? They are matched by length, within three words, so that length tells nothing.

The other half is left to the judge `classifier`. So neither SFT, nor a reward model, nor PPO has met a
sentence that the judge learned from, nor the judge one of theirs. `lexicon` is a judge of another kind: word
lists and rules that people wrote (Hutto & Gilbert 2014, "VADER").
"""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Prompt, to_line

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDER = Path(__file__).parents[1] / "data/film_reviews"
SOURCE = "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz"
FILES = {"liked": ("rt_polarity_pos.txt.gz", "rt-polarity.pos"),
         "disliked": ("rt_polarity_neg.txt.gz", "rt-polarity.neg")}
ORIGIN = Origin("film reviews", annotator="critic", machine=False)
SYSTEM, ASKED = "Movie reviews.", "Continue: "
SHORTEST, LONGEST = 5, 20
"""Words of an answer."""
LENGTHS_APART = 3
"""Words by which the two answers of a comparison may differ in length."""
COMPARISONS_A_PROMPT = 6
WORD = re.compile(r"[a-z][a-z'-]*")


def main() -> None:
    """Make the files of the recipe, and say how many rows each has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with rt-polarity.pos and rt-polarity.neg")
    given = parser.parse_args()
    sentences = {verdict: _sentences(given.folder, verdict) for verdict in FILES}
    learn, judge = (
        {verdict: [text for text in texts if _hash(text) % 2 == half] for verdict, texts in sentences.items()}
        for half in (0, 1))

    compared = comparisons(learn["liked"], learn["disliked"])
    openings = {liked: opening for opening, liked, _ in compared}
    openings |= {disliked: opening for opening, _, disliked in compared}
    rows: list[Comparison | Demonstration] = []
    for opening, liked, disliked in compared:
        answers = (after(liked, opening), after(disliked, opening))
        # The liked answer stands first or second by chance, as it would from people.
        row = Comparison(prompt(opening), answers, "A", ORIGIN)
        rows.append(row.swap() if _hash(liked + disliked) % 2 else row)
    demonstrations = []
    for text in sorted([*learn["liked"], *learn["disliked"]], key=_hash):
        opening = openings.get(text) or _first_opening(text)
        if opening:
            demonstrations.append(Demonstration(prompt(opening), after(text, opening), ORIGIN))
    FOLDER.mkdir(parents=True, exist_ok=True)
    _write("comparisons.jsonl", map(to_line, rows))
    _write("demonstrations.jsonl", map(to_line, demonstrations))
    verdicts = [(text, verdict == "liked") for verdict in FILES for text in judge[verdict]]
    _write("judge.jsonl", (json.dumps({"text": text, "liked": liked}) + "\n" for text, liked in verdicts))


def comparisons(liked: Sequence[str], disliked: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (opening, liked sentence, disliked sentence) triples; each sentence is used once at most.

    A sentence takes the rarest opening that it shares with an unused one of the other kind, and there the one
    nearest in length.
    """
    holders: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for text in disliked:
        for opening, words in _openings(text):
            holders[opening].append((text, words))
    common = Counter(opening for text in liked for opening, _ in _openings(text))
    used: set[str] = set()
    taken: Counter[str] = Counter()
    found = []
    for text in liked:
        rarest_first = sorted(_openings(text), key=lambda one: len(holders[one[0]]) * common[one[0]])
        for opening, words in rarest_first:
            near = [(abs(words - others), other) for other, others in holders[opening]
                    if other not in used and abs(words - others) <= LENGTHS_APART]
            if near and taken[opening] < COMPARISONS_A_PROMPT:
                other = min(near)[1]
                used.add(other)
                taken[opening] += 1
                found.append((opening, text, other))
                break
    return found


def prompt(opening: str) -> Prompt:
    """Return the request to go on after two words.

    It has a system message because without one SmolLM2's template writes its own, a longer one.
    """
    return (Message("system", SYSTEM), Message("user", f"{ASKED}{opening}"))


def after(text: str, opening: str) -> str:
    """Return what follows the opening in a sentence, with punctuation as people write it."""
    rest = text[text.index(f"{opening} ") + len(opening) + 1 :].replace(". . .", "...")
    return re.sub(r" ([.,!?;:%)]|\.\.\.)", r"\1", re.sub(r'" ([^"]*) "', r'"\1"', rest)).strip()


def classifier(answers: Sequence[tuple[str, str]]) -> list[float]:
    """Return the log-odds that a critic liked the film, by a classifier of the sentences kept for it.

    Like every judge of a module it is given (prompt, answer) texts; the opening is judged with the answer.
    """
    texts = [f"{_opening_of(prompt)} {answer}" for prompt, answer in answers]
    return [float(score) for score in _trained().decision_function([_plain(text) for text in texts])]


def lexicon(answers: Sequence[tuple[str, str]]) -> list[float]:
    """Return VADER's compound score of each answer with its opening, from -1 to 1."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    texts = [f"{_opening_of(prompt)} {answer}" for prompt, answer in answers]
    return [analyser.polarity_scores(text)["compound"] for text in texts]


@lru_cache(maxsize=1)
def _trained() -> "Pipeline":
    """Train TF-IDF of words and pairs of words with logistic regression; about two seconds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    file = FOLDER / "judge.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=4.0))
    return model.fit([_plain(row["text"]) for row in rows], [row["liked"] for row in rows])


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _opening_of(prompt: str) -> str:
    return prompt.rpartition(ASKED)[2].strip()


def _openings(text: str) -> list[tuple[str, int]]:
    """Return the word pairs of a sentence's first half, each with the number of words that follow it."""
    words = text.split()
    found = []
    for start in range(min(len(words) // 2 + 1, len(words) - 2)):
        follow = len(words) - start - 2
        pair = words[start : start + 2]
        once = text.count(f"{pair[0]} {pair[1]} ") == 1
        if once and SHORTEST <= follow <= LONGEST and all(WORD.fullmatch(word) for word in pair):
            found.append((" ".join(pair), follow))
    return found


def _first_opening(text: str) -> str | None:
    found = _openings(text)
    return found[0][0] if found else None


def _sentences(folder: Path, verdict: str) -> list[str]:
    """Return the distinct sentences of one verdict, in the order of their hashes."""
    for name in FILES[verdict]:
        file = folder / name
        if file.is_file():
            content = file.read_bytes()
            text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("latin-1")
            return sorted({line.strip() for line in text.splitlines() if line.strip()}, key=_hash)
    raise SystemExit(f"Expected {' or '.join(FILES[verdict])} in {folder}, and found neither. Get {SOURCE} "
                     "(for research), unpack it, and name its folder: python -m examples.film_reviews FOLDER")


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def _write(name: str, lines: Iterable[str]) -> None:
    written = list(lines)
    (FOLDER / name).write_text("".join(written), encoding="utf-8")
    print(f"{FOLDER / name}: {len(written)} rows")


if __name__ == "__main__":
    main()
