"""Which of an annotation tool's questions judges: the one whose answers become rows; the others are left
alone.

A question is known by its name and by what is answered to it. What could be meant in two ways is not guessed:
then the record is set aside, and names the questions of which `--question` chooses one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline.preferences.reading.conversations import Unusable, shown
from plumbline.preferences.reading.formats.annotation_tools.tasks import words
from plumbline.preferences.reading.formats.fields import as_thumb

Kind = Literal["compares", "rates", "thumb", "unclear", "demonstrates", "other"]
"""`thumb` is a yes or no that says whether a response is good. An answer of yes, no, A or 2 that may say
anything is `unclear`."""

CORRECTIONS = ("response", "completion", "answer", "demonstration", "correction", "corrected", "chosen")
TELLING = frozenset({"+1", "up", "thumbs up", "thumbsup", "thumb up", "like", "good", "👍", "down",
                     "thumbs down", "thumbsdown", "thumb down", "dislike", "bad", "👎"})
"""Answers that say of themselves that the response is good, or bad."""
GOOD = frozenset("accept acceptable accepted approval approve approved best better chosen correct feedback "
                 "good great helpful like liked likes ok okay prefer preference preferred quality rated "
                 "rating recommend recommended satisfactory satisfied satisfying score thumb thumbs upvote "
                 "upvoted useful verdict vote".split())
COMPARING = frozenset("answer answers best better choice choose chosen compare comparison completion "
                      "judgement judgment output pick picked prefer preference preferred rank ranking "
                      "response responses select selected selection side verdict vote which win "
                      "winner".split())
"""Words in the name of a question that asks which response is better: there `A` or `2` names one."""
GLUE = frozenset("a an and answer are completion did do does down generation i is it of or output overall "
                 "reply response text that the this up was would you".split())
"""Words that may stand beside those in the name of a question that asks whether a response is good."""
ELSE = frozenset(
    # More, or yes, is worse.
    "bad badness bias biased error errors false hallucinated hallucinates hallucination hallucinations harm "
    "harmful harmfulness harms inappropriate incorrect irrelevant issue issues least less lower mistake "
    "mistakes negative nonsense not offensive problem problems refusal refuses reject rejected risk severity "
    "spam toxic toxicity unhelpful unsafe untrue violates violation violations weaker worse worst wrong "
    # Something else than how good it is.
    "age certain certainty complexity confidence confident contains count data difficult difficulty duration "
    "has includes language length mentions minutes personal pii seconds sure time tokens words".split())
"""Words that name something else than which response is better: such a question never judges unless it is
chosen."""
LOWER_IS_BETTER = frozenset("order place position rank ranking ranks".split())
"""Words that name a number of which less is better."""


@dataclass(frozen=True)
class Question:
    """One question, or control, with what the answers to it say."""

    name: str
    kind: Kind
    about: str | None
    """The response that it judges, where it judges one."""

    @property
    def trait(self) -> tuple[str, ...]:
        """Return the words of the name without the response's: `rating` in `generations-0-rating`."""
        return trait(self.name, self.about)

    @property
    def could_judge(self) -> bool:
        """True if no word of the name asks for something else than quality."""
        less_is_better = self.kind == "rates" and not LOWER_IS_BETTER.isdisjoint(self.trait)
        return ELSE.isdisjoint(self.trait) and not less_is_better


def trait(question: str, about: str | None) -> tuple[str, ...]:
    """Return the words of a question's name without those of the response that it names."""
    asked, named = words(question), words(about) if about else ()
    for i in range(len(asked) - len(named) + 1) if named else ():
        if asked[i:i + len(named)] == named:
            return asked[:i] + asked[i + len(named):]
    return asked


def kind_of_yes_or_no(asked: tuple[str, ...], answer: object) -> Kind | None:
    """Return the kind of a question answered with yes, no, up or down; None for other answers.

    `asked` is the question's trait.
    """
    try:
        as_thumb(answer, "")
    except Unusable:
        return None
    spelt = str(answer).strip().lower()
    telling = spelt == "-1" or spelt.replace("_", " ").replace("-", " ") in TELLING
    is_good = not GOOD.isdisjoint(asked) and set(asked) <= GOOD | GLUE
    return "thumb" if (telling or is_good) and ELSE.isdisjoint(asked) else "unclear"


def kind_of_side(asked: tuple[str, ...], answer: str) -> Kind:
    """Return the kind of a question whose answer may name a side; `asked` is its trait."""
    return "unclear" if len(answer.strip()) == 1 and COMPARING.isdisjoint(asked) else "compares"


def judging(questions: Sequence[Question], chosen: str | None, field: str) -> list[Question]:
    """Return the questions that judge; none if no question does.

    Questions that compare go before questions about one response. A yes or no, or a bare `A` or `2`, counts
    only if the question's name or the answer itself says that it is a verdict. A response may be judged by
    one question. A text is a demonstration only if nothing else can be judged. Raises Unusable if the choice
    is not clear.
    """
    if chosen is not None:
        found = [question for question in questions if question.name == chosen
                 or (question.about is not None and question.trait == words(chosen))]
        if found:
            return found
        raise Unusable(field, f"there is no answer to the question {shown(chosen)}; answered are "
                              f"{_listed(questions)}")
    could = [question for question in questions if question.could_judge]
    alone = [question for question in could if question.kind in ("rates", "thumb")]
    for found in ([question for question in could if question.kind == "compares"],
                  [question for question in alone if question.about is not None]):
        if found:
            return _unambiguous(found, field)
    if alone:
        raise Unusable(field, f"which response {_listed(alone)} judges is not known: expected one response, "
                              "or its name in the question's; --question NAME takes it for the only one")
    unclear = [question for question in questions if question.kind == "unclear"
               or (question.kind in ("compares", "rates", "thumb") and not question.could_judge)]
    if unclear:
        raise Unusable(field, f"whether {_listed(unclear)} says how good a response is is not certain; if it "
                              "does, say so with --question NAME")
    return _unambiguous([question for question in could if question.kind == "demonstrates"], field)


def _unambiguous(found: list[Question], field: str) -> list[Question]:
    """Return the questions. Raises Unusable if two of them judge the same response."""
    judged = [question.about for question in found]
    rivals = [question for question in found if judged.count(question.about) > 1]
    if rivals:
        raise Unusable(field, f"each of {_listed(rivals)} could be the judgement; say which is with "
                              "--question NAME")
    return found


def _listed(questions: Iterable[Question]) -> str:
    return ", ".join(sorted({question.name[:60] for question in questions}))[:300] or "none"
