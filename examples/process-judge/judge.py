#!/usr/bin/env python3
"""A judge for albedo: prefers the reply whose words the conversation has shown.

albedo judge conform python3 examples/process-judge/judge.py
"""

import json
import re
import sys


def words(text):
    return set(re.findall(r"[a-z_]{3,}", text.lower()))


def grounding(reply, seen):
    """The share of the reply's words that were seen before, from 0 to 1."""
    said = words(reply["text"])
    return len(said & seen) / len(said) if said else 0.0


def answer(question):
    seen = words(" ".join(message["content"] for message in question["messages"]))
    if not seen:
        return {"type": "abstain", "reason": "the conversation has no words"}
    first, second = (grounding(question[place], seen) for place in ("first", "second"))
    # 1: the first is better, 0: the second is. It mirrors when the replies change places.
    return {"type": "scores", "scores": {"grounding": 0.5 + (first - second) / 2}}


hello = {"type": "hello", "protocol": 1, "role": "judge", "name": "grounded", "version": "1", "metrics": ["grounding"]}
print(json.dumps(hello), flush=True)
for line in sys.stdin.buffer:
    question = json.loads(line)
    print(json.dumps({**answer(question), "id": question["id"]}), flush=True)
