"""One record of each further import format, in the data set's own field names, with the rows that a person expects."""

import json

from plumbline.preferences.types import Comparison, Message, Origin, Ranking

ASK = (Message("user", "Which day is market day?"),)
TALK = (*ASK, Message("assistant", "Saturday."), Message("user", "Until when?"))
QUESTION, GOOD, BAD = "Which day is market day?", "Saturday.", "I cannot know that, sorry."
ASKED = {"role": "user", "content": QUESTION}


def said(text):
    return {"role": "assistant", "content": text}


def compared(label, texts=(GOOD, BAD), prompt=ASK, strength=None, **origin):
    return Comparison(prompt, texts, label, Origin("file", **origin), strength)


ARENA = {"question_id": "58210e39b3fd4441a2bd4a518bb44c2d", "model_a": "chatglm-6b", "model_b": "koala-13b",
         "winner": "model_b", "judge": "arena_user_973", "conversation_a": [ASKED, said(BAD)],
         "conversation_b": [ASKED, said(GOOD)], "turn": 1, "anony": True, "language": "English",
         "tstamp": 1682351591.1322, "openai_moderation": {"categories": {"hate": False}, "flagged": False},
         "toxic_chat_tag": {"roberta-large": {"flagged": False, "probability": 0.01}}}
JUDGED = {"annotator": "arena_user_973", "time": "2023-04-24T15:53:11.132200Z", "machine": False}
MT_BENCH = {"question_id": 81, "model_a": "alpaca-13b", "model_b": "gpt-4", "winner": "model_a", "judge": "expert_17",
            "conversation_a": [ASKED, said(GOOD), {"role": "user", "content": "Until when?"}, said("Noon.")],
            "conversation_b": [ASKED, said(BAD), {"role": "user", "content": "Until when?"}, said("No idea.")],
            "turn": 1}
ARENA_140K = {"id": "c4c5", "model_a": "m", "model_b": "n", "winner": "both_bad", "evaluation_session_id": "s",
              "evaluation_order": 1, "language": "en", "is_code": False, "full_conversation": [{"user": ASKED}],
              "conv_metadata": {"sum_user_tokens": 3}, "category_tag": {"math_v0.1": {"math": False}},
              "conversation_a": [{"role": "user", "content": [{"type": "text", "text": QUESTION, "image": None}]},
                                 {"role": "assistant", "content": [{"type": "text", "text": GOOD, "image": None}]}],
              "conversation_b": json.dumps([ASKED, said(BAD)])}
LMSYS = {"id": 30192, "model_a": "gpt-4-1106-preview", "model_b": "gpt-4-0613",
         "prompt": json.dumps([QUESTION, "Until when?"]), "response_a": json.dumps(["Saturday.", "Noon."]),
         "response_b": json.dumps(["Saturday.", "No idea."]), "winner_model_a": 1, "winner_model_b": 0,
         "winner_tie": 0}
HELPSTEER = {"split": "train", "prompt": QUESTION, "response_1": BAD, "response_2": GOOD, "preference_strength": 2,
             "preference_statement": "Response 2 answers.", "preference_elaboration": "It says the day.",
             "three_most_similar_preferences": [{"statement": "x", "strength": 2}],
             "all_preferences_unprocessed": [{"strength": 2}, {"strength": -1}]}
HELPSTEER_3 = {"domain": "general", "language": "english", "context": [ASKED, said("Saturday."), {
                   "role": "user", "content": "Until when?"}], "response1": "Noon.", "response2": "No idea.",
               "overall_preference": -3, "individual_preference": [{"score": -3, "reasoning": "r", "feedback1": "f",
                                                                    "feedback2": "g"}]}
PKU = {"prompt": QUESTION, "response_0": BAD, "response_1": GOOD, "prompt_source": "alpaca-7b",
       "response_0_source": "alpaca-7b", "response_1_source": "beaver", "is_response_0_safe": True,
       "is_response_1_safe": True, "response_0_severity_level": 0, "response_1_severity_level": 0,
       "response_0_harm_category": {"Violence": False}, "better_response_id": 1, "safer_response_id": 1,
       "response_0_sha256": "ab", "response_1_sha256": "cd"}
OPENAI = {"input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
          "preferred_output": [said(GOOD)], "non_preferred_output": [said(BAD)]}
NECTAR = {"prompt": f"\n\nHuman: {QUESTION}\n\nAssistant: ", "turns": 1, "num_responses": 3, "good_natured": True,
          "source": ["lmsys-chat-1m"], "answers": [{"answer": BAD, "model": "llama", "rank": 3.0},
                                                   {"answer": GOOD, "model": "gpt-4", "rank": 1.0},
                                                   {"answer": "Maybe.", "model": "vicuna", "rank": 2.0}]}


def reply(text, rank=None, *replies, role="assistant", **more):
    return {"message_id": text, "parent_id": "p", "user_id": "u", "text": text, "role": role, "lang": "en",
            "review_count": 3, "review_result": True, "deleted": False, "rank": rank, "synthetic": False,
            "model_name": None, "detoxify": {"toxicity": 0.0}, "emojis": {"name": ["+1"], "count": [2]},
            "labels": {"quality": {"value": 0.7, "count": 3}}, "replies": list(replies), **more}


TREE = {"message_tree_id": "t1", "tree_state": "ready_for_export", "prompt": reply(
    QUESTION, None,
    reply(BAD, 1),
    reply(GOOD, 0,
          reply("Until when?", 0, reply("Noon.", 2), reply("No idea.", 5), reply("Late.", 3, deleted=True),
                reply("Unranked."), role="prompter"),
          reply("Thanks.", 1, role="prompter")),
    reply("Spam.", 2, review_result=False), role="prompter")}

MORE_EXAMPLES = {
    "arena": ("arena", ARENA, [compared("B", (BAD, GOOD), **JUDGED)]),
    "mt-bench, the first turn": ("arena", MT_BENCH, [compared("A", annotator="expert_17", machine=False)]),
    "arena of 2025, both bad": ("arena", ARENA_140K, [compared("tie", machine=False)]),
    "lmsys, two turns": ("lmsys", LMSYS, [compared("A", ("Noon.", "No idea."), TALK, machine=False)]),
    "helpsteer 2": ("helpsteer", HELPSTEER, [compared("B", (BAD, GOOD), strength=2.0, machine=False)]),
    "helpsteer 3": ("helpsteer", HELPSTEER_3, [compared("A", ("Noon.", "No idea."), TALK, 3.0, machine=False)]),
    "pku": ("safe-rlhf", PKU, [Comparison(ASK, (BAD, GOOD), "B", Origin("file/alpaca-7b", machine=False))]),
    "openai": ("openai", OPENAI, [compared("A")]),
    "nectar": ("ranked-list", NECTAR, [Ranking(ASK, (BAD, GOOD, "Maybe."), (3, 1, 2),
                                               Origin("lmsys-chat-1m", "gpt-4", machine=True))]),
    "oasst": ("oasst", TREE, [
        Ranking(ASK, (BAD, GOOD), (2, 1), Origin("file", machine=False)),
        Ranking(TALK, ("Noon.", "No idea."), (1, 2), Origin("file", machine=False))]),
    "two responses": ("two-responses", {"question": QUESTION, "answer_a": GOOD, "answer_b": BAD, "winner": "A",
                                        "annotator": "ada", "strength": 0.5},
                      [compared("A", strength=0.5, annotator="ada")]),
    "ranking in columns": ("ranking-in-columns", {
        "prompt": QUESTION, "response_1": BAD, "rank_1": 2, "response_2": GOOD, "rank_2": 1, "response_3": "Maybe.",
        "rank_3": "3", "response_4": None, "rank_4": None},
        [Ranking(ASK, (BAD, GOOD, "Maybe."), (2, 1, 3), Origin("file"))]),
}
