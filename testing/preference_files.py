"""Small preference files for the tests."""

import json


def pairs(count, start=0):
    return [{"prompt": f"Question {i}", "chosen": f"Good answer {i}", "rejected": "Bad"}
            for i in range(start, start + count)]


def demonstrations(count):
    return [{"instruction": f"Question {i}", "output": f"Good answer {i}"} for i in range(count)]


def write_jsonl(file, records):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file
