"""What people prefer, as data: demonstrations, comparisons, rankings and ratings, and the one JSON schema for
them.

A row is one JSON object a line. `kind` says which of the four it is; the other keys are the fields below,
with a prompt as a list of `{"role", "content"}` messages that ends with the user's turn. Batches, prepared
data and exports all use it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypedDict, cast

import orjson

encode = json.JSONEncoder(ensure_ascii=False).encode
"""As `json.dumps` with that option, which would make an encoder each time."""
PROMPT, END_OF_PROMPT, ORIGIN = b'"prompt": ', b'"}], "response', b', "source": '
"""Where the prompt is in a line of a batch, and where what is known of its origin begins."""
Label = Literal["A", "B", "tie"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = tuple[Message, ...]


def conversation(prompt: Prompt) -> str:
    """Return the prompt as text: a single request by itself, several turns with their roles."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


@dataclass(frozen=True)
class Origin:
    """Where a row came from; every field but `source` may be unknown."""

    source: str
    annotator: str | None = None
    time: str | None = None
    """When the judgement was made: ISO 8601."""
    machine: bool | None = None
    """True if a program gave the label and not a person."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt with a response worth imitating."""

    prompt: Prompt
    response: str
    origin: Origin


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt, and which of them is better. `strength` is the labeller's own scale, if
    any."""

    prompt: Prompt
    responses: tuple[str, str]
    label: Label
    origin: Origin
    strength: float | None = None

    def swap(self) -> "Comparison":
        """Return the same judgement with the responses in the other order."""
        swapped: dict[Label, Label] = {"A": "B", "B": "A", "tie": "tie"}
        return Comparison(self.prompt, self.responses[::-1], swapped[self.label], self.origin, self.strength)

    @property
    def chosen(self) -> str:
        """Return the better response; of a tie the first."""
        return self.responses[1] if self.label == "B" else self.responses[0]

    @property
    def rejected(self) -> str:
        """Return the worse response; of a tie the second."""
        return self.responses[0] if self.label == "B" else self.responses[1]


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt with their ranks: 1 is best, equal ranks are ties."""

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    origin: Origin

    def comparisons(self) -> list[Comparison]:
        """Return all K(K-1)/2 pairs (Ouyang et al. 2022, arXiv 2203.02155, section 3.5)."""
        pairs = []
        for (a, rank_a), (b, rank_b) in combinations(zip(self.responses, self.ranks, strict=True), 2):
            pairs.append(Comparison(self.prompt, (a, b), label_of(rank_b, rank_a), self.origin))
        return pairs


@dataclass(frozen=True)
class Rating:
    """One response judged by itself, on the labeller's own scale: more is better. A thumb is 1 up and 0 down.

    It says something only beside other ratings of the same prompt by the same annotator: see ratings.py.
    """

    prompt: Prompt
    response: str
    score: float
    origin: Origin


class MessageJson(TypedDict):
    """One turn of a conversation, as a chat template takes it too."""

    role: Role
    content: str


class RowJson(TypedDict, total=False):
    """A row in the documented schema: `kind`, `prompt` and `source` are always there."""

    kind: str
    prompt: list[MessageJson]
    response: str
    responses: list[str]
    label: Label
    strength: float
    ranks: list[int]
    score: float
    source: str
    annotator: str
    time: str
    machine: bool


Preference = Comparison | Ranking
Row = Demonstration | Comparison | Ranking | Rating


def label_of(first: float, second: float) -> Label:
    """Return the label of the higher of two scores."""
    if first == second:
        return "tie"
    return "A" if first > second else "B"


def comparisons_of(preference: Preference) -> list[Comparison]:
    """Return a comparison as it is, and a ranking as its pairs."""
    return [preference] if isinstance(preference, Comparison) else preference.comparisons()


def prompt_json(prompt: Prompt) -> list[dict[str, str]]:
    """Return the prompt's messages in our schema, which is also the form that chat templates take."""
    return [{"role": message.role, "content": message.content} for message in prompt]


def to_json(row: Row) -> dict[str, object]:
    """Return the row in the documented schema, without unknown fields."""
    out: dict[str, object] = {"kind": type(row).__name__.lower()}
    out["prompt"] = prompt_json(row.prompt)
    match row:
        case Demonstration():
            out["response"] = row.response
        case Comparison():
            out |= {"responses": list(row.responses), "label": row.label}
            if row.strength is not None:
                out["strength"] = row.strength
        case Ranking():
            out |= {"responses": list(row.responses), "ranks": list(row.ranks)}
        case Rating():
            out |= {"response": row.response, "score": row.score}
    out["source"] = row.origin.source
    if row.origin.annotator is not None:
        out["annotator"] = row.origin.annotator
    if row.origin.time is not None:
        out["time"] = row.origin.time
    if row.origin.machine is not None:
        out["machine"] = row.origin.machine
    return out


def from_json(values: Mapping[str, object]) -> Row:
    """Return the row that `to_json` wrote. For our own files only: untrusted input goes through `formats`."""
    row = cast(RowJson, values)
    prompt = prompt_from_json(row["prompt"])
    origin = Origin(row["source"], row.get("annotator"), row.get("time"), row.get("machine"))
    match row["kind"]:
        case "demonstration":
            return Demonstration(prompt, row["response"], origin)
        case "rating":
            return Rating(prompt, row["response"], row["score"], origin)
        case "ranking":
            return Ranking(prompt, tuple(row["responses"]), tuple(row["ranks"]), origin)
        case _:
            first, second = row["responses"]
            return Comparison(prompt, (first, second), row["label"], origin, row.get("strength"))


def prompt_from_json(turns: Iterable[MessageJson]) -> Prompt:
    """Return the prompt that `prompt_json` wrote."""
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def prompt_on(line: bytes) -> Prompt:
    """Return the prompt of the row on a line that `to_line` wrote, without parsing the responses."""
    return prompt_from_json(orjson.loads(prompt_part(line)))


def prompt_part(line: bytes) -> bytes:
    """Return the JSON of the prompt on a line that `to_line` wrote.

    What follows the prompt is `response` or `responses`. A quote within a text is escaped, so the first
    `"}], "response` ends the list of messages; `"}], "` alone would also be the end of a text `"}], `.
    """
    return line[line.index(PROMPT) + len(PROMPT) : line.index(END_OF_PROMPT) + len('"}]')]


def demonstration_line(line: bytes, response: str) -> bytes:
    """Return the line of a demonstration with prompt and origin of the row on a line that `to_line` wrote.

    The last `, "source": ` begins the origin, for the same reason.
    """
    return b"".join((b'{"kind": "demonstration", "prompt": ', prompt_part(line), b', "response": ',
                     encode(response).encode(), line[line.rindex(ORIGIN) :]))


def to_line(row: Row) -> str:
    """Return the row as one line of a batch: the same bytes for the same row."""
    return encode(to_json(row)) + "\n"


def row_id(line: bytes) -> str:
    """Return the id of the row on this line: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()[:16]
