"""Writes the corpora of ../corpus as seeds for the fuzz targets."""

import hashlib
import json
import pathlib

HERE = pathlib.Path(__file__).parent
SOURCES = {
    "answer": [("answers.jsonl", "answer")],
    "reply": [(f"{name}.jsonl", "reply") for name in ("injections", "injections-held-out", "honest", "reply-form")],
    "header": [("headers.jsonl", "hex")],
    "files": [("files.jsonl", "hex")],
}

for target, files in SOURCES.items():
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in files:
        for line in (HERE.parent / "corpus" / name).read_text("utf-8").splitlines():
            text = json.loads(line)[key]
            seed = bytes.fromhex(text) if key == "hex" else text.encode()
            (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
