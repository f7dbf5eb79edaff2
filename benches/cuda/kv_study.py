"""What storing keys and values with fewer bits does to a model.

    python kv_study.py MODEL

Transformers in f32, whose cache rounds every key and value to a format and back,
beside itself without: the root mean square difference of log-probabilities of given
replies, and how many tokens would be chosen otherwise, of those whose two best
logits are not closer than 0.3. All formats have one factor for each token and
key-value head. `balanced` divides keys by the sizes of their norm's gains before, one
for each pair that is rotated, as albedo does. Prompts and replies are those of
compare.py. Needs torch and transformers.
"""

import sys

import torch
from compare import NEAR, tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


def int8(x):
    factor = x.abs().amax(-1, keepdim=True) / 127
    return (x / factor.clamp_min(1e-30)).round() * factor


def e4m3(x):
    factor = x.abs().amax(-1, keepdim=True) / 448
    return (x / factor.clamp_min(1e-30)).to(torch.float8_e4m3fn).to(x.dtype) * factor


class Rounded(DynamicCache):
    """A cache that rounds."""

    def rounding(self, stored, sizes):
        self.stored, self.sizes = stored, sizes
        return self

    def update(self, keys, values, layer, *more, **named):
        size = self.sizes[layer]
        return super().update(self.stored(keys / size) * size, self.stored(values), layer, *more, **named)


def main():
    model = sys.argv[1]
    on = "cuda" if torch.cuda.is_available() else "cpu"
    cases = list(tokens(AutoTokenizer.from_pretrained(model)))
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(on).eval()
    gains = [layer.self_attn.k_norm.weight.detach().abs() for layer in net.model.layers]
    sizes = [torch.maximum(*gain.chunk(2)).repeat(2) for gain in gains]
    sizes = [torch.where(size > 0, size, torch.ones_like(size)) for size in sizes]
    plain = [torch.ones_like(size) for size in sizes]

    def rows(stored, sizes):
        for prompt, reply in cases:
            cache = Rounded().rounding(stored, sizes)
            with torch.inference_mode():
                found = net(torch.tensor([prompt + reply], device=on), past_key_values=cache, use_cache=True)
            yield found.logits[0, len(prompt) - 1 : -1].float(), torch.tensor(reply, device=on)

    exact = [(logits.log_softmax(-1), logits.topk(2, -1)) for logits, _ in rows(lambda x: x, plain)]
    bf16 = lambda x: x.to(torch.bfloat16).to(x.dtype)
    formats = [("bf16", bf16, plain), ("int8", int8, plain), ("int8, balanced", int8, sizes)]
    formats += [("e4m3", e4m3, plain), ("e4m3, balanced", e4m3, sizes)]
    for name, stored, sizes in formats:
        off, clear, other, all_other, count = 0.0, 0, 0, 0, 0
        for (logits, reply), (before, best) in zip(rows(stored, sizes), exact):
            at = torch.arange(len(reply), device=on)
            off += (logits.log_softmax(-1)[at, reply] - before[at, reply]).pow(2).sum().item()
            sure = best.values[:, 0] - best.values[:, 1] >= NEAR
            differs = logits.argmax(-1) != best.indices[:, 0]
            clear += sure.sum().item()
            other += (sure & differs).sum().item()
            all_other += differs.sum().item()
            count += len(reply)
        print(
            f"{model}, {name}: {count} scores, error {(off / count) ** 0.5:.2e}; "
            f"greedy: {other} of {clear} clear choices differ, {all_other} of all {count}",
            flush=True,
        )


main()
