#!/usr/bin/env python3
"""A screen for albedo: flags a model whose replies repeat their own lines.

albedo judge conform --screen python3 examples/process-judge/screen.py
"""

import json
import sys

QUESTIONS = [
    "test_join of test_pointer.py fails. Repair `join` in pointer.py.",
    "The program prints nothing. Find out why.",
    "Which files are there?",
]


def repeats(text):
    """The share of a reply's lines that were there before, from 0 to 1."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def answer(question):
    if question["type"] == "probe":
        prompts = [[{"role": "user", "content": text}] for text in QUESTIONS]
        return {"type": "ask", "conversations": [{"messages": prompt, "max_new_tokens": 256} for prompt in prompts]}
    shares = [round(repeats(reply["text"]), 3) for reply in question["replies"]]
    finding = "flagged" if max(shares) > 0.5 else "clear"
    return {"type": "finding", "finding": finding, "evidence": {"repeats": shares}}


hello = {"type": "hello", "protocol": 1, "role": "screen", "name": "repeats", "version": "1", "stage": "behaviour"}
print(json.dumps(hello), flush=True)
for line in sys.stdin.buffer:
    question = json.loads(line)
    print(json.dumps({**answer(question), "id": question["id"]}), flush=True)
