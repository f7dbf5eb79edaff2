"""Albedo beside Hugging Face transformers on the CPU. See `run`."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# Set before torch is imported: its pools read them once.
options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--model", default="examples/demo/models/king")
options.add_argument("--albedo", default="target/release/albedo")
options.add_argument("--threads", type=int, default=os.cpu_count())
options.add_argument("--batches", default="1,8,32", help="batch sizes")
options.add_argument("--tokens", type=int, default=512, help="prompt tokens, and context of decode")
options.add_argument("--steps", type=int, default=192, help="measured decode steps")
options.add_argument("--blocks", type=int, default=5, help="turns that each program gets")
options.add_argument("--rounds", type=int, default=3, help="rounds of a turn, after one that warms up")
options = options.parse_args()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = str(options.threads)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(options.threads)
tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
# Replies have the length that is asked for, as albedo's have.
model.generation_config.eos_token_id = None
SHORT = 16  # tokens of the short reply, as `albedo bench` has it


def albedo(kind, case, seed, prompts):
    """Seconds of each round, measured by `albedo bench`."""
    command = [options.albedo, "bench", options.model, f"--{kind}", case, "--steps", str(options.steps)]
    command += ["--rounds", str(options.rounds), "--seed", str(seed), "--prompts", prompts, "--json"]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(result.stdout)["cases"][0]["seconds"]["rounds"]


def read_prompts(path):
    """Token ids of each round's prompts, `[batch, tokens]`."""
    rounds = {}
    for line in pathlib.Path(path).read_text().splitlines():
        line = json.loads(line)
        ids = tokenizer.apply_chat_template(
            line["messages"], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        rounds.setdefault(line["round"], []).append(ids)
    return [torch.tensor(rounds[number]) for number in sorted(rounds)]


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def prefill(ids):
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)


def generate(ids, tokens):
    model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
    )


def decode_loop(ids):
    """A step, in a loop that does nothing else: less than `generate` does."""
    cache, token = prefill(ids)
    for _ in range(SHORT - 1):
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
    start = time.perf_counter()
    for _ in range(options.steps):
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
    return (time.perf_counter() - start) / options.steps


def decode_generate(ids):
    """A step of `generate`, by the difference of two lengths, as albedo's."""
    short = timed(lambda: generate(ids, SHORT))
    return (timed(lambda: generate(ids, SHORT + options.steps)) - short) / options.steps


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def cell(values):
    return f"{1e3 * statistics.median(values):.2f} ({1e3 * min(values):.2f} – {1e3 * max(values):.2f})"


seconds = {}
batches = [int(batch) for batch in options.batches.split(",")]
cases = [(kind, batch) for kind in ("prefill", "decode") for batch in batches]
with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    prompts = os.path.join(folder, "prompts.jsonl")
    for block in range(options.blocks):
        for kind, batch in cases:
            row = seconds.setdefault((kind, batch), {"albedo": [], "forward": [], "generate": []})
            row["albedo"] += albedo(kind, f"{batch}x{options.tokens}", block, prompts)
            for number, ids in enumerate(read_prompts(prompts)):
                if kind == "prefill":
                    assert ids.shape == (batch, options.tokens)
                    measured = {"forward": timed(lambda: prefill(ids)), "generate": timed(lambda: generate(ids, 1))}
                else:
                    measured = {"forward": decode_loop(ids), "generate": decode_generate(ids)}
                for name, value in measured.items():
                    if number > 0:
                        row[name].append(value)
            print(f"block {block + 1}/{options.blocks} {kind} {batch}", file=sys.stderr, flush=True)

print(
    f"{processor()}, {options.threads} threads, f32; torch {torch.__version__}, transformers"
    f" {transformers.__version__}; {options.tokens} tokens, {options.blocks} blocks of {options.rounds} rounds,"
    f" load average {os.getloadavg()[0]:.1f}\n"
)
print("| milliseconds: median (least – most) | albedo | forward loop | `generate` | albedo's speed / better peer |")
print("|---|---:|---:|---:|---:|")
for (kind, batch), row in seconds.items():
    medians = {name: statistics.median(values) for name, values in row.items()}
    ratio = min(medians["forward"], medians["generate"]) / medians["albedo"]
    unit = "" if kind == "prefill" else ", a step"
    print(
        f"| {kind} {batch} × {options.tokens}{unit} | {cell(row['albedo'])} | {cell(row['forward'])}"
        f" | {cell(row['generate'])} | {ratio:.2f} |"
    )
