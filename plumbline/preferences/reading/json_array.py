"""A JSON array decoded one element at a time, so that a file of any size needs the memory of its largest
record."""

import codecs
import json
import re
from collections.abc import Iterator
from io import BufferedReader
from itertools import count

from plumbline.preferences.reading.conversations import Unusable

CHUNK = 2**16
FILLING = re.compile(r"[\s,]*")
FOLLOWING = re.compile(r"\s*[,\]]")
NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")
STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{},:\']', re.DOTALL)
"""A text, which may go on where what has been read ends, or a sign between texts; `'` is none of JSON's."""
OUTSIDE_IN = re.compile(r'\}\s*+,?\s*+\{\s*+"\Z')
"""How a text ends that is none, but what stands between two records: a quotation mark is missing before."""
CLOSED_BY = {"]": "[", "}": "{"}
CLOSES_WITHIN = 2**20
"""The end of a broken record is looked for no further than this."""
DECODER = json.JSONDecoder()
NEAR_THE_END = 16
"""An error this close to the end of what has been read may be a token that goes on."""


class Elements:
    """The elements of the array at the start of a file; what does not decode is told, and the next object
    tried."""

    next_object = NEXT_OBJECT
    too_long = ""
    """What to do about a record that is too long."""

    def __init__(self, opened: BufferedReader, limit: int) -> None:
        self.opened = opened
        self.limit = limit
        # Bytes that are not UTF-8 become lone surrogates, so that they spoil their own element alone.
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self.text = ""
        self.ended = False
        self.lost = False

    def __iter__(self) -> Iterator[tuple[int, object]]:
        self._read()
        self.text = self.text[self.text.index("[") + 1:]
        for number in count(1):
            self._skip_filling()
            if self.text.startswith("]"):
                self.text = self.text[1:]
                self._skip_filling()
                if not self.text:
                    return
                # It was a list's within a broken record, or there are several arrays: both go on.
                reason = "not valid JSON: there is more after the end of the array"
                another = self.text.startswith("[")
                self.text = self.text.removeprefix("[")
                yield number, Unusable("-", reason) if another else self._resumed(reason)
            elif not self.text:
                yield number, Unusable("-", "not valid JSON: the file ends within its array")
                return
            else:
                yield number, self._element()
            if self.lost:
                return

    def _element(self) -> object:
        while True:
            try:
                value, end = DECODER.raw_decode(self.text)
                # A number near the end of what has been read may go on.
                if self.ended or len(self.text) - end > NEAR_THE_END or FOLLOWING.match(self.text, end):
                    return self._taken(value, end)
            except json.JSONDecodeError as error:
                near_the_end = error.pos > len(self.text) - NEAR_THE_END
                unclosed = near_the_end or error.msg.startswith("Unterminated string")
                if not unclosed or self.ended:
                    return self._skipped(f"not valid JSON: {why_not_json(error)} of the record")
            except (RecursionError, ValueError) as error:  # deep nesting, or a number of a thousand digits
                return self._skipped(f"not usable JSON: {error}")
            if len(self.text) > self.limit:
                return self._skipped(f"the record is longer than {self.limit // 2**20} MiB, or never ends"
                                     f"{self.too_long}")
            self._read()

    def _taken(self, value: object, end: int) -> object:
        taken, self.text = self.text[:end], self.text[end:]
        if not taken.isascii():
            try:
                taken.encode()
            except UnicodeEncodeError as error:
                return Unusable("-", f"not UTF-8 at character {error.start + 1} of the record")
        return value

    def _skipped(self, reason: str) -> Unusable:
        """Skip the element: to where its brackets close, or if these are broken too, as `_resumed` does."""
        while (end := _end_of_value(self.text)) is None and not self.ended and len(self.text) < CLOSES_WITHIN:
            self._read()
        if not end:
            return self._resumed(reason)
        self.text = self.text[end:]
        return Unusable("-", reason)

    def _resumed(self, reason: str) -> Unusable:
        """Skip to where the next object of the array seems to begin, or to the end of the file."""
        while True:
            found = self.next_object.search(self.text)
            if found or self.ended:
                self.text = self.text[found.end():] if found else ""
                self.lost = not found
                return Unusable("-", reason if found else f"{reason}; nothing after it could be read")
            self.text = self.text[-CHUNK:]
            self._read()

    def _skip_filling(self) -> None:
        while True:
            found = FILLING.match(self.text)
            self.text = self.text[found.end():] if found else self.text
            if self.text or self.ended:
                return
            self._read()

    def _read(self) -> None:
        """Read as much again as is there, so that a long record is decoded only a few times."""
        read = self.opened.read(max(CHUNK, len(self.text)))
        self.ended = not read
        self.text += self.decode(read, final=self.ended)


def _end_of_value(text: str) -> int | None:
    """Return where the value at the start of a text ends, by its quotation marks and brackets alone.

    Returns 0 where they contradict each other, and None where the text, or CLOSES_WITHIN, ends first.
    """
    opened, before = list[str](), ""
    for found in STRUCTURE.finditer(text, 0, CLOSES_WITHIN):
        sign = found[0]
        if sign == "," and not opened:
            return found.start()
        if sign in ("{", "["):
            in_place = before in ("", "[", ":") or (before == "," and opened[-1:] == ["["])
            if sign == "{" and not in_place:
                return 0  # the next record begins within this one
            opened.append(sign)
        elif sign in CLOSED_BY:
            if not opened or opened.pop() != CLOSED_BY[sign]:
                return 0
            if not opened:
                return found.end()
        elif sign == "'" or OUTSIDE_IN.search(sign):
            return 0
        before = sign
    return None


def why_not_json(error: json.JSONDecodeError) -> str:
    """Return what is wrong with invalid JSON, in the words of the usual mistakes."""
    ahead = error.doc[error.pos : error.pos + 100].lstrip()
    behind = error.doc[max(0, error.pos - 100) : error.pos].rstrip()
    where = f"at character {error.pos + 1}"
    if ahead.startswith(("//", "/*", "#")):
        return f"a comment, which JSON does not have, {where}"
    if ahead.startswith("'"):
        return f"single quotes, as Python prints a dictionary, {where}: write it with json.dumps"
    if ahead.startswith(("None", "True", "False")):
        word = ahead.split(maxsplit=1)[0].rstrip(",]}")
        return f"{word}, as Python prints it, {where}: write it with json.dumps"
    if re.match(r",?\s*[}\]]", ahead) and (behind.endswith(",") or ahead.startswith(",")):
        return f"a comma before the closing bracket {where}"
    return f"{error.msg} {where}"
