"""lm-evaluation-harness before a server of albedo: 20 items by log-probabilities.

Each item has two replies to choose from, after a prompt in the model's chat template. The
harness asks for the log-probabilities of `/v1/completions` with `echo`. By how much it finds
one reply likelier than the other has to be what `albedo generate` says with `score_reply`.

Arguments: the routes' URL, the program, a folder for what is written.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import lm_eval
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

KING = "examples/demo/models/king"
TASK = """
task: twenty
dataset_path: json
dataset_kwargs: {{ data_files: {{ test: {items} }} }}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
doc_to_target: label
metric_list: [{{ metric: acc, aggregation: mean, higher_is_better: true }}]
"""

url, albedo, work = sys.argv[1:]
folder = pathlib.Path(work) / "lm-eval"
folder.mkdir()
tokenizer = AutoTokenizer.from_pretrained(KING)
items, requests = [], []
for number in range(20):
    messages = [{"role": "user", "content": f"project{number}: test_{number} fails after {'a change ' * (number % 5)}"}]
    choices = [f"THOUGHT: I look at file {number}.", f"Sure! What is {number} about?"]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    items.append({"text": text, "choices": choices, "label": 0})
    requests += [{"messages": messages, "score_reply": choice, "max_new_tokens": 1} for choice in choices]
(folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
(folder / "twenty.yaml").write_text(TASK.format(items=folder / "items.jsonl"))

results = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={
        "model": "king", "base_url": f"{url}/completions", "tokenizer_backend": "huggingface", "tokenizer": KING,
        "tokenized_requests": True, "num_concurrent": 4, "max_retries": 1, "max_length": 4096, "batch_size": 2,
    },
    tasks=["twenty"],
    task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    log_samples=True,
    bootstrap_iters=0,
)
samples = sorted(results["samples"]["twenty"], key=lambda sample: sample["doc_id"])
assert len(samples) == 20, len(samples)

scored = subprocess.run(
    [albedo, "generate", KING, "--input", "-"],
    input="".join(json.dumps(request) + "\n" for request in requests), capture_output=True, text=True, check=True,
)
# The last is the token that ends a turn, which the harness does not ask for.
sums = [sum(json.loads(line)["scores"]["log_probs"][:-1]) for line in scored.stdout.splitlines()]
worst = 0.0
for sample, own in zip(samples, zip(sums[::2], sums[1::2])):
    theirs = [float(response[0]) if not isinstance(response[0], (list, tuple)) else float(response[0][0]) for response in sample["filtered_resps"]]
    # Both have the line break before the reply, which the harness counts and a score does not.
    worst = max(worst, abs((theirs[0] - theirs[1]) - (own[0] - own[1])))
    assert (theirs[0] > theirs[1]) == (sample["acc"] == 1.0), sample
assert worst < 0.01, f"log-probabilities differ by up to {worst}"
accuracy = results["results"]["twenty"]["acc,none"]
version = importlib.metadata.version("lm-eval")
print(f"lm-evaluation-harness {version}: 20 items, accuracy {accuracy}, log-probabilities as scored, within {worst:.1e}")
