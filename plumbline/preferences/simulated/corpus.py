"""Plain text about the simulated world, to pretrain a language model on.

Prose, never a request with its answer: the base model learns the facts and the words, and nothing about being
helpful.
"""

import random
from collections.abc import Iterator

from plumbline.preferences.simulated import responses
from plumbline.preferences.simulated.world import (
    ACTIVITIES,
    ANIMALS,
    CAUSES,
    COMFORT_WORDINGS,
    FACT_WORDINGS,
    FACTS,
    FEELINGS,
    HARM_WORDINGS,
    HARMS,
    HOWTO_WORDINGS,
    TARGETS,
    facts,
)


def documents(seed: int) -> Iterator[str]:
    """Yield short documents without end: the same for the same seed."""
    rng = random.Random(f"corpus-{seed}")
    writers = (_procedure, _fact, _fact, _size, _advice, _warning, _chatter)
    while True:
        yield " ".join(rng.choice(writers)(rng) for _ in range(rng.randint(2, 4)))


def _procedure(rng: random.Random) -> str:
    verb, (objects, steps) = rng.choice(list(ACTIVITIES.items()))
    x = rng.choice(objects.split())
    told = [f"{word} {step.format(x=x)}." for word, step in zip(responses.ORDER_WORDS, steps, strict=True)]
    return f"To {verb} {x} takes four steps. " + " ".join(told)


def _fact(rng: random.Random) -> str:
    x = rng.choice(ANIMALS)
    known = rng.sample(list(FACTS), 2)
    told = [_sentence(FACTS[attribute][2].format(x=x, value=facts()[attribute, x])) for attribute in known]
    return f"About the {x}. " + " ".join(told)


def _size(rng: random.Random) -> str:
    pair = rng.sample(range(len(ANIMALS)), 2)
    a, b = (ANIMALS[i] for i in pair)
    return f"Take the {a} and the {b}. The {ANIMALS[max(pair)]} is bigger than the {ANIMALS[min(pair)]}."


def _advice(rng: random.Random) -> str:
    cause, advice = rng.choice(list(CAUSES.items()))
    feeling = rng.choice(FEELINGS)
    return f"Some are {feeling} about {cause}. It is normal to feel {feeling}. " + _sentence(advice)


def _warning(rng: random.Random) -> str:
    harm, instead = rng.choice(list(HARMS.items()))
    target = rng.choice(TARGETS)
    return f"To {harm} {target} is wrong. It is better to {instead} {target}."


def _chatter(rng: random.Random) -> str:
    """Return two phrases out of context, wordings of requests without answers among them."""
    verb, (objects, _) = rng.choice(list(ACTIVITIES.items()))
    said = (
        rng.choice(responses.POLITE), rng.choice(responses.RUDE), rng.choice(responses.CLOSERS),
        rng.choice(responses.PADDING),
        rng.choice(HOWTO_WORDINGS).format(verb=verb, x=rng.choice(objects.split())),
        rng.choice(FACT_WORDINGS).format(
            question=rng.choice(list(FACTS.values()))[1].format(x=rng.choice(ANIMALS))),
        rng.choice(COMFORT_WORDINGS).format(feeling=rng.choice(FEELINGS), cause=rng.choice(list(CAUSES))),
        rng.choice(HARM_WORDINGS).format(harm=rng.choice(list(HARMS)), target=rng.choice(TARGETS)),
        "Which is bigger, the {} or the {}?".format(*rng.sample(ANIMALS, 2)),
    )
    return " ".join(_sentence(part) for part in rng.sample(said, 2))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(("?", ".")) else ".")
