#!/usr/bin/env python3
"""Verifies records of duels without albedo: python3 examples/verify.py DIR [DIR ...]

Written from docs/record-format.md, with Python's standard library alone. It checks the
digests, the form of every line, the draw, nonces, canaries, the panel, the rule, every
field of the verdict, and that an admission's outcome follows from its findings. It does
not check signatures, whether findings are true, or what offline judges say (except
`reference-likelihood`).

Prints one line per record, and exits with 1 if one of them is refused. With `--fields` it
prints the fields that it knows, one per line.
"""

import copy
import hashlib
import hmac
import json
import math
import os
import random
import re
import struct
import sys

LIMITS = {"record.digest": 1 << 10, "record.jsonl": 512 << 20, "record.blobs": 1 << 30}
MAX_LINE = 16 << 20
METRICS = ["correctness", "grounding", "progress", "protocol", "efficiency"]
ERRORS = (
    "config_invalid unknown_plugin not_found digest_mismatch data_invalid unsupported resource_exhausted "
    "device_lost refused rate_limited unavailable timeout cancelled protocol conflict overflow unexpected"
).split()
PROBED = ["scored", "abstained", "unreadable", "refused", "failed"]


class Refused(Exception):
    """The record is not what it claims to be."""


def require(condition, why):
    if not condition:
        raise Refused(why)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# Canonical JSON


def real(value):
    """The shortest decimal of a double, as the format spells it."""
    require(math.isfinite(value), "a number is not finite")
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    sign = "-" if value < 0 else ""
    mantissa, exponent = f"{abs(value)!r}".lower(), 0
    if "e" in mantissa:
        mantissa, exponent = mantissa.split("e")
        exponent = int(exponent)
    whole, _, part = mantissa.partition(".")
    digits = whole + part
    point = len(whole) + exponent - (len(digits) - len(digits.lstrip("0")))
    digits = digits.strip("0")
    exponent = point - 1
    if -5 <= exponent <= 15:
        if point <= 0:
            return f"{sign}0.{'0' * -point}{digits}"
        if point >= len(digits):
            return f"{sign}{digits}{'0' * (point - len(digits))}.0"
        return f"{sign}{digits[:point]}.{digits[point:]}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent)}"


ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def quoted(text):
    escape = lambda found: ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}")
    return '"' + re.sub(r'["\\\x00-\x1f]', escape, text) + '"'


def canonical(value):
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return real(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    # Code points ascend as their UTF-8 bytes do.
    return "{" + ",".join(f"{quoted(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"


def written(value):
    return canonical(value).encode("utf-8")


def digest_of(value):
    return sha256(written(value))


def parse(data):
    def constant(name):
        raise Refused(f"{name} is no number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {error}") from None


# What fields may hold


def integer(most):
    def check(value):
        require(type(value) is int and 0 <= value <= most, f"{value!r} is not a whole number up to {most}")

    return check


U16, U32, U64 = integer(2**16 - 1), integer(2**32 - 1), integer(2**64 - 1)


def f64(value):
    require(type(value) is float, f"{value!r} is not a real number")


def f32(value):
    f64(value)
    try:
        require(struct.unpack("f", struct.pack("f", value))[0] == value, "not of single precision")
    except OverflowError:
        raise Refused("not of single precision") from None


def text(value):
    require(type(value) is str, f"{value!r} is not a text")


def flag(value):
    require(type(value) is bool, f"{value!r} is neither true nor false")


def true(value):
    require(value is True, "a false flag is left out")


def positive(value):
    U32(value)
    require(value > 1, "1 is left out")


def digest(value):
    text(value)
    require(re.fullmatch("[0-9a-f]{64}", value) is not None, f"{value!r} is no digest")


def seed(value):
    text(value)
    decimal = re.fullmatch("0|[1-9][0-9]*", value) is not None and int(value) < 2**64
    long = re.fullmatch("[0-9a-f]{64}", value) is not None and value[16:] != "0" * 48
    require(decimal or long, f"{value!r} is no seed")


def anything(value):
    pass


def one_of(*words):
    def check(value):
        require(type(value) is str and value in words, f"{value!r} is none of {words}")

    return check


def optional(check):
    return lambda value: value is None or check(value)


def holding(check, *inner):
    """`check` with what it holds by name, for `--fields`; None is what has no name of its own."""
    check.holds = inner
    return check


def many(check, least=0, most=None):
    def check_all(value):
        require(type(value) is list and len(value) >= least, f"{value!r} is no list, or too short")
        require(most is None or len(value) <= most, "a list is too long")
        for item in value:
            check(item)

    return holding(check_all, (None, check))


def fields(needed, perhaps=None):
    perhaps = perhaps or {}

    def check(value):
        require(type(value) is dict, f"{value!r} is no object")
        for key in needed:
            require(key in value, f"`{key}` is missing")
        for key, item in value.items():
            require(key in needed or key in perhaps, f"`{key}` is unknown")
            try:
                (needed.get(key) or perhaps[key])(item)
            except Refused as error:
                raise Refused(f"{key}: {error}") from None

    return holding(check, *needed.items(), *perhaps.items())


def tagged(tag, variants):
    def check(value):
        require(type(value) is dict and type(value.get(tag)) is str and value[tag] in variants, f"no such {tag}")
        variants[value[tag]]({key: item for key, item in value.items() if key != tag})

    return holding(check, (tag, text), *((None, inner) for inner in variants.values()))


def variant(variants, *words):
    """A word, or an object of one key that says which."""

    def check(value):
        if type(value) is str:
            require(value in words, f"{value!r} is unknown")
            return
        require(type(value) is dict and len(value) == 1 and next(iter(value)) in variants, "no such variant")
        for key, item in value.items():
            variants[key](item)

    return holding(check, *variants.items(), *((None, text) for _ in words[:1]))


def by_metric(check):
    every = fields({}, {metric: check for metric in METRICS})
    return holding(lambda value: every(value), ("metric", check))


def score(value):
    f64(value)
    require(0 <= value <= 1, "a score is not between 0 and 1")


def not_both_zero(value):
    fields({"king": U32, "challenger": U32})(value)
    require(value["king"] or value["challenger"], "zeros are left out")


def hub_part(name):
    allowed = re.fullmatch("[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", name) is not None
    require(allowed and ".." not in name, f"{name!r} is no part of a repository's name")


def reference(value):
    """`owner/model@sha256:…` of a container registry, or `hub:repository@` and a revision."""
    text(value)
    found = re.fullmatch("(?:([^/:@]*):)?([^@]*)@(sha256:[0-9a-f]{64}|[0-9a-f]{40})", value)
    require(found is not None and len(value) <= 384, f"{value!r} is no reference")
    hub, repository, sha256 = found[1] or "oci", found[2], found[3].startswith("sha256:")
    require(re.fullmatch("[a-z][a-z0-9-]{0,31}", hub) is not None and len(repository) <= 255, "no such hub")
    names = repository.split("/")
    # Only a registry with a port stands after its hub.
    require(hub != "oci" or (found[1] is None) == (":" not in repository), "another spelling")
    if hub == "oci" and len(names) > 1:
        host, colon, port = names[0].partition(":")
        require(not colon or (re.fullmatch("[1-9][0-9]*", port) and int(port) < 2**16), "no such port")
        names[0] = host
    elif hub not in ("oci", "hf"):
        require(not re.fullmatch("[0-9]+", names[0]), "a registry with a port")
    for name in names:
        hub_part(name)
    require(hub != "oci" or (sha256 and repository == repository.lower()), "no revision of a registry")
    require(hub != "hf" or (not sha256 and len(names) == 2), "no revision of Hugging Face")


IDENTITY = fields({"name": text, "version": text, "config": digest})
SCREENED = fields({"files": U64, "bytes": U64, "listing": digest}, {"reference": reference, "parameters": digest})
STAGES = ["files", "parameters", "behaviour"]
ADMISSION = fields(
    {
        "king": SCREENED,
        "submission": SCREENED,
        "findings": many(
            fields(
                {
                    "screen": IDENTITY, "stage": one_of(*STAGES), "evidence": anything,
                    "finding": one_of("clear", "flagged", "rejected", "unverified"),
                }
            )
        ),
        "outcome": one_of("admitted", "forfeit", "void"),
    },
    {"anchor": digest, "seed": U64},
)
TEXT = fields({"sha256": digest, "bytes": U64})
INTERVAL = fields({"low": f64, "high": f64})
MODEL = fields(
    {
        "parameters": digest, "architecture": text, "parameter_count": U64, "context_length": U32, "dtype": text,
        "tokenizer": digest, "chat_template": digest, "stop_ids": many(U32), "config": digest,
    }
)
MARGINS = {"win_margin": f64}
NULL = {"win_margin": f64, "null_margin": f64}
PLAN = fields(
    {
        "king": fields({"model": MODEL, "backend": IDENTITY}),
        "challenger": fields({"model": MODEL, "backend": IDENTITY}),
        "tasks": fields({"manifest": digest, "rows": U64, "unhashed": flag}),
        "sampler": one_of("row-draw", "albedo-py"),
        "samples": U32,
        "looks": many(U32),
        "seed": seed,
        "context_tokens": U32,
        "generation": fields(
            {"max_new_tokens": U32, "sampling": fields({"temperature": f64, "top_p": f64, "top_k": U32})}
        ),
        "judges": many(
            fields(
                {"identity": IDENTITY, "metrics": many(one_of(*METRICS))},
                {
                    "watched": true,
                    "reference_scores": true,
                    "twins": U32,
                    "offline": fields({"settings": anything, "behaviour": digest}),
                },
            )
        ),
        "panel": fields({"reducer": one_of("mean", "median", "trimmed"), "max_missing": f64}),
        "rule": tagged(
            "name",
            {
                "sequential": fields(NULL),
                "fixed": fields(NULL),
                "margin": fields(MARGINS),
                "margin-lcb": fields({**MARGINS, "alpha": f64, "resamples": U32}),
            },
        ),
        "terms": variant({"standalone": fields({"alpha": f64}), "reign": fields({"attempt": U64, "share": f64})}),
    },
    {
        "version": text,
        "lanes": not_both_zero,
        "previous": digest,
        "canaries": fields(
            {
                "settings": fields({"every": U32, "preflight": U32, "quorum": U32}),
                "preflight": fields(
                    {
                        "key": digest,
                        "judges": many(
                            fields({"judge": IDENTITY, "outcomes": many(one_of("passed", "failed", "unanswered"))})
                        ),
                    }
                ),
            }
        ),
        "admission": ADMISSION,
        "twins": fields({"share": U32}),
        "call_tries": U32,
        "behaviour": fields({"rule": digest, "sampler": digest, "panel": digest}, {"template": digest}),
        "rule_version": positive,
        "effect_prior": fields({"duels": U32, "sd": f64}),
    },
)
ALTERATIONS = many(fields({"what": text, "count": U32}), least=1)
EVIDENCE = fields({"answer": text}, {"nonce": text, "first": ALTERATIONS, "second": ALTERATIONS})
ANSWER = variant(
    {
        "answered": tagged(
            "outcome",
            {
                "scored": fields({"scores": by_metric(score)}, {"rationale": text, "evidence": EVIDENCE}),
                "abstained": fields({"reason": text}),
                "unreadable": fields({"reason": text, "evidence": EVIDENCE}),
            },
        ),
        "missing": fields({}, {"kind": one_of(*ERRORS)}),
    },
    "void",
    "identical",
)
REPLY = variant(
    {
        "completed": fields(
            {"text": TEXT, "finish": one_of("stop", "length", "unknown")},
            {
                "prompt_tokens": U32, "completion_tokens": U32,
                "reference_scores": fields({"log_probs": many(f32)}),
                "tokens": fields({"ids": many(U32)}, {"logit_gaps": many(U16)}),
            },
        ),
        "missing": fields({"kind": one_of(*ERRORS)}),
        "overflowed": fields(
            {
                "place": variant({"layer": U32}, "logits"), "position": U32,
                "step": one_of("prompt", "score", "reply"),
            }
        ),
    }
)
TWICE = many(one_of(*PROBED), least=2, most=2)
ORDER = one_of("king_first", "challenger_first")
LINES = {
    "header": fields({"format": U32}),
    "plan": fields({"plan": PLAN}),
    "origin": fields(
        {"builds": many(fields({"version": text}, {"source": digest}))}, {"unchained": true}
    ),
    "canary": fields(
        {
            "canary": U32, "kind": one_of("constant", "injected", "self-pair", "swapped"), "skipped": U32,
            "row": U64, "turns": U32, "turn": U32,
        }
    ),
    "canary_assessment": fields(
        {"canary": U32, "judge": U32, "order": ORDER, "answer": ANSWER}, {"asked": U32}
    ),
    "draw": fields(
        {
            "row": U64, "instance_id": text, "turns": U32, "turn": optional(U32),
            "prompt_tokens": optional(U32),
            "outcome": one_of("sample", "no_turn", "repeated", "too_long"),
        }
    ),
    "sample": fields({"sample": U32, "repo": text, "messages": TEXT, "reference": TEXT}),
    "reply": fields({"sample": U32, "side": one_of("king", "challenger"), "reply": REPLY}),
    "preparation": fields({"sample": U32, "judge": U32, "text": text}),
    "assessment": fields(
        {"sample": U32, "judge": U32, "order": ORDER, "answer": ANSWER}, {"asked": U32}
    ),
    "twin": fields(
        {"sample": U32, "judge": U32, "side": one_of("king", "challenger")}, {"drawn": true, "text": TEXT}
    ),
    "twin_assessment": fields(
        {"sample": U32, "judge": U32, "side": one_of("king", "challenger"), "order": ORDER, "answer": ANSWER},
        {"asked": U32},
    ),
    "probes": fields(
        {
            "sample": U32, "judge": U32,
            "probes": fields(
                {"neutral": one_of(*PROBED)}, {"sides": fields({"king": TWICE, "challenger": TWICE})}
            ),
        }
    ),
    # Worked out again and compared as a whole.
    "cluster": anything,
    "verdict": anything,
    "forfeit": fields({"admission": ADMISSION}),
}
LINE = tagged("line", LINES)


# Random numbers


def philox(key, counter):
    (k0, k1), (a, b, c, d) = key, counter
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high >> 32) ^ b ^ k0, high & 0xFFFFFFFF, (low >> 32) ^ d ^ k1, low & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return b << 32 | a


class Stream:
    def __init__(self, key, use):
        self.key, self.use, self.next = (key & 0xFFFFFFFF, key >> 32), use, 0

    def below(self, bound):
        if bound == 0:
            return 0
        least = (1 << 64) % bound
        while True:
            counter = (self.next & 0xFFFFFFFF, self.next >> 32, self.use, 0)
            product = philox(self.key, counter) * bound
            self.next += 1
            if product & 0xFFFFFFFFFFFFFFFF >= least:
                return product >> 64


def derive(domain, parts):
    data = b"".join(len(part).to_bytes(8, "little") + part for part in [domain.encode(), *parts])
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def seed_bytes(value):
    return bytes.fromhex(value) if len(value) == 64 else int(value).to_bytes(8, "little") + bytes(24)


class Pcg:
    """NumPy's Generator(PCG64DXSM(SeedSequence(entropy))), as far as integers(0, n) goes."""

    M = (1 << 128) - 1

    def __init__(self, entropy):
        constant, w32 = 0x43B0D7E5, 0xFFFFFFFF

        def hashed(value, by):
            nonlocal constant
            value ^= constant
            constant = constant * by & w32
            value = value * constant & w32
            return value ^ value >> 16

        def mix(x, y):
            value = (0xCA01F9DD * x - 0x4973F715 * y) & w32
            return value ^ value >> 16

        pool = [hashed(word, 0x931E8875) for word in (entropy & w32, entropy >> 32, 0, 0)]
        for source in range(4):
            for target in range(4):
                if source != target:
                    pool[target] = mix(pool[target], hashed(pool[source], 0x931E8875))
        constant = 0x8B51F9DD
        words = [hashed(pool[index % 4], 0x58F38DED) for index in range(8)]
        a, b, c, d = (words[2 * i] | words[2 * i + 1] << 32 for i in range(4))
        self.increment = ((c << 64 | d) << 1 | 1) & self.M
        step = lambda state: (state * 0x2360ED051FC65DA44385DF649FCCF645 + self.increment) & self.M
        self.state, self.high = step((step(0) + (a << 64 | b)) & self.M), None

    def u32(self):
        if self.high is not None:
            high, self.high = self.high, None
            return high
        w64, by = 0xFFFFFFFFFFFFFFFF, 0xDA942042E4DD58B5
        high, low = self.state >> 64, self.state & w64 | 1
        high ^= high >> 32
        high = high * by & w64
        high ^= high >> 48
        high = high * low & w64
        self.state = (self.state * by + self.increment) & self.M
        self.high = high >> 32
        return high & 0xFFFFFFFF

    def below(self, bound):
        if bound < 2:
            return 0
        product = self.u32() * bound
        if product & 0xFFFFFFFF < bound:
            least = (1 << 32) % bound
            while product & 0xFFFFFFFF < least:
                product = self.u32() * bound
        return product >> 32


# Sums, in the order in which albedo adds


def total(values):
    result = -0.0
    for value in values:
        result += value
    return result


def points(values):
    return 100.0 * (total(values) / len(values)) if values else 0.0


def pairwise(values):
    if len(values) < 8:
        return total(values)
    if len(values) <= 128:
        sums, whole = list(values[:8]), len(values) // 8 * 8
        for start in range(8, whole, 8):
            for place in range(8):
                sums[place] += values[start + place]
        a, b, c, d, e, f, g, h = sums
        result = ((a + b) + (c + d)) + ((e + f) + (g + h))
        for value in values[whole:]:
            result += value
        return result
    half = len(values) // 2
    half -= half % 8
    return pairwise(values[:half]) + pairwise(values[half:])


def mean(values):
    return pairwise(values) / len(values) if values else 0.0


def rounded(value, per_unit):
    scaled = abs(value * per_unit)
    whole = math.floor(scaled)
    whole += scaled - whole >= 0.5
    return math.copysign(whole, value) / per_unit


def total_order(value):
    bits = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else bits ^ 0x7FFFFFFFFFFFFFFF


def reduce(reducer, values):
    kept, ordered = values, sorted(values, key=total_order)
    if len(values) > 2 and reducer == "median":
        kept = ordered[(len(values) - 1) // 2 : len(values) // 2 + 1]
    elif len(values) > 2 and reducer == "trimmed":
        kept = ordered[1:-1]
    if not kept:
        return 0.0
    return (total(kept) + total(kept[::-1])) / 2 / len(kept)


# Cells


def scored(difference, flipped=False):
    return {"scored": {"difference": difference, "flipped": flipped}}


def cell_difference(cell):
    if type(cell) is dict and "scored" in cell and cell["scored"]["difference"]:
        values = [cell["scored"]["difference"][metric] for metric in METRICS if metric in cell["scored"]["difference"]]
        return total(values) / len(values)
    return 0.0


def cell_metric(cell, metric):
    return cell["scored"]["difference"].get(metric, 0.0) if type(cell) is dict and "scored" in cell else 0.0


def is_missing(cell):
    return not (type(cell) is dict and "scored" in cell)


def cause(cell):
    return cell.get("missing_for") if type(cell) is dict else None


def counts_for_king(cell):
    return cell == "missing" or cause(cell) in ("outage", "replies")


def scores_of(answer):
    if type(answer) is dict and answer.get("answered", {}).get("outcome") == "scored":
        return answer["answered"]["scores"]
    return None


def plain_cell(metrics, answers):
    first, second = map(scores_of, answers)
    if first is None or second is None:
        return "missing"
    difference, biases = {}, [0.0, 0.0]
    for metric in metrics:
        difference[metric] = second[metric] - first[metric]
        biases[0] += first[metric] - 0.5
        biases[1] += second[metric] - 0.5
    return scored(difference, biases[0] * biases[1] > 0)


def probed(answer):
    if answer == "void":
        return "failed"
    if answer == "identical" or scores_of(answer) is not None:
        return "scored"
    if "answered" in answer:
        return answer["answered"]["outcome"]
    return "refused" if answer["missing"].get("kind") == "refused" else "failed"


LACKS = ["abstained", "unreadable", "refused", "outage", "void"]


def lack_of(answers):
    lacks = []
    for answer in answers:
        became = "void" if answer == "void" else probed(answer)
        if became != "scored":
            lacks.append("outage" if became == "failed" else became)
    return max(lacks, key=LACKS.index, default=None)


def cell_of(version, metrics, answers, probes):
    if "identical" in answers:
        return scored({metric: 0.0 for metric in metrics})
    cell = plain_cell(metrics, answers)
    if version == 1 or cell != "missing":
        return cell
    lack, neutral = lack_of(answers), probes and probes["neutral"]
    if lack == "void":
        return {"missing_for": "void"}
    if lack == "refused" and neutral == "scored":
        king, challenger = probes["sides"]["king"], probes["sides"]["challenger"]
        if king == ["refused"] * 2 and challenger == ["scored"] * 2:
            return scored({metric: 1.0 for metric in metrics})
        if challenger == ["refused"] * 2 and king == ["scored"] * 2:
            return scored({metric: -1.0 for metric in metrics})
        return {"missing_for": "replies"}
    if lack in ("unreadable", "abstained") and neutral == "scored":
        return {"missing_for": "replies"}
    if (lack, neutral) in (("refused", "refused"), ("abstained", "abstained")):
        return {"missing_for": "question"}
    return {"missing_for": "outage"}


# Twins


def draws(plan, judge, index):
    """Whether the replies of sample `index` are compared with their twins whatever they say."""
    if "twins" not in plan or "twins" not in judge:
        return False
    run, place = divmod(index, plan["twins"]["share"])
    seed = derive("twin", [seed_bytes(plan["seed"]), run.to_bytes(4, "little")])
    return Stream(seed, 2).below(plan["twins"]["share"]) == place


def twin_cell(judge, place, line, answers):
    cell = {"judge": place, "side": line["side"]}
    if "drawn" in line:
        cell["drawn"] = True
    gain = 0.0
    if answers is not None:
        compared = plain_cell(judge["metrics"], answers)
        gain = None if compared == "missing" else 0.0 - cell_difference(compared)
    if gain is not None:
        cell["gain"] = gain
        if gain > 0.5:
            cell["replaced"] = True
    return cell


def twins_of(plan, clusters):
    cells = [cell for cluster in clusters for cell in cluster.get("twins", [])]
    deltas = []
    for cluster in clusters:
        gains = {(cell["judge"], cell["side"]): cell.get("gain") for cell in cluster.get("twins", []) if "drawn" in cell}
        both = [
            gains[place, "challenger"] - gain
            for (place, side), gain in gains.items()
            if side == "king" and gain is not None and gains.get((place, "challenger")) is not None
        ]
        if both:
            deltas.append(max(-1.0, min(1.0, total(both) / len(both))))
    low, high = confidence(deltas, scale_of(0.05, max(1, plan["samples"] // plan["twins"]["share"])))
    return {
        "compared": len(cells), "unanswered": sum("gain" not in cell for cell in cells),
        "king": sum("replaced" in cell and cell["side"] == "king" for cell in cells),
        "challenger": sum("replaced" in cell and cell["side"] == "challenger" for cell in cells),
        "samples": len(deltas), "delta": 100.0 * (total(deltas) / max(1, len(deltas))) + 0.0,
        "interval": {"low": low, "high": high},
    }


# The rules


class Bets:
    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def variance(self):
        return (0.25 + self.squares) / (self.count + 1.0)

    def next(self, scale):
        return min(scale / math.sqrt(self.variance()), 0.9)

    def observe(self, value):
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)


class Wealth:
    STEP = 2.0**256

    def __init__(self):
        self.mantissa, self.exponent = 1.0, 0

    def multiply(self, factor):
        self.mantissa *= factor
        if self.mantissa > self.STEP:
            self.mantissa, self.exponent = self.mantissa / self.STEP, self.exponent + 1
        elif self.mantissa < 1.0 / self.STEP:
            self.mantissa, self.exponent = self.mantissa * self.STEP, self.exponent - 1

    def reaches(self, threshold):
        if self.exponent <= -4:
            return False
        return self.exponent >= 4 or self.mantissa >= threshold * 2.0 ** (-256 * self.exponent)

    def ln(self):
        return math.log(self.mantissa) + self.exponent * math.log(self.STEP)


def above(value, null):
    return (value - null) / (1.0 + null)


def scale_of(alpha, horizon):
    return rounded(math.sqrt(-2.0 * math.log(alpha) / horizon), 1e9)


def confidence(values, scale):
    threshold, bets, staked = 2.0 / (1.0 - 0.95), Bets(), []
    for value in values:
        staked.append((value, bets.next(scale)))
        bets.observe(value)

    def bound(sign):
        low, high = -1.0, 1.0
        for _ in range(31):
            middle, wealth = (low + high) / 2, Wealth()
            for value, bet in staked:
                wealth.multiply(1.0 + bet * above(sign * value, middle))
                if wealth.reaches(threshold):
                    low = middle
                    break
            else:
                high = middle
        return low

    return bound(1.0) * 100.0, -bound(-1.0) * 100.0


def interval(low, high):
    return {"low": math.floor(low * 1e6) / 1e6, "high": math.ceil(high * 1e6) / 1e6}


def looks_of(rule, samples):
    if rule["name"] != "sequential":
        return [samples]
    looks = []
    for look in (-(-samples // 4), -(-samples // 2), samples):
        if not looks or looks[-1] != look:
            looks.append(look)
    return looks


class Sequential:
    def __init__(self, plan, version):
        rule, self.version = plan["rule"], version
        self.points = rule["win_margin"]
        self.win, self.null = rule["win_margin"] / 100.0, rule["null_margin"] / 100.0
        self.alpha, self.looks, self.cap = alpha_of(plan), plan["looks"], plan["samples"]
        self.scale, self.bets = scale_of(self.alpha, self.cap), Bets()
        self.wealths = {name: Wealth() for name in ("evidence", "size", "futility")}
        self.at = {name: None for name in ("rejected", "size", "futile", "crowned")}
        self.size_null = max(rule["null_margin"], rule["win_margin"] / 2.0, rule["win_margin"] - 1.0)
        self.size_scale = scale_of(0.01, 1.0 / 3.0 * self.cap)
        self.gives_up, self.prior = True, plan.get("effect_prior")

    def consume(self, difference):
        bet, size_bet = self.bets.next(self.scale), self.bets.next(self.size_scale)
        self.wealths["size"].multiply(1.0 + size_bet * above(difference, self.size_null / 100.0))
        self.wealths["evidence"].multiply(1.0 + bet * above(difference, self.null))
        self.wealths["futility"].multiply(1.0 + bet * (self.win - difference) / (1.0 + self.win))
        self.bets.observe(difference)
        count = self.bets.count
        for name, wealth, threshold in (
            ("size", "size", 1.0 / 0.01), ("rejected", "evidence", 1.0 / self.alpha), ("futile", "futility", 1.0 / 0.05),
        ):
            if self.at[name] is None and self.wealths[wealth].reaches(threshold):
                self.at[name] = count
        if self.gives_up and self.at["futile"] is not None and count >= min(64, self.cap // 4):
            return ("king_holds", "futile")
        if self.at["crowned"] is None and self.at["rejected"] is not None:
            betting = self.version > 1 and self.at["size"] is not None and count >= min(48, -(-self.cap // 4))
            looked = count in self.looks and self.bets.mean >= self.win * math.sqrt(self.cap / count)
            if betting or looked:
                self.at["crowned"] = count
        if self.at["crowned"] is not None:
            return ("dethroned", None)
        return ("king_holds", "not_shown") if count >= self.cap else None

    def evidence(self, differences):
        low, high = confidence(differences, self.scale)
        noise, mean_points = self.bets.variance() / max(self.bets.count, 1), 100.0 * self.bets.mean
        shrunken = lambda sd: mean_points * (sd * sd) / (sd * sd + noise)
        evidence = {
            "rule": "sequential", "alpha": self.alpha, "cap": self.cap, "samples": self.bets.count,
            "mean": rounded(mean_points, 1e6), "log_e_value": rounded(self.wealths["evidence"].ln(), 1e6),
            "rejected_at": self.at["rejected"], "crowned_at": self.at["crowned"],
            "futility_log_e_value": rounded(self.wealths["futility"].ln(), 1e6), "futile_at": self.at["futile"],
            "confidence": interval(low, high),
        }
        if self.version == 1:
            evidence["shrunken"] = rounded(shrunken(0.02), 1e6)
        else:
            size = rounded(self.wealths["size"].ln(), 1e6)
            evidence["size"] = {"null": self.size_null, "log_e_value": size, "rejected_at": self.at["size"]}
            if self.prior is not None:
                value = shrunken(self.prior["sd"] / 100.0)
                evidence["shrunken"] = rounded(min(max(value, low), high), 1e6)
        return evidence


def fixed(plan, clusters):
    rule, alpha, bets, wealth, rejected = plan["rule"], alpha_of(plan), Bets(), Wealth(), None
    differences = [cluster["difference"] for cluster in clusters]
    for difference in differences:
        needed, left = -math.log(alpha) - wealth.ln(), plan["samples"] - bets.count
        scale = rounded(math.sqrt(2.0 * max(needed, 0.0) / left), 1e9)
        wealth.multiply(1.0 + bets.next(scale) * above(difference, rule["null_margin"] / 100.0))
        bets.observe(difference)
        if rejected is None and wealth.reaches(1.0 / alpha):
            rejected = bets.count
    mean_points = 100.0 * bets.mean
    evidence = {
        "rule": "fixed", "alpha": alpha, "samples": plan["samples"], "mean": rounded(mean_points, 1e6),
        "log_e_value": rounded(wealth.ln(), 1e6), "rejected_at": rejected,
        "margin_met": mean_points >= rule["win_margin"],
        "confidence": interval(*confidence(differences, scale_of(alpha, plan["samples"]))),
    }
    return shown(evidence["margin_met"] and rejected is not None), evidence


def shown(dethroned):
    return ("dethroned", None) if dethroned else ("king_holds", "not_shown")


def margin(plan, clusters):
    rule, judges = plan["rule"], []
    share = lambda difference: (1.0 + difference) / 2
    for judge in range(len(plan["judges"])):
        cells = [cluster["cells"][judge] for cluster in clusters]
        own = [
            mean([share(cell_metric(cell, metric)) for cell in cells])
            for metric in METRICS
            if any(not is_missing(cell) and metric in cell["scored"]["difference"] for cell in cells)
        ]
        judges.append(mean(own) if own else 0.5)
    challenger = round(100.0 * mean(judges), 4)
    king = round(100.0 - challenger, 4)
    evidence = {"rule": rule["name"], "challenger": challenger, "king": king}
    evidence["margin_met"] = round(challenger - king, 4) >= rule["win_margin"]
    if rule["name"] == "margin":
        return shown(evidence["margin_met"]), evidence
    deltas = [mean([round(share(cell_difference(cell)), 6) for cell in cluster["cells"]]) - 0.5 for cluster in clusters]
    generator = Pcg(entropy_of(plan))
    means = sorted(
        (mean([deltas[generator.below(len(deltas))] for _ in deltas]) for _ in range(rule["resamples"])), key=total_order
    )
    position = rule["alpha"] * (len(means) - 1)
    below = math.floor(position)
    low, high, weight = means[below], means[min(below + 1, len(means) - 1)], position - below
    lcb = high - (high - low) * (1.0 - weight) if weight >= 0.5 else low + (high - low) * weight
    middle, count = mean(deltas), len(deltas)
    error = 0.0
    if count > 1:
        error = math.sqrt(pairwise([(delta - middle) * (delta - middle) for delta in deltas]) / (count - 1)) / math.sqrt(count)
    evidence.update({"mean_delta": middle, "lcb": lcb, "standard_error": error})
    return shown(evidence["margin_met"] and lcb > 0), evidence


class Decider:
    """Reads clusters one by one, as two series in the second version of the rules."""

    def __init__(self, plan, version):
        self.plan, self.version, self.clusters = plan, version, []
        self.ties = Sequential(plan, version) if plan["rule"]["name"] == "sequential" else None
        self.king = None

    def for_king(self, cluster):
        if self.version == 1 or not any(map(counts_for_king, cluster["cells"])):
            return cluster
        return missing_for_king(self.plan, cluster)

    def once(self, clusters):
        return fixed(self.plan, clusters) if self.plan["rule"]["name"] == "fixed" else margin(self.plan, clusters)

    def consume(self, cluster):
        self.clusters.append(cluster)
        if self.ties is None:
            return self.look() if len(self.clusters) >= self.plan["samples"] else None
        second = self.for_king(cluster)["difference"]
        if self.king is None and struct.pack("d", second) != struct.pack("d", cluster["difference"]):
            self.king = copy.deepcopy(self.ties)
            self.king.gives_up = False
        ruling = self.ties.consume(cluster["difference"])
        if self.king is not None:
            self.king.consume(second)
            if ruling and ruling[0] == "dethroned" and self.king.at["crowned"] is None:
                ruling = ("king_holds", "not_shown") if self.ties.bets.count >= self.ties.cap else None
        if ruling is None:
            return None
        decision = {"evidence": self.ties.evidence([cluster["difference"] for cluster in self.clusters])}
        if self.king is not None:
            seconds = [self.for_king(cluster)["difference"] for cluster in self.clusters]
            decision["evidence_for_king"] = self.king.evidence(seconds)
        return ruling, decision

    def look(self):
        ruling, evidence = self.once(self.clusters)
        decision = {"evidence": evidence}
        seconds = [self.for_king(cluster) for cluster in self.clusters]
        if any(second is not cluster for second, cluster in zip(seconds, self.clusters)):
            other, decision["evidence_for_king"] = self.once(seconds)
            ruling = shown(ruling[0] == other[0] == "dethroned")
        return ruling, decision

    def disputed(self):
        if self.ties is not None:
            return self.ties.at["crowned"] is not None and self.king is not None and self.king.at["crowned"] is None
        if len(self.clusters) < self.plan["samples"]:
            return False
        return self.look()[0][0] != "dethroned" and self.once(self.clusters)[0][0] == "dethroned"


def missing_for_king(plan, cluster):
    cells = [
        scored({metric: -1.0 for metric in judge["metrics"]}) if counts_for_king(cell) else cell
        for cell, judge in zip(cluster["cells"], plan["judges"])
    ]
    return {**cluster, "cells": cells, "difference": reduce(plan["panel"]["reducer"], list(map(cell_difference, cells)))}


def alpha_of(plan):
    return plan["terms"]["standalone"]["alpha"] if "standalone" in plan["terms"] else plan["terms"]["reign"]["share"]


def entropy_of(plan):
    return int.from_bytes(seed_bytes(plan["seed"])[:8], "little")


# The verdict


def verdict_of(plan, version, clusters, overflows, ruling, decision):
    count, judges = len(clusters), []
    for place, judge in enumerate(plan["judges"]):
        cells = [cluster["cells"][place] for cluster in clusters]
        judges.append(
            {
                "judge": judge["identity"]["name"],
                "margin": points(list(map(cell_difference, cells))),
                "metrics": {metric: points([cell_metric(cell, metric) for cell in cells]) for metric in judge["metrics"]},
                "flips": sum(not is_missing(cell) and cell["scored"]["flipped"] for cell in cells),
                "missing": sum(map(is_missing, cells)),
            }
        )
    metrics = {}
    for metric in METRICS:
        values = [judge["metrics"][metric] for judge in judges if metric in judge["metrics"]]
        if values:
            metrics[metric] = total(values) / len(values)
    differences = [cluster["difference"] for cluster in clusters]
    missing, cells = sum(judge["missing"] for judge in judges), count * len(judges)
    causes = {}
    for cluster in clusters:
        for cell in cluster["cells"]:
            if cause(cell):
                causes[cause(cell)] = causes.get(cause(cell), 0) + 1
    for_king = ruling[0]
    if version == 1:
        second, alone = Decider(plan, version), None
        for cluster in clusters:
            alone = second.consume(missing_for_king(plan, cluster))
            if alone:
                break
        for_king = alone[0][0] if alone else None
    outcome, reason = ruling
    if float(overflows["challenger"]) > 0.1 * count:
        outcome, reason = "forfeit", "overflow"
    elif float(missing - causes.get("replies", 0)) > plan["panel"]["max_missing"] * cells:
        outcome, reason = "void", "too_many_missing"
    verdict = {
        "line": "verdict", "outcome": outcome, "samples": count, "margin": points(differences), "judges": judges,
        "metrics": metrics, "missing": missing, "cells": cells,
        "dethroned_if_missing_for_king": for_king == "dethroned",
        "decision": {**decision, "outcome": ruling[0]},
    }
    if reason:
        verdict["reason"] = reason
    if ruling[1]:
        verdict["decision"]["reason"] = ruling[1]
    if overflows["king"] or overflows["challenger"]:
        verdict["overflows"] = overflows
    if causes:
        verdict["causes"] = causes
    if version == 1 or plan["rule"]["name"] != "sequential":
        low, high = bootstrap(differences, entropy_of(plan))
        verdict["margin_interval"] = {"low": low * 100.0, "high": high * 100.0}
    if version > 1:
        for name, value in (("drift", drift(differences)), ("strata", strata(clusters))):
            if value is not None:
                verdict[name] = value
    if "twins" in plan:
        verdict["twins"] = twins_of(plan, clusters)
    return verdict


def bootstrap(values, entropy):
    if len(values) < 2:
        return [values[0] if values else 0.0] * 2
    stream, means = Stream(entropy, 3), []
    for _ in range(2000):
        drawn = 0.0
        for _ in values:
            drawn += values[stream.below(len(values))]
        means.append(drawn / len(values))
    means.sort(key=total_order)
    return means[50], means[1949]


def drift(differences):
    half = len(differences) // 2
    if half < 2:
        return None

    def moments(values):
        middle = total(values) / half
        return 100.0 * middle, total([(value - middle) * (value - middle) for value in values]) / (half - 1) / half

    (early, noise), (late, later) = moments(differences[:half]), moments(differences[-half:])
    return {"early": early, "late": late, "standard_error": 100.0 * math.sqrt(noise + later)}


def strata(clusters):
    earlier, pairs = {}, []
    for cluster in clusters:
        sums, count = earlier.get(cluster.get("stratum", ""), (0.0, 0.0))
        if count > 0:
            pairs.append((sums / count, cluster["difference"]))
        earlier[cluster.get("stratum", "")] = (sums + cluster["difference"], count + 1.0)
    if len(pairs) < 10:
        return None
    before, after = (total([pair[side] for pair in pairs]) / len(pairs) for side in (0, 1))
    both, squares = 0.0, [0.0, 0.0]
    for predicted, found in pairs:
        both += (predicted - before) * (found - after)
        squares[0] += (predicted - before) * (predicted - before)
        squares[1] += (found - after) * (found - after)
    scale = math.sqrt(squares[0] * squares[1])
    return {"rho": both / scale, "samples": len(pairs)} if scale > 0 else None


# Admission


def check_admission(admission):
    """That the stages are in order, that none follows one which ended admission, and the outcome."""
    stages = [STAGES.index(finding["stage"]) for finding in admission["findings"]]
    require(stages == sorted(stages), "findings are not in the order of the stages")
    words = [finding["finding"] for finding in admission["findings"]]
    ends = [stage for stage, word in zip(stages, words) if word in ("rejected", "unverified")]
    require(not ends or ends[0] == stages[-1], "a stage follows one that ended admission")
    outcome = "forfeit" if "rejected" in words else "void" if "unverified" in words else "admitted"
    require(admission["outcome"] == outcome, "the outcome does not follow from the findings")
    for finding in admission["findings"]:
        told = finding["finding"] == "unverified" and finding["evidence"] is not None
        require(not told, "what could not be found out belongs into the journal")


def check_forfeit(lines, format, blobs):
    """The record of a submission that was not admitted: two lines, no plan and no texts."""
    require(format >= 3 and len(lines) == 2 and not blobs, "no record of a forfeit")
    check_admission(lines[1]["admission"])
    require(lines[1]["admission"]["outcome"] == "forfeit", "the submission does not forfeit")


# The plan


def check_plan(plan, format, origin):
    PLAN(plan)
    older = not any(key in plan for key in ("behaviour", "call_tries", "admission"))
    older = older and not any("offline" in judge for judge in plan["judges"])
    if format < 3:
        require(older and "version" in plan, "the plan is not of its format")
        require(not any(key in plan for key in ("rule_version", "effect_prior")), "the plan is not of its format")
    else:
        require(origin.get("line") == "origin" and origin["builds"], "no build ran the duel")
        builds = list(map(canonical, origin["builds"]))
        require(len(set(builds)) == len(builds), "a build is named twice")
        newer = "version" not in plan and "behaviour" in plan and "call_tries" in plan
        require(newer or ("version" in plan and older and "unchained" in origin), "the plan is of no format")
    if format < 2:
        watched = any("watched" in judge for judge in plan["judges"])
        require("canaries" not in plan and not watched, "canaries are not of its format")
    version = plan.get("rule_version", 1)
    require(version in (1, 2), "no such version of the rules")
    makes_twins = any("twins" in judge for judge in plan["judges"])
    require(("twins" in plan) == makes_twins, "twins that no judge makes")
    if makes_twins:
        require(format >= 3 and version > 1 and plan["twins"]["share"] > 0, "no such twins")
    if version == 1:
        scores = any("reference_scores" in judge for judge in plan["judges"])
        require(not scores and "effect_prior" not in plan, "the plan is not of its version of the rules")
    if "effect_prior" in plan:
        require(plan["effect_prior"]["duels"] >= 10 and 0 <= plan["effect_prior"]["sd"] <= 100, "no such prior")
    if "admission" in plan:
        check_admission(plan["admission"])
        require(plan["admission"]["outcome"] == "admitted", "the challenger is not admitted")
        for screened, side in (("king", "king"), ("submission", "challenger")):
            parameters = plan[side]["model"]["parameters"]
            screened = plan["admission"][screened].get("parameters", parameters)
            require(screened == parameters, "another model was screened")
    generation, rule, alpha = plan["generation"], plan["rule"], alpha_of(plan)
    require(1 <= plan["samples"] <= 1_000_000, "no such number of samples")
    require(0 < generation["max_new_tokens"] < plan["context_tokens"], "the context leaves no room")
    for side in ("king", "challenger"):
        require(plan["context_tokens"] <= plan[side]["model"]["context_length"], "the context is longer than a model's")
    require(0 <= plan["panel"]["max_missing"] <= 1, "max_missing")
    require(plan.get("call_tries", 1) > 0, "call_tries")
    require(1e-100 < alpha < 0.5, "alpha")
    require("standalone" in plan["terms"] or plan["terms"]["reign"]["attempt"] > 0, "attempt")
    sampling = generation["sampling"]
    require(sampling["temperature"] >= 0 and 0 < sampling["top_p"] <= 1, "sampling")
    require(0 <= rule["win_margin"] <= 100, "win_margin")
    samples = plan["samples"]
    if rule["name"] in ("sequential", "fixed"):
        require(0 <= rule["null_margin"] < 100, "null_margin")
        bets, wealth, scale = Bets(), Wealth(), scale_of(alpha, samples)
        for _ in range(samples):
            wealth.multiply(1.0 + bets.next(scale) * above(1.0, rule["null_margin"] / 100.0))
            bets.observe(1.0)
            if wealth.reaches(1.0 / alpha):
                break
        else:
            raise Refused("the cap is too low")
    if rule["name"] == "sequential" and "reign" in plan["terms"]:
        cap = math.ceil((512.0 * math.log(alpha) / math.log(0.01) - 1e-9) / 4.0) * 4
        require(samples == cap, "a reign has another cap")
    if rule["name"] == "margin-lcb":
        require(0 < rule["alpha"] < 0.5 and 100 <= rule["resamples"] <= 1_000_000, "the rule's constants")
        require(rule["resamples"] * samples <= 1_000_000_000, "deciding would take too long")
    require(plan["looks"] == looks_of(rule, samples), "looks")
    require(plan["judges"], "no judge")
    identities = [canonical(judge["identity"]) for judge in plan["judges"]]
    require(len(set(identities)) == len(identities), "a judge is on the panel twice")
    for judge in plan["judges"]:
        places = list(map(METRICS.index, judge["metrics"]))
        require(places and all(a < b for a, b in zip(places, places[1:])), "a judge's metrics")
        if "offline" in judge:
            require(digest_of(judge["offline"]["settings"]) == judge["identity"]["config"], "a judge's settings")
    watched = [judge["identity"] for judge in plan["judges"] if "watched" in judge]
    if "canaries" not in plan:
        require(not watched, "a judge is watched without canaries")
        return version
    settings, preflight = plan["canaries"]["settings"], plan["canaries"]["preflight"]["judges"]
    require(all(settings.values()), "canaries of number 0")
    passed = [judge["judge"] for judge in preflight if all(outcome == "passed" for outcome in judge["outcomes"])]
    require(watched == passed, "the panel is not what the preflight left")
    require(len(plan["judges"]) >= settings["quorum"], "the quorum")
    require(all(len(judge["outcomes"]) == settings["preflight"] for judge in preflight), "the preflight")
    return version


# The walk through the lines


class Draws:
    def __init__(self, plan):
        self.plan, self.seen, self.samples = plan, set(), 0
        if plan["sampler"] == "row-draw":
            self.stream = Stream(derive("row draw", [seed_bytes(plan["seed"])]), 2)
        else:
            self.rows, self.left = random.Random(entropy_of(plan)), 4 * plan["samples"]
            self.turns = random.Random(entropy_of(plan))
            for _ in range(self.left):
                self.turns.random()

    def check(self, draw):
        require(self.samples < self.plan["samples"], "a row draw after the last sample")
        rows, py = self.plan["tasks"]["rows"], self.plan["sampler"] == "albedo-py"
        if py:
            require(self.left > 0, "more row draws than the sampler makes")
            self.left -= 1
            row = int(self.rows.random() * rows)
        else:
            row = self.stream.below(rows)
        require(draw["row"] == row, "another row")
        turn = None
        if draw["turns"] > 0:
            turn = self.below(min(draw["turns"], 10)) if py else self.stream.below(draw["turns"])
        require(draw["turn"] == turn, "another turn")
        fact, room = draw["instance_id"], self.plan["context_tokens"] - self.plan["generation"]["max_new_tokens"]
        if py:
            fact = (draw["row"], draw["turn"])
        tokens, outcome = draw["prompt_tokens"], "sample"
        if turn is None:
            outcome = "no_turn"
        elif fact in self.seen:
            outcome = "repeated"
        elif tokens is not None and tokens > room:
            outcome = "too_long"
        require(draw["outcome"] == outcome, "another outcome")
        require(tokens is None or outcome in ("sample", "too_long"), "a discarded prompt is measured")
        if outcome == "sample":
            self.seen.add(fact)
            self.samples += 1
        return outcome == "sample"

    def below(self, bound):
        while True:
            value = self.turns.getrandbits(bound.bit_length())
            if value < bound:
                return value


class Walk:
    def __init__(self, lines, texts):
        require(lines and lines[0].get("line") == "header", "no header")
        self.lines, self.texts, self.format = lines, texts, lines[0]["format"]
        require(len(lines) > 2 and lines[1].get("line") == "plan", "no plan")
        self.plan = lines[1]["plan"]
        self.version = check_plan(self.plan, self.format, lines[2])
        self.next = 2 if self.format < 3 else 3
        self.secret = hmac.digest(seed_bytes(self.plan["seed"]), b"albedo judgement secret 1", "sha256")
        self.plan_digest = hashlib.sha256(written(self.plan)).digest()
        self.draws, self.void = Draws(self.plan), [False] * len(self.plan["judges"])
        self.overflows, self.outage = {"king": 0, "challenger": 0}, False

    def line(self, kind=None):
        require(self.next < len(self.lines), "the record ends before its verdict")
        line = self.lines[self.next]
        self.next += 1
        require(kind is None or line["line"] == kind, f"a line is not the {kind} that comes next")
        return line

    def verify(self):
        decider, index = Decider(self.plan, self.version), 0
        while True:
            cluster = self.sample(index)
            decided = decider.consume(cluster)
            self.outage = self.outage or any(cause(cell) == "outage" for cell in cluster["cells"])
            over = decided is not None and decided[0] != ("king_holds", "not_shown")
            require(not (self.outage and not over and decider.disputed()), "a win is disputed for an outage")
            if decided:
                break
            index += 1
        verdict = verdict_of(self.plan, self.version, decider.clusters, self.overflows, *decided)
        require(canonical(self.line("verdict")) == canonical(verdict), "the verdict does not follow")
        require(verdict["outcome"] != "void", "a void duel has no record")
        require(self.next == len(self.lines), "a line after the verdict")
        return verdict

    def sample(self, index):
        if "canaries" in self.plan:
            every = self.plan["canaries"]["settings"]["every"]
            if index > 0 and index % every == 0:
                self.canary(index // every - 1)
        while not self.draws.check(self.line("draw")):
            pass
        sample = self.line("sample")
        require(sample["sample"] == index, "another sample")
        messages = parse(self.texts[sample["messages"]["sha256"]])
        many(fields({"content": text, "role": one_of("system", "user", "assistant", "tool")}))(messages)
        require(written(messages) == self.texts[sample["messages"]["sha256"]], "a conversation is not canonical")
        replies = [self.reply(index, side) for side in ("king", "challenger")]
        kinds = [next(iter(reply)) for reply in replies]
        for side, kind in zip(("king", "challenger"), kinds):
            self.overflows[side] += kind == "overflowed"
        unjudged = {
            ("overflowed", "overflowed"): 0.0, ("overflowed", "completed"): 1.0, ("completed", "overflowed"): -1.0,
        }.get(tuple(kinds))
        pair = kinds == ["completed", "completed"]
        same = pair and self.version > 1 and all(
            replies[0]["completed"][key] == replies[1]["completed"][key] for key in ("text", "finish")
        )
        cells, twins = [], []
        for place, judge in enumerate(self.plan["judges"]):
            replied = "missing" if not pair else "same" if same and "reference_scores" not in judge else "pair"
            self.preparation(index, place, replied)
            compared = self.twins(index, place, judge, replied)
            answers = [
                self.answer((0, index), place, order, judge, replied) for order in ("king_first", "challenger_first")
            ]
            asked = any(type(answer) is dict and "answered" in answer for answer in answers)
            if replied == "pair" and asked and draws(self.plan, judge, index):
                require(len(compared) == 2, "a reply of a drawn sample has no twin")
            twins += compared
            probes = self.probes(index, place, answers)
            self.likelihood(judge, replies, answers)
            if unjudged is not None:
                cells.append(scored({metric: unjudged for metric in judge["metrics"]}))
            else:
                cells.append(cell_of(self.version, judge["metrics"], answers, probes))
        difference = reduce(self.plan["panel"]["reducer"], list(map(cell_difference, cells)))
        cluster = {"line": "cluster", "sample": index, "cells": cells, "difference": difference}
        if self.version > 1 and sample["repo"]:
            cluster["stratum"] = sample["repo"]
        if twins:
            cluster["twins"] = twins
        require(canonical(self.line("cluster")) == canonical(cluster), "the cluster does not follow")
        return cluster

    def reply(self, index, side):
        line = self.line("reply")
        require((line["sample"], line["side"]) == (index, side), "another reply")
        reply = line["reply"]
        require("overflowed" not in reply or self.format >= 3, "overflows are not of its format")
        if "tokens" in reply.get("completed", {}):
            require(self.format >= 3, "tokens are not of its format")
            tokens, count = reply["completed"]["tokens"], reply["completed"].get("completion_tokens")
            require(len(tokens["ids"]) == len(tokens.get("logit_gaps", tokens["ids"])) == count, "other tokens")
        return reply

    def preparation(self, index, place, replied):
        if self.next < len(self.lines) and self.lines[self.next]["line"] == "preparation":
            line = self.line()
            require((line["sample"], line["judge"]) == (index, place), "another preparation")
            require(replied == "pair" and self.format >= 2, "a preparation for nothing")

    def twins(self, index, place, judge, replied):
        cells, sides = [], ["king", "challenger"]
        while self.next < len(self.lines) and self.lines[self.next]["line"] == "twin":
            line = self.line()
            require((line["sample"], line["judge"]) == (index, place), "another twin")
            require(line["side"] in sides, "twins out of order")
            del sides[: sides.index(line["side"]) + 1]
            planned = "twins" in self.plan and "twins" in judge and replied == "pair" and not self.void[place]
            require(planned, "a twin that is not planned")
            drawn = draws(self.plan, judge, index)
            require(("drawn" in line) == drawn and (drawn or "text" in line), "another draw of twins")
            answers = None
            if "text" in line:
                question = (5 if line["side"] == "king" else 6, index)
                answers = [
                    self.answer(question, place, order, judge, replied) for order in ("king_first", "challenger_first")
                ]
            cells.append(twin_cell(judge, place, line, answers))
        return cells

    def probes(self, index, place, answers):
        found = None
        if self.next < len(self.lines) and self.lines[self.next]["line"] == "probes":
            line = self.line()
            require((line["sample"], line["judge"]) == (index, place) and self.version > 1, "other probes")
            found = line["probes"]
        if self.version > 1:
            lack = lack_of(answers)
            needed = lack in ("abstained", "unreadable", "refused")
            require(needed == (found is not None), "probes are missing, or not called for")
            if needed:
                sides = lack == "refused" and found["neutral"] == "scored"
                require(sides == ("sides" in found), "probes of the sides are missing, or not called for")
        return found

    def canary(self, number):
        draw = self.line("canary")
        kinds = ["constant", "injected", "self-pair", "swapped"]
        require(draw["canary"] == number and draw["kind"] == kinds[number % 4], "another canary")
        require(draw["skipped"] < 10_000 and draw["turns"] > 0, "no such canary")
        stream = Stream(derive("canary", [seed_bytes(self.plan["seed"]), number.to_bytes(4, "little")]), 2)
        rows = [stream.below(self.plan["tasks"]["rows"]) for _ in range(draw["skipped"] + 1)]
        require((rows[-1], stream.below(draw["turns"])) == (draw["row"], draw["turn"]), "another canary's row")
        for place, judge in enumerate(self.plan["judges"]):
            if "watched" not in judge:
                continue
            answers = [
                self.answer((1, number), place, order, judge, "pair") for order in ("king_first", "challenger_first")
            ]
            cell = plain_cell(judge["metrics"], answers)
            if cell == "missing":
                continue
            lead = -cell_difference(cell)
            first, second = (
                total([scores_of(answer)[metric] for metric in judge["metrics"]]) / len(judge["metrics"])
                for answer in answers
            )
            passed = {
                "constant": lead > 0, "injected": lead >= 0, "self-pair": abs(lead) <= 0.5,
                "swapped": first > 0.5 and second < 0.5,
            }[draw["kind"]]
            self.void[place] = self.void[place] or not passed

    def answer(self, question, place, order, judge, replied):
        kind = {0: "assessment", 1: "canary_assessment"}.get(question[0], "twin_assessment")
        line = self.line(kind)
        of = line["canary"] if question[0] == 1 else line["sample"]
        if question[0] > 1:
            require(line["side"] == ("king" if question[0] == 5 else "challenger"), "another side's twin")
        require((of, line["judge"], line["order"]) == (question[1], place, order), "another answer")
        answer, asked = line["answer"], line.get("asked", 1)
        require(line.get("asked") != 1, "1 is left out")
        found = answer.get("answered") if type(answer) is dict else None
        if found and "evidence" in found:
            require(self.format >= 2, "evidence is not of its format")
            if "nonce" in found["evidence"] and found["outcome"] == "scored":
                message = b"nonce" + self.plan_digest + bytes([question[0]]) + question[1].to_bytes(4, "little")
                message += hashlib.sha256(written(judge["identity"])).digest()
                message += bytes([order == "challenger_first"]) + asked.to_bytes(4, "little")
                nonce = hmac.digest(self.secret, message, "sha256").hex()[:12]
                require(found["evidence"]["nonce"] == nonce, "another nonce")
        if self.void[place]:
            require(answer == "void" and asked == 1, "a judge that failed a canary is listened to")
            return answer
        require(answer != "void", "a judge is void that failed no canary")
        require(asked > 0 and (asked == 1 or self.format >= 2), "no such answer")
        if found and found["outcome"] == "unreadable":
            require(asked >= self.plan.get("call_tries", 0), "a judge was not asked again")
        if answer == "identical":
            require(replied == "same" and asked == 1, "other replies are not identical")
            return answer
        require(replied != "same", "a judge was asked about identical replies")
        if found is None:
            require(("kind" in answer["missing"]) == (replied == "pair"), "missing for no reason")
            return answer
        require(replied == "pair", "an answer without a pair")
        if found["outcome"] == "scored":
            require(set(found["scores"]) == set(judge["metrics"]), "other metrics")
        return answer

    def likelihood(self, judge, replies, answers):
        """What `reference-likelihood` says of the recorded log-probabilities."""
        if judge["identity"]["name"] != "reference-likelihood" or "offline" not in judge:
            return
        if any("completed" not in reply for reply in replies) or "identical" in answers:
            return
        scores = [reply["completed"].get("reference_scores", {}).get("log_probs") for reply in replies]
        if any(not score for score in scores) or len(scores[0]) != len(scores[1]):
            require(all(scores_of(answer) is None for answer in answers), "a score without log-probabilities")
            return
        king, challenger = (total(score) / len(score) for score in scores)
        for lead, answer in ((king - challenger, answers[0]), (challenger - king, answers[1])):
            better = rounded(math.tanh(abs(lead) / judge["offline"]["settings"]["scale"] / 2.0), 2.0**32)
            expected = 0.5 + (better if lead >= 0 else -better) / 2.0
            given = scores_of(answer)
            require(given is not None and given["correctness"] == expected, "another likelihood score")


# The files


def read(folder, name):
    path = os.path.join(folder, name)
    require(os.path.isfile(path), f"{name} is not a regular file")
    require(os.path.getsize(path) <= LIMITS[name], f"{name} is too large")
    with open(path, "rb") as file:
        return file.read()


def read_blobs(data):
    texts, start = [], 0
    while start < len(data):
        end = data.find(b"\n", start)
        head = re.fullmatch(rb"([0-9a-f]{64}) (0|[1-9][0-9]*)", data[start:end] if end >= 0 else b"")
        require(head is not None, "a blob has no head")
        length = int(head[2])
        body = data[end + 1 : end + 1 + length]
        require(data[end + 1 + length : end + 2 + length] == b"\n", "a blob is cut short")
        require(sha256(body) == head[1].decode(), "a blob has another digest")
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("a blob is not UTF-8") from None
        texts.append((head[1].decode(), body))
        start = end + 2 + length
    return texts


def verify(folder):
    stated, data, blobs = (read(folder, name) for name in LIMITS)
    found = re.fullmatch(
        rb"([0-9a-f]{64})\nalbedo record ([0-9]+)\n([0-9a-f]{64})  record.jsonl\n([0-9a-f]{64})  record.blobs\n", stated
    )
    require(found is not None and 1 <= int(found[2]) <= 3, "record.digest")
    require(sha256(stated.split(b"\n", 1)[1]).encode() == found[1], "record.digest")
    require(sha256(data).encode() == found[3] and sha256(blobs).encode() == found[4], "a file has another digest")
    require(data.endswith(b"\n"), "the last line has no end")
    lines = []
    for number, line in enumerate(data[:-1].split(b"\n"), 1):
        require(len(line) <= MAX_LINE, "a line is too long")
        try:
            value = parse(line)
            LINE(value)
            require(written(value) == line, "a line is not canonical")
        except (Refused, UnicodeEncodeError) as error:
            raise Refused(f"line {number}: {error}") from None
        lines.append(value)
    require(lines[0] == {"line": "header", "format": int(found[2])}, "the header has another format")
    if len(lines) > 1 and lines[1]["line"] == "forfeit":
        check_forfeit(lines, int(found[2]), blobs)
        return found[1].decode(), None
    texts, named = read_blobs(blobs), []
    for line in lines:
        references = []
        if line["line"] == "sample":
            references = [line["messages"], line["reference"]]
        elif line["line"] == "twin" and "text" in line:
            references = [line["text"]]
        elif line["line"] == "reply" and "completed" in line["reply"]:
            references = [line["reply"]["completed"]["text"]]
        named += references
    unique = list(dict.fromkeys((ref["sha256"], ref["bytes"]) for ref in named))
    require(unique == [(name, len(body)) for name, body in texts], "texts are not those that lines name")
    return found[1].decode(), Walk(lines, dict(texts)).verify()


def names(check):
    """The fields that `check` knows, each a path of names."""
    for name, inner in getattr(check, "holds", [(None, None)]):
        for rest in names(inner) if hasattr(inner, "holds") else [()]:
            yield (() if name is None else (name,)) + rest


def print_fields():
    for kind, check in LINES.items():
        for path in sorted(set(names(check))):
            print(".".join((kind, *path)))


def main():
    if sys.argv[1:] == ["--fields"]:
        print_fields()
        return 0
    refused = 0
    for folder in sys.argv[1:]:
        try:
            root, verdict = verify(folder)
            came_to = "forfeit, not admitted"
            if verdict is not None:
                came_to = f"{verdict['outcome']} {verdict['margin']:+.2f} after {verdict['samples']}"
            print(f"verified {root} {came_to}: {folder}")
        except (Refused, OSError, KeyError, IndexError, ValueError, OverflowError) as error:
            refused += 1
            print(f"refused {folder}: {error}")
    return 1 if refused or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
