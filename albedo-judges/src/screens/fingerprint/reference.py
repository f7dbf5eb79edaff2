"""An independent implementation of fingerprint v2, from its written rules.

python reference.py MODEL_DIR > fixture.json       (needs numpy)

Norms are accumulated in float64 over the float32 values; samples are written as
the float32's exact value.
"""
import hashlib
import json
import pathlib
import sys

import numpy as np


def tensors(folder):
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:8 + size]).items():
            if name == "__metadata__":
                continue
            low, high = entry["data_offsets"]
            data = raw[8 + size + low:8 + size + high]
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]).astype(np.float32)
            yield name, values


def main():
    found = {}
    for name, values in tensors(sys.argv[1]):
        words = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=64).digest(), ">u4")
        at = words.astype(np.uint64) % max(1, len(values))
        norm = float(np.sqrt(np.sum(values.astype(np.float64) ** 2)))
        found[name] = [norm, len(values), [int(i) for i in at], [float(values[int(i)]) for i in at]]
    json.dump({name: found[name] for name in sorted(found)}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
