"""What went wrong with texts on their way here, and what they are written in.

Trouble is looked for by its traces: the replacement character, UTF-8 that was read as Latin-1 or Windows-1252
(such as "cafÃ©"), control characters, HTML entities, HTML tags, markers of a chat template. A trace proves
nothing in a single text (an answer about HTML has tags), but a source full of them was damaged, or rendered
for another model already. The script of a text is that of most of its letters; languages are not told apart.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.intervals import Share
from plumbline.preferences.template_markers import TEMPLATE_IN_TEXT

Trouble = Literal["replacement character", "mojibake", "control character", "HTML entity", "HTML tag",
                  "chat template"]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
DAMAGE = frozenset[Trouble](TROUBLES[:3])
"""What nobody writes on purpose."""
NO_LETTERS, OTHER = "no letters", "other"
CONTEXT = 30

_SCRIPTS = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6),
              (0xF8, 0x2AF),
              (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Hebrew": ((0x590, 0x5FF),),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Devanagari": ((0x900, 0x97F),),
    "Bengali": ((0x980, 0x9FF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Han or Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
                    (0xFF66, 0xFF9F), (0x20000, 0x323AF)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    OTHER: ((0x530, 0x58F), (0x700, 0x74F), (0x780, 0x89F), (0xA00, 0xB7F), (0xC00, 0xDFF), (0xE80, 0x10FF),
            (0x1200, 0x1C7F), (0x1CC0, 0x1DBF), (0xA000, 0xA63F), (0xA800, 0xABFF), (0x10000, 0x1CFFF)),
}  # the Unicode blocks of each (Unicode 16, Blocks.txt), the signs and digits inside Latin-1 left out

# What the bytes 0x80-0xBF look like when read as Latin-1, or as Windows-1252.
_CONTINUES = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = re.compile(
    f"[ÂÃ]{_CONTINUES}"  # accented Latin letters, no-break spaces
    f"|â[\x80€]{_CONTINUES}"  # curly quotes, dashes
    f"|(?:[ÄÅÎÏÐÑØÙ×]{_CONTINUES}){{2}}"  # two letters of another alphabet; one may be right as it is
    f"|ð[\x9fŸ]{_CONTINUES}"  # emoji
    f"|(?:[à-ï]{_CONTINUES}{{2}}){{2}}")  # two Chinese, Japanese or Korean characters
_MAYBE_MOJIBAKE = re.compile(f"[Â-Åà-ðÎ-ÑØÙ×]{_CONTINUES}")  # twenty times as fast on texts without any
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CONTROL_BYTES = bytes([*range(9), 11, 12, *range(14, 32), 127])
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_TAG = re.compile(r"</?(?:a|b|blockquote|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|script|span"
                  r"|strong|style|sub|sup|table|tbody|td|th|tr|u|ul)(?:\s[^<>]{0,300})?/?>", re.IGNORECASE)
_LETTER = re.compile("[A-Za-z]")


class Texts(TypedDict):
    """The prompts and responses of one source: how many, which trouble they have, which scripts."""

    texts: int
    damaged: int
    """Texts with trouble that nobody writes on purpose: anything but HTML."""
    trouble: dict[str, Share]
    scripts: dict[str, int]


class DamageExample(TypedDict):
    """The first text with some trouble: its source, and the characters around it."""

    source: str
    around: str


def troubles_of(text: str) -> Iterator[tuple[Trouble, int]]:
    """Yield each kind of trouble in a text, with the position where it first occurs."""
    if not text.isascii():
        if (at := text.find("\ufffd")) >= 0:
            yield "replacement character", at
        if (maybe := _MAYBE_MOJIBAKE.search(text)) and (found := _MOJIBAKE.search(text, maybe.start())):
            yield "mojibake", found.start()
        if found := _CONTROL.search(text):
            yield "control character", found.start()
    elif len(text.encode().translate(None, _CONTROL_BYTES)) != len(text) and (found := _CONTROL.search(text)):
        yield "control character", found.start()
    if "&" in text and (found := _ENTITY.search(text)):
        yield "HTML entity", found.start()
    if "<" in text and (found := _TAG.search(text)):
        yield "HTML tag", found.start()
    if ("<" in text or "[" in text or "#" in text) and (found := TEMPLATE_IN_TEXT.search(text)):
        yield "chat template", found.start()


def script_of(text: str) -> str:
    """Return the script of most letters of a text."""
    if text.isascii():
        return "Latin" if _LETTER.search(text) else NO_LETTERS
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    letters = np.bincount(_script_by_code()[codes], minlength=len(_SCRIPTS) + 1)[1:]
    return list(_SCRIPTS)[int(letters.argmax())] if letters.any() else NO_LETTERS


class TextColumns:
    """Counts the texts of some part of the rows by source; sources are numbered."""

    def __init__(self) -> None:
        self.trouble: Counter[tuple[int, Trouble]] = Counter()
        self.scripts: Counter[tuple[int, str]] = Counter()
        self.damaged: Counter[int] = Counter()
        self.examples: dict[Trouble, tuple[int, str]] = {}

    def add(self, source: int, text: str) -> None:
        """Count one text."""
        self.scripts[source, script_of(text)] += 1
        damaged = False
        for trouble, at in troubles_of(text):
            self.trouble[source, trouble] += 1
            damaged |= trouble in DAMAGE
            if trouble not in self.examples:
                self.examples[trouble] = source, text[max(0, at - CONTEXT) : at + CONTEXT]
        if damaged:
            self.damaged[source] += 1


class TextCounts:
    """Adds up the parts, in their order."""

    def __init__(self) -> None:
        self._trouble: Counter[tuple[int, Trouble]] = Counter()
        self._scripts: Counter[tuple[int, str]] = Counter()
        self._damaged: Counter[int] = Counter()
        self._examples: dict[Trouble, tuple[int, str]] = {}

    def take(self, part: TextColumns, sources: list[int]) -> None:
        """Add a part; `sources` says which number each of its own sources has here."""
        self._trouble.update({(sources[source], kind): n for (source, kind), n in part.trouble.items()})
        self._scripts.update({(sources[source], script): n for (source, script), n in part.scripts.items()})
        self._damaged.update({sources[source]: n for source, n in part.damaged.items()})
        for trouble, (source, around) in part.examples.items():
            self._examples.setdefault(trouble, (sources[source], around))

    def by_source(self, sources: list[str], most: int) -> dict[str, Texts]:
        """Return counts of texts, trouble and scripts for each of the `most` largest sources."""
        texts = Counter[int]()
        for (source, _), n in self._scripts.items():
            texts[source] += n
        largest = sorted(texts, key=lambda source: (-texts[source], sources[source]))[:most]
        return {sources[source]: self._of(source, texts[source]) for source in largest}

    def _of(self, source: int, texts: int) -> Texts:
        trouble = {kind: self._trouble[source, kind] for kind in TROUBLES}
        scripts = Counter({script: self._scripts[source, script] for script in (*_SCRIPTS, NO_LETTERS)})
        return {"texts": texts, "damaged": self._damaged[source],
                "trouble": {kind: {"share": n / texts, "n": texts} for kind, n in trouble.items() if n},
                "scripts": {script: n for script, n in scripts.most_common() if n}}

    def examples(self, sources: list[str]) -> dict[str, DamageExample]:
        """Return the first occurrence of each kind of trouble."""
        return {trouble: {"source": sources[self._examples[trouble][0]], "around": self._examples[trouble][1]}
                for trouble in TROUBLES if trouble in self._examples}


@cache
def _script_by_code() -> NDArray[np.uint8]:
    """Return the number of the script of every code point, from 1; 0 for code points that are no letters."""
    table = np.zeros(0x110000, np.uint8)
    for number, blocks in enumerate(_SCRIPTS.values(), start=1):
        for first, last in blocks:
            table[first : last + 1] = number
    return table
