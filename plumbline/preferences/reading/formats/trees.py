"""OpenAssistant's trees: a conversation that forks, with the people's ranks of the answers at each fork.

One record gives a ranking for each of the user's turns that has two or more ranked answers. What is deleted,
was judged unfit in review, or has no rank is left out, with everything that follows it. 0 is the best rank
(Köpf et al. 2023, arXiv 2304.07327).
"""

from collections.abc import Iterator, Sequence

from plumbline.preferences.reading.conversations import ROLES, Unusable, as_prompt, as_text, shown
from plumbline.preferences.reading.formats.asked import with_the_rest
from plumbline.preferences.reading.formats.fields import Judgement, Judgements, as_number, origin_of
from plumbline.preferences.reading.formats.rankings import in_order
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Message, Ranking, Row

FINISHED = "ready_for_export"
DEEPEST = 200


def oasst(record: Record, source: str) -> Judgements:
    """Return the rankings of a tree, from its root down."""
    state = record.get("tree_state")
    if state not in (None, FINISHED):
        raise Unusable("tree_state", f"expected {FINISHED}, found {shown(state)}")
    record.apart("prompt")
    root = record.within("prompt")
    if not _stands(root):
        raise Unusable("prompt", "it was deleted, or found unfit in review")
    judgements = [judged for path, answers in _forks(record, root)
                  for judged in _ranked(record, path, answers, source)]
    if not judgements:
        raise Unusable("prompt.replies", "no turn of the tree has two or more answers with a rank")
    return judgements


def _forks(record: Record, root: Record) -> Iterator[tuple[list[Message], list[Record]]]:
    """Yield the conversation up to each user turn, and the ranked answers to it."""
    # What stands beside the tree is part of all its prompts.
    begun = list(with_the_rest(record, [_message(root)]))
    waiting: list[tuple[list[Message], Record]] = [(begun, root)]
    while waiting:
        path, message = waiting.pop()
        replies = _replies(record, message)
        if path[-1].role == "user":
            ranked = [reply for reply in replies if reply.holds("rank")]
            if len(ranked) > 1:
                yield path, ranked
        if len(path) < DEEPEST:
            waiting += [([*path, _message(reply)], reply) for reply in reversed(replies)]


def _replies(record: Record, message: Record) -> list[Record]:
    replies = message.apart("replies")
    if replies is None:
        return []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise Unusable("replies", f"expected a list of messages, found {shown(replies)}")
    inner = [record.inner("replies", reply) for reply in replies if isinstance(reply, dict)]
    return [reply for reply in inner if _stands(reply)]


def _stands(message: Record) -> bool:
    return message.get("deleted") in (None, False) and message.get("review_result") in (None, True)


def _message(message: Record) -> Message:
    role = message.get("role")
    known = ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise Unusable("role", f"expected prompter or assistant, found {shown(role)}")
    return Message(known, as_text(message.get("text"), "text"))


def _ranked(record: Record, path: Sequence[Message], answers: Sequence[Record],
            source: str) -> Iterator[Judgement]:
    try:
        yield _ranking(record, path, answers, source)
    except Unusable as problem:
        yield problem


def _ranking(record: Record, path: Sequence[Message], answers: Sequence[Record], source: str) -> Row:
    spoken = [_message(answer) for answer in answers]
    if any(answer.role != "assistant" for answer in spoken):
        raise Unusable("replies.role", "expected the assistant's answers to a turn of the user")
    texts = tuple(answer.content for answer in spoken)
    if len(set(texts)) < len(texts):
        raise Unusable("replies.text", "two of the responses are the same text")
    ranks = in_order([as_number(answer.get("rank"), "replies.rank") for answer in answers], "replies.rank")
    return Ranking(as_prompt(path, "prompt"), texts, ranks, origin_of(record, source, machine=False))
