"""One record of each import format, in that format's own field names, with the rows that a person would expect."""

from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Rating
from testing.more_format_fixtures import MORE_EXAMPLES

ASK = (Message("user", "Why is the sky blue?"),)
LONGER = (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi."),
          Message("user", "Why?"))
TURNS = [{"role": "user", "content": "Why is the sky blue?"}]
GOOD, BAD = [{"role": "assistant", "content": "Scattering."}], [{"role": "assistant", "content": "Paint."}]
HUMAN = {"machine": False}


def pair(prompt=ASK, label="A", strength=None, source="file", **origin):
    return Comparison(prompt, ("Scattering.", "Paint."), label, Origin(source, **origin), strength)


def rating(score, **origin):
    return Rating(ASK, "Scattering.", score, Origin("file", **origin))


def demonstration(prompt=ASK, response="Scattering."):
    return Demonstration(prompt, response, Origin("file"))


def ranked(ranks, responses=("Scattering.", "Paint.", "Magic."), **origin):
    return Ranking(ASK, responses, ranks, Origin("file", **origin))


POST = (Message("user", "SUBREDDIT: r/askscience\n\nTITLE: The sky\n\nPOST: It was blue. Why?\n\nTL;DR:"),)
INFO = {"id": "t3_2vwp1w", "post": "It was blue. Why?", "title": "The sky", "subreddit": "askscience"}
HH = {"chosen": "\n\nHuman: Why is the sky blue?\n\nAssistant: Scattering.",
      "rejected": "\n\nHuman: Why is the sky blue?\n\nAssistant: Paint."}
SHP = {"post_id": "qt3nxl", "domain": "askscience_test", "upvote_ratio": 0.98, "history": "Why is the sky blue?",
       "c_root_id_A": "hkh25sc", "c_root_id_B": "hkh25lp", "created_at_utc_A": 1636822112,
       "created_at_utc_B": 1636822110, "score_A": 340, "score_B": 166, "human_ref_A": "Scattering.",
       "human_ref_B": "Paint.", "labels": 1, "seconds_difference": 2.0, "score_ratio": 2.048}
WEBGPT = {"question": {"dataset": "eli5", "id": "86a76cd", "full_text": "Why is the sky blue?"},
          "quotes_0": {"title": [], "extract": []}, "answer_0": "Scattering.",
          "tokens_0": {"prefix": [1], "completion": [2]}, "score_0": -0.5,
          "quotes_1": {"title": [], "extract": []}, "answer_1": "Paint.",
          "tokens_1": {"prefix": [1], "completion": [3]}, "score_1": 0.5}
EVAL = {"instruction": "Why is the sky blue?", "output_1": "Scattering.", "generator_1": "a", "output_2": "Paint.",
        "generator_2": "b", "annotator": "gpt4", "preference": 1.25}


def completion(text, overall, fine, model="gpt"):
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {"annotations": {aspect: {"Rating": "4", "Rationale": "fine"} for aspect in aspects}, "model": model,
            "custom_system_prompt": "", "critique": "", "principle": "honesty", "response": text,
            "overall_score": overall, "fine-grained_score": fine}


ULTRAFEEDBACK = {"source": "evol_instruct", "instruction": "Why is the sky blue?", "models": ["x", "y", "z"],
                 "completions": [completion("Scattering.", 8.5, 4.5), completion("Paint.", 2.0, 1.5),
                                 completion("Magic.", 2.0, 2.0)],
                 "correct_answers": ["None"], "incorrect_answers": ["None"]}
BINARIZED = {"prompt": "Why is the sky blue?", "prompt_id": "1f", "score_chosen": 8.0, "score_rejected": 2.0,
             "messages": [*TURNS, *GOOD], "chosen": [*TURNS, *GOOD], "rejected": [*TURNS, *BAD]}

ANSWERED = {"prompt": "Why is the sky blue?", "response-1": "Scattering.", "response-2": "Paint."}
ARGILLA = {"id": "1", "fields": ANSWERED, "metadata": {}, "suggestions": {}, "vectors": {}, "_server_id": "s",
           "responses": {"preference": [{"value": "response-1", "user_id": "ada"},
                                        {"value": "response-2", "user_id": "ben"}],
                         "why": [{"value": "It is right.", "user_id": "ada"}]}}
ARGILLA_FLAT = {"id": "1", "_server_id": "s", **ANSWERED, "preference.responses": [["response-1", "response-2"]],
                "preference.responses.users": ["ada"], "preference.responses.status": ["submitted"],
                "preference.suggestion": ["response-2", "response-1"], "preference.suggestion.agent": "gpt",
                "preference.suggestion.score": None}
ARGILLA_1 = {"prompt": "Why is the sky blue?", "response": "Scattering.", "external_id": None, "metadata": "{}",
             "quality": [{"user_id": "ada", "value": 4, "status": "submitted"},
                         {"user_id": "ben", "value": 2, "status": "submitted"}],
             "quality-suggestion": 3, "quality-suggestion-metadata": {"type": None, "score": None, "agent": None}}


def label_studio(data, *annotations):
    return {"id": 1, "data": data, "predictions": [], "meta": {}, "created_at": "2026-03-09T21:52:49.513742Z",
            "updated_at": "2026-03-09T22:16:08.746926Z", "project": 83, "annotations": list(annotations)}


def annotation(kind, value, by=7, to_name="answers", **more):
    return {"id": 1001, "completed_by": by, "was_cancelled": False, "ground_truth": False, "task": 1,
            "created_at": "2026-03-09T22:16:08.728353Z", "updated_at": "2026-03-09T22:16:08Z", "lead_time": 4.288,
            "result": [{"id": "Dx_aB91ISN", "from_name": "tag", "to_name": to_name, "type": kind, "value": value}],
            **more}


TWO_ANSWERS = {"prompt": "Why is the sky blue?", "answer1": "Scattering.", "answer2": "Paint."}
ITEMS = {"prompt": "Why is the sky blue?",
         "items": [{"id": "a", "title": "A", "body": "Scattering."}, {"id": "b", "title": "B", "body": "Paint."},
                   {"id": "c", "title": "C", "body": "Magic."}]}
WHEN = "2026-03-09T22:16:08Z"
LINES = {"prompt": "Why is the sky blue?", "response": "Scattering."}

EXAMPLES = {
    "trl, texts": ("trl", {"prompt": "Why is the sky blue?", "chosen": "Scattering.", "rejected": "Paint."}, [pair()]),
    "trl, messages": ("trl", {"prompt": TURNS, "chosen": GOOD, "rejected": BAD}, [pair()]),
    "trl, implicit": ("trl", {"chosen": [*TURNS, *GOOD], "rejected": [*TURNS, *BAD]}, [pair()]),
    "trl, as we export it": (
        "trl", {"prompt": TURNS, "chosen": BAD, "rejected": GOOD, "shown_first": "rejected", "strength": 2,
                "annotator": "ada", "source": "house", "time": "2026-01-02", "machine": True},
        [pair(label="B", strength=2.0, source="house", annotator="ada", time="2026-01-02", machine=True)]),
    "anthropic hh": ("hh", HH, [pair()]),
    "anthropic hh, several turns": (
        "hh", {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant: Scattering.",
               "rejected": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant: Paint."},
        [pair(LONGER[1:])]),
    "hh with its prompt apart": (
        "trl", {"prompt": "\n\nHuman: Why is the sky blue?\n\nAssistant:", "chosen": "Scattering.",
                "rejected": "Paint."}, [pair()]),
    "ultrafeedback binarized": ("ultrafeedback-binarized", BINARIZED,
                                [pair(strength=6.0, annotator="gpt-4", machine=True)]),
    "ultrafeedback binarized, tie": ("ultrafeedback-binarized", BINARIZED | {"score_rejected": 8.0},
                                     [pair(label="tie", strength=0.0, annotator="gpt-4", machine=True)]),
    "sharegpt pair": (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hello"},
                           {"from": "gpt", "value": "Hi."}, {"from": "human", "value": "Why?"}],
         "chosen": {"from": "gpt", "value": "Scattering."}, "rejected": {"from": "gpt", "value": "Paint."}},
        [pair(LONGER)]),
    "sharegpt pair, system apart": (
        "sharegpt",
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why is the sky blue?"}],
         "chosen": {"from": "gpt", "value": "Scattering."}, "rejected": {"from": "gpt", "value": "Paint."}},
        [pair((Message("system", "Be brief."), *ASK))]),
    "openai's pair": ("messages-pair", {"messages": TURNS, "chosen": GOOD[0], "rejected": BAD[0]}, [pair()]),
    "ms-swift's pair": ("messages-rejected", {"messages": [*TURNS, *GOOD], "rejected_response": "Paint."}, [pair()]),
    "alpaca eval": ("alpaca-eval", EVAL, [pair(strength=0.5, annotator="gpt4", machine=True)]),
    "alpaca eval, draw": ("alpaca-eval", EVAL | {"preference": 0}, [
        pair(label="tie", strength=0.0, annotator="gpt4", machine=True)]),
    "alpaca eval, tie": ("alpaca-eval", EVAL | {"preference": 1.5, "dataset": "koala"},
                         [pair(label="tie", strength=0.0, source="file/koala", annotator="gpt4", machine=True)]),
    "tl;dr": (
        "tldr", {"info": INFO, "summaries": [{"text": " Scattering.", "policy": "sup4", "note": None},
                                             {"text": " Paint.", "policy": "ref", "note": "Unclear."}],
                 "choice": 1, "worker": "ikNm", "batch": "batch9", "split": "train", "extra": {"confidence": 8}},
        [pair(POST, "B", 8.0, annotator="ikNm", **HUMAN)]),
    "tl;dr, news": (
        "tldr-axis", {"info": {"id": "16", "site": "dailymail", "title": "Sky", "article": "Blue again."},
                      "split": "test", "summary": {"text": "Scattering.", "policy": "ref", "note": "", "axes": {
                          "overall": 3, "accuracy": 5, "coverage": 4, "coherence": 2}},
                      "worker": "qo6W", "batch": "cnndm1"},
        [Rating((Message("user", "Blue again.\n\nTL;DR:"),), "Scattering.", 3.0, Origin("file", "qo6W", **HUMAN))]),
    "webgpt": ("webgpt", WEBGPT, [pair(label="B", strength=0.5, source="file/eli5", **HUMAN)]),
    "webgpt, tie": ("webgpt", WEBGPT | {"score_0": 0.0, "score_1": 0.0},
                    [pair(label="tie", strength=0.0, source="file/eli5", **HUMAN)]),
    "shp, 1 means A": ("shp", SHP, [pair(strength=2.048, source="file/askscience_test", **HUMAN)]),
    "shp, 0 means B": ("shp", SHP | {"labels": 0},
                       [pair(label="B", strength=2.048, source="file/askscience_test", **HUMAN)]),
    "ultrafeedback": ("ultrafeedback", ULTRAFEEDBACK,
                      [Ranking(ASK, ("Scattering.", "Paint.", "Magic."), (1, 2, 2),
                               Origin("evol_instruct", "gpt-4", machine=True))]),
    "ultrafeedback, one overall score missing": (
        "ultrafeedback", ULTRAFEEDBACK | {"completions": [completion("Scattering.", None, 4.5),
                                                          completion("Paint.", 2.0, 1.5),
                                                          completion("Magic.", 2.0, 2.0)]},
        [Ranking(ASK, ("Scattering.", "Paint.", "Magic."), (1, 3, 2), Origin("evol_instruct", "gpt-4", machine=True))]),
    "argilla, labels of two annotators and a comment": (
        "argilla", ARGILLA, [pair(annotator="ada", **HUMAN), pair(label="B", annotator="ben", **HUMAN)]),
    "argilla, ranking with a tie": (
        "argilla", ARGILLA | {"fields": ANSWERED | {"response-3": "Magic."}, "responses": {"order": [
            {"value": [{"value": "response-3", "rank": 2}, {"value": "response-1", "rank": 1},
                       {"value": "response-2", "rank": 2}], "user_id": "ada"}]}},
        [ranked((1, 2, 2), annotator="ada", **HUMAN)]),
    "argilla, demonstration": (
        "argilla", ARGILLA | {"fields": {"prompt": "Why is the sky blue?"}, "responses": {
            "answer": [{"value": "Scattering.", "user_id": "ada"}]}},
        [Demonstration(ASK, "Scattering.", Origin("file", "ada", **HUMAN))]),
    "argilla, flattened": ("argilla", ARGILLA_FLAT, [pair(annotator="ada", **HUMAN)]),
    "argilla 1, ratings of two annotators": (
        "argilla", ARGILLA_1, [rating(4.0, annotator="ada", **HUMAN), rating(2.0, annotator="ben", **HUMAN)]),
    "argilla 1, as its server gives it": (
        "argilla", {"fields": LINES, "responses": [
            {"user_id": "ada", "status": "submitted", "values": {"quality": {"value": 4}}}]},
        [rating(4.0, annotator="ada", **HUMAN)]),
    "label studio, pairwise by two annotators": (
        "label-studio", label_studio(TWO_ANSWERS, annotation("pairwise", {"selected": "left"}),
                                     annotation("pairwise", {"selected": "right"}, by={"id": 8, "email": "b@x.org"})),
        [pair(annotator="7", time=WHEN, **HUMAN), pair(label="B", annotator="b@x.org", time=WHEN, **HUMAN)]),
    "label studio, ranker": ("label-studio", label_studio(ITEMS, annotation("ranker", {"ranker": ["b", "a", "c"]})),
                             [ranked((2, 1, 3), annotator="7", time=WHEN, **HUMAN)]),
    "label studio, ranker with its list named": (
        "label-studio", label_studio(ITEMS, annotation("ranker", {"ranker": {"rank": ["c", "a"], "_": ["b"]}})),
        [ranked((2, 1), ("Scattering.", "Magic."), annotator="7", time=WHEN, **HUMAN)]),
    "label studio, rating": (
        "label-studio", label_studio(LINES, annotation("rating", {"rating": 4})),
        [rating(4.0, annotator="7", time=WHEN, **HUMAN)]),
    "label studio, rating of one of two": (
        "label-studio", label_studio(TWO_ANSWERS, annotation("rating", {"rating": 4}, to_name="answer1")),
        [rating(4.0, annotator="7", time=WHEN, **HUMAN)]),
    "label studio, choices": (
        "label-studio", label_studio(TWO_ANSWERS, annotation("choices", {"choices": ["Tie"]})),
        [pair(label="tie", annotator="7", time=WHEN, **HUMAN)]),
    "label studio, thumb": (
        "label-studio", label_studio(LINES, annotation("choices", {"choices": ["Thumbs down"]})),
        [rating(0.0, annotator="7", time=WHEN, **HUMAN)]),
    "ranking by ranks": (
        "ranking", {"prompt": "Why is the sky blue?", "responses": ["Scattering.", "Paint.", "Magic."],
                    "ranks": [2, 1, 3], "annotator": 5}, [ranked((2, 1, 3), annotator="5")]),
    "ranking by order": (
        "ranking", {"prompt": TURNS, "responses": ["Scattering.", "Paint.", "Magic."], "ranking": [1, 0, 2]},
        [ranked((2, 1, 3))]),
    "ranking by order, in texts": (
        "ranking", {"prompt": TURNS, "responses": ["Scattering.", "Paint.", "Magic."],
                    "rank": ["Magic.", "Scattering.", "Paint."]}, [ranked((2, 3, 1))]),
    "rating": ("rating", LINES | {"score": 3.5, "annotator": "ada", "time": 1767225600},
               [rating(3.5, annotator="ada", time="2026-01-01T00:00:00Z")]),
    "rating, spelt": ("rating", LINES | {"rating": "4", "time": "1767225600000"},
                      [rating(4.0, time="2026-01-01T00:00:00Z")]),
    "thumb": ("thumbs", LINES | {"thumb": "up"}, [rating(1.0)]),
    "trl, unpaired": ("thumbs", {"prompt": TURNS, "completion": GOOD, "label": False}, [rating(0.0)]),
    "messages": ("messages", {"messages": [*TURNS, *GOOD]}, [demonstration()]),
    "sharegpt conversation": (
        "messages", {"conversations": [{"from": "human", "value": "Why is the sky blue?"},
                                       {"from": "gpt", "value": "Scattering."}]}, [demonstration()]),
    "alpaca": ("alpaca", {"instruction": "Why is the sky blue?", "input": "", "output": "Scattering."},
               [demonstration()]),
    "alpaca with input": ("alpaca", {"instruction": "Translate.", "input": "Himmel", "output": "Sky."},
                          [demonstration((Message("user", "Translate.\n\nHimmel"),), "Sky.")]),
    "trl, prompt and completion": ("completion", {"prompt": "Why is the sky blue?", "completion": "Scattering."},
                                   [demonstration()]),
} | MORE_EXAMPLES
