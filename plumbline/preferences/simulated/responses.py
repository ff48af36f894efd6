"""Responses of varying quality, as several writers of different skill would give them.

A response is an opener, the content, and a closer. Every writer has a chance of each fault: a point left out,
points in the wrong order, something wrong, answering another request, rudeness, padding, saying things twice,
breaking off.
"""

import random
from dataclasses import dataclass
from functools import cache

from plumbline.preferences.simulated.world import SimulatedRequest, requests

POLITE = ("Sure", "Of course", "Happy to help", "Good question", "Gladly")
RUDE = ("What a silly question", "Figure it out yourself", "I do not have time for this")
CLOSERS = ("Let me know if that helps", "Enjoy", "Good luck", "I hope this helps")
PADDING = ("As everyone knows there is a lot to say about this", "This is something that people often think "
                                                                 "about",
           "There are many opinions and many ways to see it", "It is what it is and that is how it goes",
           "Before we go on let us think about it for a moment")
ORDER_WORDS = ("First", "Then", "Next", "Finally")


@dataclass(frozen=True)
class Writer:
    """The chance, from 0 to 1, of each fault in a response."""

    name: str
    omit: float
    disorder: float
    mistake: float
    off_topic: float
    rude: float
    plain: float
    pad: float
    repeat: float
    break_off: float


EXPERT = Writer("expert", 0.02, 0.01, 0.02, 0.0, 0.0, 0.10, 0.03, 0.02, 0.0)
HELPER = Writer("helper", 0.06, 0.05, 0.08, 0.0, 0.15, 0.35, 0.55, 0.45, 0.0)
NOVICE = Writer("novice", 0.25, 0.25, 0.30, 0.08, 0.20, 0.40, 0.40, 0.30, 0.05)
# Fluent and polite, but often answering something else: only a reader of the request can tell.
PARROT = Writer("parrot", 0.02, 0.02, 0.05, 0.70, 0.0, 0.10, 0.05, 0.02, 0.0)
TROLL = Writer("troll", 0.40, 0.40, 0.50, 0.30, 0.45, 0.40, 0.50, 0.50, 0.20)

# Demonstrations come from ordinary people; the responses that annotators compare span the whole range, as
# they must for a reward model to be of use far from where it started.
DEMONSTRATORS = {EXPERT: 0.10, HELPER: 0.80, NOVICE: 0.10}
CONTESTANTS = {EXPERT: 0.22, HELPER: 0.32, NOVICE: 0.13, PARROT: 0.22, TROLL: 0.11}


def write(request: SimulatedRequest, writers: dict[Writer, float], rng: random.Random) -> str:
    """Return a response to `request` by a writer drawn from `writers` by weight."""
    writer = rng.choices(list(writers), list(writers.values()))[0]
    if rng.random() < writer.off_topic:
        request = rng.choice(_all_requests())
    said = _content(request, writer, rng)
    if request.kind == "howto" and len(said) > 1 and rng.random() < 0.8:
        said = [f"{_order_word(i, len(said))} {sentence}" for i, sentence in enumerate(said)]
    return finish(_manner(said, writer, rng), writer, rng)


def finish(said: list[str], writer: Writer, rng: random.Random) -> str:
    """Join sentences into text; some writers break off in the middle of it."""
    text = " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in said)
    if rng.random() < writer.break_off:
        tokens = text.split()
        text = " ".join(tokens[: rng.randint(1, len(tokens))])
    return text


def _content(request: SimulatedRequest, writer: Writer, rng: random.Random) -> list[str]:
    # A wish that should be declined is granted as a whole, or declined as a whole.
    if request.kind == "decline" and rng.random() < 2 * writer.mistake:
        return list(request.mistakes)
    said = [point.sentence for point in request.points]
    if request.kind != "decline":
        said = [rng.choice(request.mistakes) if rng.random() < writer.mistake / len(said) ** 0.5 else sentence
                for sentence in said]
    if len(said) > 1:
        said = [sentence for sentence in said if rng.random() >= writer.omit] or said[:1]
    if len(said) > 1 and rng.random() < writer.disorder:
        i = rng.randrange(len(said) - 1)
        said[i], said[i + 1] = said[i + 1], said[i]
    if rng.random() < writer.repeat:
        i = rng.randrange(len(said))
        said[i:i] = [said[i]] * rng.choice((1, 1, 2))
    return said


def _manner(said: list[str], writer: Writer, rng: random.Random) -> list[str]:
    if rng.random() < writer.pad:
        for _ in range(rng.choice((1, 1, 2))):
            said.insert(rng.randint(0, len(said)), rng.choice(PADDING))
    mood = rng.random()
    if mood < writer.rude:
        return [rng.choice(RUDE), *said]
    if mood < writer.rude + writer.plain:
        return said
    closing = [rng.choice(CLOSERS)] if rng.random() < 0.5 else []
    return [rng.choice(POLITE), *said, *closing]


def _order_word(i: int, n: int) -> str:
    if i in (0, n - 1):
        return ORDER_WORDS[0 if i == 0 else -1]
    return ORDER_WORDS[1 + (i - 1) % 2]


@cache
def _all_requests() -> list[SimulatedRequest]:
    return list(requests().values())
