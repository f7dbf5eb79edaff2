"""Compares albedo's bf16 replies and scores with Hugging Face transformers.

    python compare.py ALBEDO MODEL [DEVICE [SETTING=VALUE ...]]

Scores and greedy replies of albedo on DEVICE (default `cuda`), with SETTINGs of its
backend such as `kv_dtype=int8`, are held against transformers in f32 and in bf16,
on the same weights and prompts:

- error: the root mean square difference of log-probabilities to those of f32,
  for albedo and for transformers in bf16, and the ratio of the two;
- greedy: at every token of albedo's reply, f32 must choose the same, up to the
  first whose two best f32 logits are closer than 0.3.

Needs torch and transformers.
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEAR = 0.3


def texts():
    """Sixteen prompts, each with a reply to score."""
    words = "the file test run fix bug edit python error function value list index loop name parse".split()
    for case in range(16):
        prompt = " ".join(words[(case * 7 + at * at) % len(words)] for at in range(20 + 60 * case))
        reply = " ".join(words[(case * 3 + at * 5) % len(words)] for at in range(150))
        yield prompt, reply


def tokens(tokenizer):
    """The same in tokens."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompt, reply in texts():
        turn = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
        yield ids, tokenizer.encode(reply, add_special_tokens=False) + [end]


def main():
    albedo, model = sys.argv[1], sys.argv[2]
    device = sys.argv[3] if len(sys.argv) > 3 else "cuda"
    on = "cuda" if device.startswith("cuda") else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model)
    requests = [
        {"id": case, "prompt": prompt, "score_reply": reply, "max_new_tokens": 48}
        for case, (prompt, reply) in enumerate(texts())
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = [albedo, "generate", model, "--input", "-", "--device", device]
    if on == "cuda":
        command += ["--set", "memory_share=0.4"]
    for setting in sys.argv[4:]:
        command += ["--set", setting]
    run = subprocess.run(command, input=lines, capture_output=True, text=True)
    answers = {}
    for line in run.stdout.splitlines():
        answer = json.loads(line)
        answers[answer["id"]] = answer
    if len(answers) != len(requests):
        sys.exit(f"albedo answered {len(answers)} of {len(requests)}: {run.stderr[-2000:]}")

    prompts, replies = zip(*tokens(tokenizer))

    def logits(net, ids):
        with torch.inference_mode():
            return net(torch.tensor([ids], device=on)).logits[0].float()

    def scores(net):
        out = []
        for prompt, reply in zip(prompts, replies):
            rows = logits(net, prompt + reply)[len(prompt) - 1 : -1].log_softmax(-1)
            out.append(rows[torch.arange(len(reply)), torch.tensor(reply)].cpu())
        return torch.cat(out)

    exact_net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(on).eval()
    exact = scores(exact_net)
    wrong, near, checked = 0, 0, 0
    for request, prompt in zip(requests, prompts):
        written = answers[request["id"]]["tokens"]
        rows = logits(exact_net, prompt + written)[len(prompt) - 1 : -1]
        best = rows.topk(2, dim=-1)
        for token, ids, values in zip(written, best.indices.tolist(), best.values.tolist()):
            if values[0] - values[1] < NEAR:
                near += 1
                break
            checked += 1
            wrong += token != ids[0]
    del exact_net
    half = scores(AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(on).eval())
    ours = torch.cat([torch.tensor(answers[r["id"]]["scores"]["log_probs"]) for r in requests])
    assert ours.shape == exact.shape, (ours.shape, exact.shape)

    def error(values):
        return (values - exact).pow(2).mean().sqrt().item()

    print(
        f"{' '.join([model, *sys.argv[4:]])}: {len(exact)} scores, spread {exact.std().item():.3f}; error albedo {error(ours):.2e}, "
        f"transformers bf16 {error(half):.2e}, ratio {error(ours) / error(half):.3f}; "
        f"greedy: {checked} tokens compared, {wrong} differ, {near} replies cut at a near tie"
    )


if __name__ == "__main__":
    main()
