"""The published data sets that have formats of their own: OpenAI's TL;DR and WebGPT, Stanford SHP,
UltraFeedback."""

from collections.abc import Sequence

from plumbline.preferences.reading.conversations import (
    Undecidable,
    Unusable,
    plain_text,
    shown,
    user_prompt,
)
from plumbline.preferences.reading.formats.asked import asked, with_the_rest
from plumbline.preferences.reading.formats.fields import (
    as_list,
    as_number,
    as_whole,
    different,
    optional_number,
    origin_of,
    ranks_by,
    two_texts,
)
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Prompt, Ranking, Rating, Row, label_of

TLDR_QUERY = (("subreddit", "SUBREDDIT: r/{}"), ("title", "TITLE: {}"), ("post", "POST: {}"))
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def tldr(record: Record, source: str) -> Row:
    """Return two summaries of one post and a worker's choice (Stiennon et al. 2020, arXiv 2009.01325)."""
    summaries = as_list(record.get("summaries"), "summaries")
    if len(summaries) != 2:
        raise Unusable("summaries", f"expected two summaries, found {len(summaries)}")
    names = ("summaries[0].text", "summaries[1].text")
    texts = different(_summary(record, summaries[0], names[0]), _summary(record, summaries[1], names[1]),
                      names)
    choice = as_whole(record.get("choice"))
    if choice not in (0, 1):
        found = f"expected 0 or 1, found {shown(record.get('choice'))}"
        if choice is None:
            raise Unusable("choice", found)
        raise Undecidable("choice", f"{found}, so that 1 may mean either summary in this file. Count them "
                                    "from 0")
    extra = record.within("extra") if isinstance(record.peek("extra"), dict) else None
    return Comparison(_post(record), texts, "B" if choice else "A",
                      origin_of(record, source, annotator=record.get("worker"), machine=False),
                      None if extra is None else optional_number(extra, "confidence"))


def tldr_axis(record: Record, source: str) -> Row:
    """Return one summary and a worker's overall score of it, from 1 to 7."""
    summary = record.within("summary")
    overall = summary.within("axes").get("overall")
    return Rating(_post(record), plain_text(summary.get("text"), "summary.text").strip(),
                  as_number(overall, "summary.axes.overall"),
                  origin_of(record, source, annotator=record.get("worker"), machine=False))


def webgpt(record: Record, source: str) -> Row:
    """Return two answers to one question; their scores add up to 0 (Nakano et al. 2021, arXiv 2112.09332)."""
    question = record.within("question") if isinstance(record.peek("question"), dict) else None
    text = plain_text(question.get("full_text"), "question.full_text") if question else record.get("question")
    scores = [as_number(record.get(field), field) for field in ("score_0", "score_1")]
    part = question.get("dataset") if question else None
    return Comparison(with_the_rest(record, user_prompt(plain_text(text, "question"))),
                      two_texts(record, ("answer_0", "answer_1")), label_of(*scores),
                      origin_of(record, source, machine=False, part=part), strength=abs(scores[0]))


def shp(record: Record, source: str) -> Row:
    """Return two comments on one post; `labels` is 1 if A is preferred and 0 if B is (Ethayarajh et al.
    2022).
    """
    preferred = as_whole(record.get("labels"))
    if preferred not in (0, 1):
        raise Unusable("labels", f"expected 1 for A or 0 for B, found {shown(record.get('labels'))}")
    return Comparison(with_the_rest(record, user_prompt(plain_text(record.get("history"), "history"))),
                      two_texts(record, ("human_ref_A", "human_ref_B")), "A" if preferred else "B",
                      origin_of(record, source, machine=False, part=record.get("domain")),
                      optional_number(record, "score_ratio"))


def ultrafeedback(record: Record, source: str) -> Row:
    """Return completions ranked by GPT-4's scores (Cui et al. 2023, arXiv 2310.01377); equal scores are ties.
    """
    prompt = asked(record)
    completions = [record.inner("completions", completion) if isinstance(completion, dict) else completion
                   for completion in as_list(record.get("completions"), "completions")]
    scores: dict[str, float] = {}
    for i, (completion, score) in enumerate(zip(completions, _scores(completions), strict=True)):
        text = completion.get("response") if isinstance(completion, Record) else completion
        scores.setdefault(plain_text(text, f"completions[{i}].response"),
                          score)  # two models may answer with one text
    if len(scores) < 2:
        raise Unusable("completions", f"expected two or more different responses, found {len(scores)}")
    return Ranking(prompt, tuple(scores), ranks_by(list(scores.values())),
                   origin_of(record, source, annotator="gpt-4", machine=True))


def _scores(completions: Sequence[object]) -> Sequence[float]:
    """Return the scores by the first measure that all have: overall, fine-grained, or mean of the aspects."""
    fields = [completion if isinstance(completion, Record) else Record({}) for completion in completions]
    for name in ("overall_score", "fine-grained_score"):
        if all(name in field for field in fields):
            return [as_number(field[name], f"completions[{i}].{name}") for i, field in enumerate(fields)]
    return [_mean_aspect(field.get("annotations"), f"completions[{i}].annotations")
            for i, field in enumerate(fields)]


def _mean_aspect(annotations: object, field: str) -> float:
    if not isinstance(annotations, dict):
        raise Unusable(field, "expected overall_score or fine-grained_score in all completions, or these "
                              "annotations")
    given = [annotations[aspect] for aspect in ASPECTS if isinstance(annotations.get(aspect), dict)]
    ratings = [as_number(aspect.get("Rating"),
                         f"{field}.Rating") for aspect in given if aspect.get("Rating") != "N/A"]
    if not ratings:
        raise Unusable(field, f"expected a Rating in one of {', '.join(ASPECTS)}")
    return sum(ratings) / len(ratings)


def _summary(record: Record, summary: object, field: str) -> str:
    text = record.inner("summaries", summary).get("text") if isinstance(summary, dict) else summary
    return plain_text(text, field).strip()  # the models' summaries start with a space of their tokeniser


def _post(record: Record) -> Prompt:
    """Return the query in the form that the authors' models saw."""
    info = record.within("info")
    if "article" in info:
        article = plain_text(info.get("article"), "info.article")
        return with_the_rest(record, user_prompt(f"{article}\n\nTL;DR:"))
    plain_text(info.get("post"), "info.post")
    lines = [line.format(plain_text(info[name], f"info.{name}"))
             for name, line in TLDR_QUERY if info.get(name)]
    return with_the_rest(record, user_prompt("\n\n".join([*lines, "TL;DR:"])))
