"""Which quantized models ``picual optimize`` tries: as few as decide, since each takes minutes.

A size is met by one: ``quantize`` solves for it. A limit on quality or time has to be measured on what is
deployed, so a row of sizes is tried, halved at each trial: what is smaller is faster and farther from the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.graph.skeleton import is_known
from picual.recipe.fields import is_search
from picual.recipe.wish import Wish

# Shares of the largest divergence that weights are chosen for. On a 135M model 0.98 to 1.04 times what was
# predicted was measured on text like the calibration's, 2.2 times on other text, so the row reaches down.
SHARES = (1.4, 1.1, 0.9, 0.7, 0.5, 0.35, 0.2)
WIDTHS = (4.75, 5.0, 5.5, 6.0, 6.5, 7.25, 8.0)  # bits a weight, scales and all, from the smallest formats to int8
SIZES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of the largest
ENOUGH_TEXT = 32_000  # bytes of data, for half of the 8192 tokens that calibration looks at


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is tried.

    Attributes:
        steps: Fields by pass, some of them open.
        reasons: Why it is these.
        sampler: None: by the space.
    """

    steps: Mapping[str, Mapping[str, Any]]
    reasons: Sequence[str]
    sampler: str | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        domains = [one["search"] for fields in self.steps.values() for one in fields.values() if is_search(one)]
        return math.prod(map(len, domains))


def candidates(wish: Wish) -> Candidates:
    """Return what is tried for a wish."""
    if wish.precision in {"fp16", "fp32"}:
        why = f"build-genai: weights as {wish.precision} leave nothing to choose"
        return Candidates(steps={"build-genai": {"precision": wish.precision}}, reasons=[why])
    if not _takes_integers(wish.model):
        return _rounded_in_export(wish)
    fields, sampler, reasons = _wide(wish) if wish.precision == "int8" else _mixed(wish)
    reasons.append("build-genai: keeps the integers of `quantize` as they are")
    return Candidates(steps={"quantize": fields, "build-genai": {}}, reasons=reasons, sampler=sampler)


Choice = tuple[dict[str, Any], str | None, list[str]]  # fields of `quantize`, sampler, reasons


def _mixed(wish: Wish) -> Choice:
    """Return formats of 4 and 8 bits: those of one size, or a row of sizes."""
    fields, reasons = _calibration(wish)
    if wish.goal != "quality" and not wish.is_near:
        fields |= {"head": "int4", "block": {"search": [64, 128]}}
        reasons.append("quantize: no limit asks for quality, so weights and head have 4 bits in wide blocks")
        return fields, None, reasons
    if wish.bytes is not None:
        fields["max_size"] = _size(wish.bytes)
        reasons.append("quantize: chooses bits and blocks of each layer so that the whole fills the size best")
    if wish.goal == "quality" and wish.max_latency is None:
        if wish.bytes is not None:
            return fields, None, reasons
        if wish.max_size is None:
            return {**fields, **_plain(wish, reasons)}, None, reasons
    name, values = _row(wish)
    fields[name] = {"search": values}
    if wish.max_latency is not None and wish.is_near:
        reasons.append(f"quantize: all of {len(values)} sizes, since one limit asks for less and another for more")
        return fields, None, reasons
    reasons.append(
        f"quantize: {len(values)} sizes, halved at each trial: the smaller, the faster and farther from the model"
    )
    return fields, "bisect", reasons


def _row(wish: Wish) -> tuple[str, list[Any]]:
    """Return a field of ``quantize`` and its values, what the goal likes best first."""
    if wish.goal == "quality":
        if wish.bytes is not None:
            return "max_size", [_size(round(share * wish.bytes)) for share in SIZES]
        return "bits_per_weight", list(reversed(WIDTHS))
    if wish.max_kl is not None and wish.min_accuracy is None and wish.max_latency is None:
        return "max_kl", [float(f"{share * wish.max_kl:.3g}") for share in SHARES]
    return "bits_per_weight", list(WIDTHS)


def _plain(wish: Wish, reasons: list[str]) -> dict[str, Any]:
    """Return what bits to take where nothing limits the size."""
    if wish.precision is None or wish.is_near:
        reasons.append("quantize: 4 bits, and 8, since nothing limits the size")
        return {"bits": {"search": [4, 8]}}
    reasons.append("quantize: 4 bits in the smallest blocks that pay, the head in 8: nothing limits the size")
    return {"bits": 4}


def _wide(wish: Wish) -> Choice:
    """Return 8 bits everywhere."""
    fields: dict[str, Any] = {"bits": 8, "effort": "fast"}
    reasons = ["quantize: 8 bits lose so little that no text is looked at"]
    if wish.max_size is not None or wish.max_latency is not None or wish.goal != "quality":
        fields["block"] = {"search": [32, 64, 128]}
        reasons.append("quantize: smaller blocks keep more of the model, larger ones save bytes")
    return fields, None, reasons


def _calibration(wish: Wish) -> tuple[dict[str, Any], list[str]]:
    files = [Path(str(file)) for file in wish.data.get("files", ())]
    if sum(file.stat().st_size for file in files if file.is_file()) >= ENOUGH_TEXT:
        return {"data": "data"}, ["quantize: looks at your data to see which errors matter; it learns no answer"]
    asked = "your data are short" if files else "no data were given"
    return {}, [f"quantize: looks at built-in text, since {asked}; text like what the model will read is better"]


def _rounded_in_export(wish: Wish) -> Candidates:
    """Return blocks, zero points and widths of the head for networks that take no integers from elsewhere."""
    reasons = [
        "build-genai: rounds by itself, since this network's graph takes no integers of `quantize`",
        "build-genai: smaller blocks and zero points keep more of the model, larger and none save bytes",
    ]
    fields: dict[str, Any] = {
        "precision": wish.precision or {"search": ["int4", "int8"]},
        "block": {"search": [32, 64, 128]},
        "symmetric": {"search": [False, True]},
    }
    if wish.precision != "int8":
        fields["head"] = {"search": ["int8", "int4"]}
        reasons.append(
            "build-genai: the head is the largest matrix of a small model, so its width is tried both ways"
        )
    return Candidates(steps={"build-genai": fields}, reasons=reasons)


def _takes_integers(model: str | Mapping[str, Any]) -> bool:
    """Say whether a graph can be made for it that takes a quantized checkpoint; of what is not here, assumed."""
    folder = Path(str(model.get("uri", "")) if isinstance(model, Mapping) else model)
    for config in (folder / "config.json", folder / "model" / "config.json"):
        if config.is_file():
            return is_known(str(json.loads(config.read_text(encoding="utf-8")).get("model_type", "")))
    return True


def _size(count: int) -> str:
    return f"{count / 1e6:.12g}MB"
