"""Checks that replies and scores do not depend on what runs beside them.

    python same_bits.py ALBEDO MODEL [SETTING=VALUE ...]

Runs the same requests with other batch sizes, chunk sizes and orders of
arrival, and twice in one way, each in a process of its own; everything that
comes back must be equal. All have the SETTINGs, such as `kv_dtype=int8`.
"""

import json
import random
import subprocess
import sys


def run(albedo, model, requests, *settings):
    command = [albedo, "generate", model, "--input", "-", "--device", "cuda", "--set", "memory_share=0.9"]
    for setting in [*sys.argv[3:], *settings]:
        command += ["--set", setting]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    answers = {}
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(f"{settings}: {answer}")
        answers[answer["id"]] = (answer["tokens"], answer.get("scores"))
    if len(answers) != len(requests):
        sys.exit(f"{settings}: {len(answers)} of {len(requests)} answered: {done.stderr[-1500:]}")
    print(f"{' '.join(settings) or 'as it is'}: {done.stderr.strip().splitlines()[-1]}", flush=True)
    return answers


def main():
    albedo, model = sys.argv[1], sys.argv[2]
    words = "the file test run fix bug edit python error function value list index loop name parse".split()
    requests = []
    for case in range(40):
        # Every fourth prompt begins like the one before it.
        seed = case - 1 if case % 4 == 3 else case
        text = [words[(seed * 7 + at * at) % len(words)] for at in range(30 + 37 * seed)]
        requests.append({
            "id": case,
            "prompt": " ".join(text) + f" case {case}",
            "max_new_tokens": 24 + case % 5,
            "seed": case,
            "sampling": {"temperature": 0.8, "top_p": 0.95} if case % 2 else {"temperature": 0.0},
            **({"score_reply": "fix the test and run it again " * (1 + case % 9)} if case % 3 == 0 else {}),
        })
    expected = run(albedo, model, requests)
    ways = [(["max_batch=1"], requests[:6]), (["max_batch=2"], requests[:10]), (["max_batch=7"], requests)]
    ways += [(["max_batch=33", "prefill_rows=128"], requests), (["prefill_rows=1000"], requests)]
    ways += [(["max_batch=256"], list(reversed(requests)))]
    shuffled = requests[:]
    random.Random(1).shuffle(shuffled)
    ways += [(["prefill_rows=333"], shuffled), ([], requests)]
    differ = 0
    for settings, some in ways:
        found = run(albedo, model, some, *settings)
        differ += sum(found[request["id"]] != expected[request["id"]] for request in some)
    print(f"{' '.join([model, *sys.argv[3:]])}: {differ} of the answers differ")
    sys.exit(differ > 0)


main()
