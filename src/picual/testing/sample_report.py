"""A report of a search, made up but whole: every section of the page has something to show.

For tests of what is made of a report, and for the screenshot in the docs. The numbers are of no model.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

LABELS = ["joy", "sadness", "fear", "surprise"]
RECIPE = """\
version: 1
model: smollm2-135m
data:
  tone:
    files: tone.jsonl
    prompt: "Phrase: {phrase}\\nTone:"
    response: " {tone}<|im_end|>"
    holdout: 0.2
passes:
  lora:
    data: tone
    rank: {search: [8, 16, 32]}
    training: {max_steps: {search: [60, 120]}}
  merge-adapter: {}
  build-genai:
    precision: int4
    block: {search: [32, 64, 128]}
    lm_head: {search: [int4, int8]}
metrics:
  accuracy: {data: tone, expect: "{tone}"}
  divergence: {file: text.txt}
  latency: {}
  size: {}
search:
  objectives: [{minimize: divergence}, {maximize: accuracy}]
  subject_to: {accuracy: ">= 0.94 * unquantized", size: "<= 115MB"}
  trials: 20
output: out
"""


def sample_report(*, trials: int = 20, fits: bool = True) -> dict[str, Any]:
    """Return the report of a search.

    Args:
        trials: How many candidates were tried.
        fits: Whether any of them kept the limits.
    """
    limit = 115.0 if fits else 90.0
    tried = _trials(trials, limit)
    winner = next((trial for trial in tried if trial["rank"] == 1), tried[0])
    unquantized = _stage(accuracy=0.883, size=538.1, ms=35.8, kl=0.0, ppl=44.9, seed=1)
    return {
        "version": 1,
        "verdict": "verified" if fits else "NothingFits",
        "error": None if fits else {
            "error": "NothingFits", "what": f"no candidate met the limits ({trials} tried)",
            "where": "recipe.yaml:27", "hint": "raise the limit, or let the search try `lm_head: int4`",
        },
        "created": "2026-11-24T09:41:07+00:00",
        "seconds": 1312.4,
        "recipe": "recipe.yaml",
        "recipe_text": RECIPE.replace("115MB", f"{limit:.0f}MB"),
        "output": "/home/ada/tone/out",
        "model": "/home/ada/tone/out/model" if fits else None,
        "measures": {
            "accuracy": {"type": "accuracy", "key": "accuracy", "unit": "", "higher_is_better": True},
            "divergence": {"type": "divergence", "key": "kl", "unit": "nats", "higher_is_better": False},
            "latency": {"type": "latency", "key": "ms_per_token", "unit": "ms", "higher_is_better": False},
            "size": {"type": "size", "key": "size_mb", "unit": "MB", "higher_is_better": False},
        },
        "baseline": _stage(accuracy=0.021, size=538.1, ms=35.9, kl=1.94, ppl=23.4, seed=2),
        "unquantized": unquantized,
        "best": winner["metrics"] | _classes(winner["metrics"], seed=3),
        "data": {"bag-of-words": {"accuracy": 0.4813, "low": 0.4187, "high": 0.5445, "count": 240}},
        "search": _search(tried, winner, fits=fits),
        "trials": tried,
        "constraints": _constraints(winner, unquantized, limit),
        "steps": _steps(),
        "notes": [
            {"path": "passes.lora.config.double_quant", "kind": "ignored", "text": "there is nothing to quantize"},
            {"path": "passes.builder.config.metadata", "kind": "mapped", "text": "as it is"},
        ],
        "trust_remote_code": False,
        "environment": {
            "device": "cpu", "cores": 2, "memory_mb": 7815, "threads": 2, "seed": 0,
            "target": {"provider": "cpu", "device": "cpu"},
            "libraries": {
                "picual": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2",
                "onnxruntime": "1.32.0", "onnxruntime-genai": "0.18.0", "numpy": "2.4.6",
            },
        },
    }  # fmt: skip


def _stage(*, accuracy: float, size: float, ms: float, kl: float, ppl: float, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)  # made up numbers
    half = 1.96 * math.sqrt(max(accuracy * (1 - accuracy), 0.002) / 240)
    hits = "".join("1" if chance.random() < accuracy else "0" for _ in range(240))
    return {
        "accuracy": {
            "accuracy": accuracy, "count": 240, "correct": round(240 * accuracy), "macro_f1": accuracy * 0.985,
            "low": max(0.0, accuracy - half), "high": min(1.0, accuracy + half), "hits": hits,
            "intervals": {"accuracy": [max(0.0, accuracy - half), min(1.0, accuracy + half)]},
        },
        "divergence": {
            "kl": kl, "top1": max(0.2, 1 - 0.55 * math.sqrt(kl)), "perplexity": ppl, "tokens": 16368,
            "intervals": {"kl": [0.93 * kl, 1.07 * kl]},
        },
        "latency": {
            "ms_per_token": ms, "ttft_ms": 9.1 * ms, "tokens_per_s": 1000 / ms, "threads": 2, "prompt": 128,
            "new": 32, "repeats": 7, "intervals": {"ms_per_token": [0.985 * ms, 1.02 * ms]},
        },
        "size": {"size_mb": size},
    }  # fmt: skip


def _trials(count: int, limit: float) -> list[dict[str, Any]]:
    space = list(itertools.product([8, 16, 32], [60, 120], [32, 64, 128], ["int4", "int8"]))
    chance = random.Random(7)
    chosen = [space[index % len(space)] for index in chance.sample(range(max(count, len(space))), count)]
    made = [_trial(number, *settings, limit, chance) for number, settings in enumerate(chosen)]
    feasible = sorted((t for t in made if t["feasible"]), key=lambda t: t["metrics"]["divergence"]["kl"])
    rest = [t for t in made if not t["feasible"] and t["state"] != "failed"]
    rest.sort(key=lambda t: max(t["violations"].values(), default=9.0))
    for rank, trial in enumerate([*feasible, *rest], 1):
        trial["rank"] = rank
    for trial in feasible:
        trial["pareto"] = not any(_beats(other, trial) for other in feasible)
    for trial in feasible[:2]:
        trial["tied"] = len(feasible) > 1
    return made


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    mine, theirs = (
        (trial["metrics"]["divergence"]["kl"], -trial["metrics"]["accuracy"]["accuracy"]) for trial in (one, other)
    )
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _trial(
    number: int, rank: int, steps: int, block: int, head: str, limit: float, chance: random.Random
) -> dict[str, Any]:
    size = 97.2 + 12.4 * (32 / block) + (14.2 if head == "int8" else 0.0)
    kl = 0.105 + 0.05 * math.log2(block / 32) + (0.0 if head == "int8" else 0.062) + chance.uniform(-0.008, 0.008)
    right = round(
        240 * (0.80 + 0.02 * math.log2(rank / 4) + 0.02 * (steps == 120) - 0.10 * kl) + chance.gauss(0, 2)
    )
    trial: dict[str, Any] = {
        "number": number, "state": "complete", "feasible": False, "rank": None, "pareto": False, "tied": False,
        "candidate": {
            "lora.rank": rank, "lora.training.max_steps": steps, "build-genai.block": block,
            "build-genai.lm_head": head,
        },
        "metrics": _stage(accuracy=right / 240, size=size, ms=4.2 + size / 220, kl=kl, ppl=44.9 * math.exp(kl),
                          seed=number + 10),
        "violations": {"size.size_mb": size / limit - 1, "accuracy.accuracy": 0.83 / (right / 240) - 1},
        "why": "", "seconds": round(40 + rank + steps / 2 + chance.uniform(0, 9), 2),
        "keys": [f"{number:02x}{step}" * 8 for step in "abc"], "ran": chance.choice([1, 2, 3]),
    }  # fmt: skip
    if number in {4, 11, 17}:
        trial |= {"state": "failed", "metrics": {}, "violations": {}, "why": _failure(number)}
    elif size > limit * 1.04:
        trial |= {"state": "dropped", "why": f"size is forecast at {size:.1f} MB; the limit is {limit:.0f} MB"}
        trial["metrics"] = {"size": trial["metrics"]["size"]}
        trial["violations"] = {"size.size_mb": size / limit - 1}
    trial["feasible"] = trial["state"] == "complete" and all(v <= 0 for v in trial["violations"].values())
    return trial


def _failure(number: int) -> str:
    if number == 4:
        return "the worker of `build-genai` was killed (signal 9) at 6.9 GB"
    return "accuracy is not a number" if number == 11 else "the loss became infinite in step 31"


def _classes(metrics: dict[str, Any], seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    counts = [[chance.choice([0, 0, 1, 2, 4]) for _ in (*LABELS, "other")] for _ in LABELS]
    for place, row in enumerate(counts):
        row[place] = 60 - sum(row) + row[place]
    per_class = {}
    for place, label in enumerate(LABELS):
        column = sum(row[place] for row in counts)
        precision, recall = counts[place][place] / column, counts[place][place] / 60
        f1 = 2 * precision * recall / (precision + recall)
        per_class[label] = {"precision": precision, "recall": recall, "f1": f1, "support": 60}
    example = {
        "prompt": "Phrase: </script><b>what, you here?</b>\nTone:",
        "expected": "surprise",
        "answer": "fear|joy",
    }
    accuracy = metrics.get("accuracy", {}) | {
        "confusion": {"labels": LABELS, "counts": counts}, "per_class": per_class, "examples": [example],
    }  # fmt: skip
    return {"accuracy": accuracy}


def _search(tried: list[dict[str, Any]], winner: dict[str, Any], *, fits: bool) -> dict[str, Any]:
    return {
        "sampler": "tpe",
        "seed": 0,
        "objectives": [
            {"metric": "divergence", "key": "kl", "direction": "minimize"},
            {"metric": "accuracy", "key": "accuracy", "direction": "maximize"},
        ],
        "space": {
            "lora.rank": {"choices": [8, 16, 32]},
            "lora.training.max_steps": {"choices": [60, 120]},
            "build-genai.block": {"choices": [32, 64, 128]},
            "build-genai.lm_head": {"choices": ["int4", "int8"]},
        },
        "candidates": 36,
        "asked": len(tried),
        "dropped": sum(trial["state"] == "dropped" for trial in tried),
        "failed": sum(trial["state"] == "failed" for trial in tried),
        "best": winner["number"] if fits else None,
        "closest": winner["number"],
        "tied": [trial["number"] for trial in tried if trial["tied"]] if fits else [],
        "stopped": f"{len(tried)} trials were asked for",
    }


def _constraints(winner: dict[str, Any], unquantized: dict[str, Any], limit: float) -> list[dict[str, Any]]:
    least = 0.94 * unquantized["accuracy"]["accuracy"]
    accuracy = winner["metrics"].get("accuracy", {}).get("accuracy")
    size = winner["metrics"]["size"]["size_mb"]
    return [
        {
            "metric": "accuracy", "key": "accuracy", "bound": ">= 0.94 * unquantized", "limit": least,
            "value": accuracy, "met": accuracy is not None and accuracy >= least,
            "gap": None if accuracy is None else least - accuracy,
        },
        {
            "metric": "size", "key": "size_mb", "bound": f"<= {limit:.0f}MB", "limit": limit, "value": size,
            "met": size <= limit, "gap": size - limit,
        },
    ]  # fmt: skip


def _steps() -> list[dict[str, Any]]:
    chance = random.Random(5)
    loss = [[step, 0.35 + 2.9 * math.exp(-step / 28) + chance.uniform(-0.09, 0.09)] for step in range(1, 121)]
    check = {"step": 10, "points": [[step, 0.42 + 2.8 * math.exp(-step / 30)] for step in range(10, 121, 10)]}
    rate = [[step, 8e-4 * min(1.0, step / 10) * (1 - step / 130)] for step in range(1, 121)]
    layers = [
        {
            "changed": f"model.layers.{layer}.{part}", "how": "int4, blocks of 32",
            "error": round(0.06 + 0.03 * chance.random() + 0.09 * (part == "mlp.down_proj" and layer > 26), 4),
        }
        for layer in range(30)
        for part in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    ]  # fmt: skip
    return [
        _step("lora", 3.1, 96.4, cached=False, peak=2210.5, metrics={"train_loss": 0.4129, "examples": 400},
              curves={"loss": loss, "eval_loss": check["points"], "learning_rate": rate},
              journal=[{"changed": "q_proj", "how": "30 layers, rank 16, alpha 32"},
                       {"note": "3 rows are longer than 128 tokens and were cut"}]),
        _step("merge-adapter", None, 8.2, cached=True, peak=1310.0, metrics={},
              journal=[{"changed": "q_proj", "how": "merged in 30 layers"}]),
        _step("build-genai", 99.6, 41.7, cached=False, peak=1894.2, metrics={"size_mb": 103.4},
              journal=[*layers, {"skipped": "model.embed_tokens", "why": "tied to the head"},
                       *({"skipped": f"model.layers.{n}.norm", "why": "not a matrix"} for n in range(30))]),
    ]  # fmt: skip


def _step(
    name: str, start: float | None, seconds: float, *, cached: bool, peak: float, **rest: Any
) -> dict[str, Any]:
    checks = [
        {"name": "weights", "passed": True, "measured": 0.4991, "bound": 0.5, "detail": "largest move, in steps"},
        {"name": "first choice", "passed": True, "measured": 0.981, "bound": 0.95, "detail": "of 512 tokens"},
    ]
    return {
        "name": name, "pass": name, "key": name[0] * 40, "seconds": seconds, "start": start, "cached": cached,
        "peak_rss_mb": peak, "peak_anonymous_mb": round(peak * 0.8, 1), "checks": checks, "curves": {}, **rest,
    }  # fmt: skip
