"""Writes a Qwen3 checkpoint of a published shape with random weights.

    python random_model.py OUT SHAPE TOKENIZER

SHAPE is 0.6b or 4b. The tokenizer's files are copied from the folder TOKENIZER.
The byte 255, with which `albedo bench` stands in for the stop token, gets no
weight: it is never the likeliest token, so that no reply ends by chance.
Needs torch and safetensors; uses the GPU if there is one.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    # hidden, intermediate, layers, query heads, key-value heads, tied
    "0.6b": (1024, 3072, 28, 16, 8, True),
    "4b": (2560, 9728, 36, 32, 8, True),
}
VOCABULARY, HEAD, CONTEXT = 151936, 128, 40960


def main():
    out, shape, tokenizer = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    never = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]["ÿ"]
    hidden, inter, layers, heads, kv_heads, tied = SHAPES[shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device=device).manual_seed(1)

    def normal(*size):
        values = torch.randn(*size, device=device, dtype=torch.float32, generator=generator)
        return (values * 0.02).to(torch.bfloat16).cpu()

    def gain(size):
        values = torch.rand(size, device=device, dtype=torch.float32, generator=generator)
        return (0.5 + values).to(torch.bfloat16).cpu()

    out.mkdir(parents=True, exist_ok=True)
    weight_map, size, shards = {}, 0, 4
    per_shard = -(-layers // shards)
    for shard in range(shards):
        tensors = {}
        for layer in range(shard * per_shard, min(layers, (shard + 1) * per_shard)):
            name = f"model.layers.{layer}."
            tensors |= {
                name + "input_layernorm.weight": gain(hidden),
                name + "post_attention_layernorm.weight": gain(hidden),
                name + "self_attn.q_norm.weight": gain(HEAD),
                name + "self_attn.k_norm.weight": gain(HEAD),
                name + "self_attn.q_proj.weight": normal(heads * HEAD, hidden),
                name + "self_attn.k_proj.weight": normal(kv_heads * HEAD, hidden),
                name + "self_attn.v_proj.weight": normal(kv_heads * HEAD, hidden),
                name + "self_attn.o_proj.weight": normal(hidden, heads * HEAD),
                name + "mlp.gate_proj.weight": normal(inter, hidden),
                name + "mlp.up_proj.weight": normal(inter, hidden),
                name + "mlp.down_proj.weight": normal(hidden, inter),
            }
        if shard == 0:
            tensors["model.embed_tokens.weight"] = normal(VOCABULARY, hidden)
            tensors["model.embed_tokens.weight"][never] = 0
        if shard == shards - 1:
            tensors["model.norm.weight"] = gain(hidden)
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        weight_map |= {name: file for name in tensors}
        size += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, out / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "vocab_size": VOCABULARY, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": HEAD,
        "intermediate_size": inter, "max_position_embeddings": CONTEXT, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": tied, "attention_bias": False,
        "torch_dtype": "bfloat16",
    }
    (out / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, out / name)


main()
