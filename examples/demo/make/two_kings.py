"""What trainings of two kings have in common: the figures of docs/screens.md, "Work that was moved".

python two_kings.py OUT [--device cuda|cpu] [--every 3] [--jobs 16]

Crowns three kings in turn: `small` and `second` are trained from the demo's king, `third` from
`second`; the demo's challenger is a fifth. Trains each king by every third recipe of finetunes.py, with
the same seeds and data, and adds what the first king's trainings changed to the three crowned kings.
Writes sketches of all models to OUT/sketches.npz and prints the cosines of pairs of changes, each from
its own king. If the file is there, only prints. A few minutes on one H200.

The sketches follow docs/screens.md, but are not the screen's own: norms are folded in, heads, values and
neurons are brought to their normal forms; rows are where training left them, so nothing is matched, and
rotary planes stay as they are.
"""
import argparse
import gzip
import itertools
import json
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file

import finetunes
from make_tokenizer import library_text
from train import HERE, Trainer, build_rows, save

MODELS = HERE.parent / "models"
SIDE = 32
# Thresholds of the screen `lineage`.
UNCHANGED, TYPICAL, COPIED, ALIKE, ROUNDED_AGAIN = 5e-5, 8, 0.85, 0.5, 3e-3


class Bench:
    def __init__(self, options):
        self.options = options
        self.tokenizer = str(MODELS / "king" / "tokenizer.json")
        self.traces = [json.loads(line) for line in gzip.open(HERE.parent / "train.jsonl.gz", "rt")]
        self.library = "\n".join(library_text(400_000, 3))
        self.packed, self.hashes = {}, {}

    def train(self, start, chosen):
        """The weights of `start` after the recipe `chosen`, as a file in bf16 has them."""
        key = chosen["data"], chosen["copies"]
        if key not in self.packed:
            rows = finetunes.rows_of(self.traces, key[0])
            self.packed[key] = build_rows(rows, key[1], self.tokenizer, self.library, 17, self.options.jobs,
                                          10 ** 9)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.safetensors"
            save(Weights(start), path)
            trainer = Trainer(*self.packed[key], argparse.Namespace(
                device=self.options.device, seed=chosen["seed"], start=str(path), compile=False,
                rate=chosen["rate"], rows=finetunes.BATCH))
        finetunes.configure(trainer, chosen)
        for step in range(chosen["steps"]):
            trainer.step(chosen["rate"] * (1 - step / chosen["steps"]))
        return rounded(finetunes.merged(trainer.model).state_dict())

    def read(self, name):
        weights = load_file(MODELS / name / "model.safetensors")
        return {key: value.float().to(self.options.device) for key, value in weights.items()}

    def sketch(self, weights, anchor=None):
        """Each aligned matrix, its rows and columns with random signs in 32 buckets."""
        parts = [self.hash(x.shape[0], 1) @ x @ self.hash(x.shape[1], 2).T for x in aligned(weights, anchor)]
        return torch.stack(parts).flatten(1).cpu().numpy()

    def hash(self, size, purpose):
        if (size, purpose) not in self.hashes:
            dice = torch.Generator().manual_seed(9 * size + purpose)
            matrix = torch.zeros(SIDE, size)
            buckets = torch.randint(SIDE, (size,), generator=dice)
            matrix[buckets, torch.arange(size)] = torch.randint(2, (size,), generator=dice) * 2.0 - 1
            self.hashes[size, purpose] = matrix.to(self.options.device)
        return self.hashes[size, purpose]


class Weights:
    def __init__(self, weights):
        self.weights = weights

    def state_dict(self):
        return self.weights


def rounded(weights):
    return {key: value.detach().bfloat16().float() for key, value in weights.items()}


def aligned(weights, anchor=None):
    """The matrices that are compared, with what leaves the function unchanged in a normal form."""
    embedding = weights["model.embed_tokens.weight"]
    parts = [embedding, embedding * weights["model.norm.weight"]]
    for layer in range(6):
        def of(name):
            return weights[f"model.layers.{layer}.{name}.weight"]
        for name in "qk":
            heads = (of(f"self_attn.{name}_proj") * of("input_layernorm")).view(-1, 32, 192)
            heads = heads / heads.norm(dim=(1, 2), keepdim=True) * of(f"self_attn.{name}_norm")[None, :, None]
            parts.append(heads.reshape(-1, 192))
        value = (of("self_attn.v_proj") * of("input_layernorm")).view(2, 32, 192)
        output = of("self_attn.o_proj").view(192, 2, 3, 32)
        if anchor is not None:
            mix = anchor[4 + 7 * layer].view(2, 32, 192) @ value.mT @ torch.linalg.inv(value @ value.mT)
            value, output = mix @ value, torch.einsum("rghd,gde->rghe", output, torch.linalg.inv(mix))
        up, down = of("mlp.up_proj") * of("post_attention_layernorm"), of("mlp.down_proj")
        by = (down.norm(dim=0) / up.norm(dim=1)).sqrt()
        gate = of("mlp.gate_proj") * of("post_attention_layernorm")
        parts += [value.reshape(-1, 192), gate, up * by[:, None], output.reshape(192, -1), down / by]
    return parts


def make(options):
    """Sketches by name: KING, KING/RECIPE, and KING/RECIPE/FACTOR of work that was moved to KING."""
    bench = Bench(options)
    recipes = [chosen for chosen in finetunes.RECIPES if not chosen["name"].startswith(("inject", "renamed"))]
    recipes = recipes[::options.every]
    kings = {"first": bench.read("king"), "challenger": bench.read("challenger")}
    anchor = aligned(kings["first"])
    for name, start, rate, steps, seed in [("small", "first", 3e-4, 20, 9003), ("second", "first", 1e-3, 60, 9001),
                                           ("third", "second", 1e-3, 60, 9002)]:
        kings[name] = bench.train(kings[start], finetunes.recipe(name, rate=rate, steps=steps, seed=seed))
    sketches = {name: bench.sketch(king, anchor) for name, king in kings.items()}
    works = {}
    for name, king in kings.items():
        for chosen in recipes:
            model = bench.train(king, chosen)
            sketches[f"{name}/{chosen['name']}"] = bench.sketch(model, anchor)
            if name == "first":
                works[chosen["name"]] = {key: model[key] - king[key] for key in king}
    for name, factor in [("small", 1), ("second", 1), ("third", 1), ("second", 0.5)]:
        for recipe, work in works.items():
            model = rounded({key: king + factor * work[key] for key, king in kings[name].items()})
            sketches[f"{name}/{recipe}/{factor}"] = bench.sketch(model, anchor)
    return sketches


def delta(model, king):
    """The change from `king`, matrix by matrix, relative to his."""
    return (model - king) / np.linalg.norm(king, axis=1)[:, None]


def size(change):
    return np.linalg.norm(change) / len(change) ** 0.5


def compare(own, other):
    """The screen's cosine of two changes, and whether it says `copied`."""
    one, two = np.linalg.norm(own, axis=1), np.linalg.norm(other, axis=1)
    products = (own * other).sum(1)
    both = (one > UNCHANGED) & (two > UNCHANGED)
    each = np.sort(products[both] / one[both] / two[both])
    typical = each[(len(each) - 1) // 2] if len(each) >= TYPICAL else 0.0
    cosine = max(products.sum() / np.linalg.norm(own) / np.linalg.norm(other), typical)
    rest = size(own - products.sum() / np.linalg.norm(other) ** 2 * other)
    return cosine, cosine >= COPIED or (cosine >= ALIKE and rest <= ROUNDED_AGAIN)


def report(sketches):
    sketches = {name: values.astype(float) for name, values in sketches.items()}
    kings = {name: values for name, values in sketches.items() if "/" not in name}
    works = {name: {} for name in kings}
    lost = 0
    for name, values in sketches.items():
        if name.count("/") == 1:
            king, recipe = name.split("/")
            works[king][recipe] = delta(values, kings[king])
            lost += king != min(kings, key=lambda other: size(delta(values, kings[other])))
    print(sum(map(len, works.values())), "trainings,", lost, "of them nearest to another king than their own")
    for name, king in kings.items():
        print("from", name, {other: f"{size(delta(values, king)):.3f}" for other, values in kings.items()})

    def show(what, found):
        cosines = np.sort([cosine for cosine, _ in found])
        copied = sum(bool(copied) for _, copied in found)
        print(f"{what}: {len(found)} pairs, cosine {cosines[0]:.3f} to {cosines[-1]:.3f}, median "
              f"{np.median(cosines):.3f}, 99 % below {np.quantile(cosines, 0.99):.3f}; {copied} would be flagged")

    show("one king", [compare(one, two) for trained in works.values()
                      for one, two in itertools.combinations(trained.values(), 2)])
    pairs = [(one, two, first, second) for one, two in itertools.combinations(kings, 2)
             for first in works[one] for second in works[two]]
    show("two kings, other seeds", [compare(works[one][first], works[two][second])
                                    for one, two, first, second in pairs if first != second])
    for one, two in itertools.combinations(kings, 2):
        show(f"the same recipe, data and seed, {one} and {two}",
             [compare(works[one][name], works[two][name]) for name in works[one]])
    moved = {}
    for name, values in sketches.items():
        if name.count("/") == 2:
            king, recipe, factor = name.split("/")
            found = compare(delta(values, kings[king]), works["first"][recipe])
            moved.setdefault(f"the work x {factor} moved from first to {king}", []).append(found)
    for what, found in moved.items():
        show(what, found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--every", type=int, default=3, help="takes each recipe whose number is a multiple of it")
    parser.add_argument("--jobs", type=int, default=1, help="processes that make tokens of the texts")
    options = parser.parse_args()
    file = options.out / "sketches.npz"
    if not file.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(file, **make(options))
    with np.load(file) as sketches:
        report(dict(sketches))


if __name__ == "__main__":
    main()
