"""Does a folder in another format hold the very integers of the checkpoint it was written from.

Its own words are read: ``config.json`` says how each module is stored, and every code is taken out of its 32-bit
word by its place alone. Nothing is shared with what wrote it.

    code i of a row or column lies in bits  i * b ... i * b + b - 1  of the words one after another
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.models import HfCheckpoint, HfModel, Model, QuantizedHfModel, Stored
from picual.models.layout import HEAD, embedding_of
from picual.models.quantized_weights import StoredWeight, open_weight, unpacked
from picual.models.safetensors_file import TensorInfo
from picual.passes.base import IntegersKept

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ELEMENTS = 1 << 21  # looked at together
PARTS = {
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
}
MAPPED = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F16": "<f2"}


def check(promise: IntegersKept, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare every tensor of the folder with the source's, a few rows at a time."""
    assert isinstance(given, QuantizedHfModel)
    assert isinstance(made, HfModel)
    said = made.config().get("quantization_config") or {}
    method = said.get("quant_method")
    yield Check("packed-format", method == promise.format, detail=f"its config says {method!r}")
    if method != promise.format:
        return
    source, found = given.tensors(), shapes(made)
    wrong = sorted(set(source) ^ set(found)) + [n for n in source if n in found and source[n].shape != found[n]]
    yield Check("packed-tensors", not wrong, len(wrong), 0, some(wrong) if wrong else f"{len(found)} tensors")
    if wrong:
        return
    how, parts = given.stored(), made.tensors()
    floats = [name for name in how if name in parts]
    loose = [name for name in floats if name not in {HEAD, embedding_of(source)}]
    yield Check("packed-linears", not loose, len(loose), 0, f"floats: {some(loose)}" if loose else "")
    moved = [n for n in source if n not in how and (n not in parts or not _same(source[n], parts[n]))]
    yield Check("packed-others-unchanged", not moved, len(moved), 0, some(moved) if moved else "")
    off = [name for name in floats if not _on_its_grid(open_weight(given, name), parts[name])]
    yield Check("packed-floats", not off, len(off), 0, some(off) if off else f"{len(floats)} as floats")
    yield from _integers(given, made, [name for name in how if name not in parts], said, bench)


def shapes(made: HfCheckpoint) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a folder's weights under their plain names, packed or not."""
    said = made.config().get("quantization_config") or {}
    method = str(said.get("quant_method", ""))
    parts = made.tensors()
    found: dict[str, tuple[int, ...]] = {}
    for name, info in parts.items():
        module, _, kind = name.rpartition(".")
        if method == "compressed-tensors" and kind == "weight_packed" and f"{module}.weight_shape" in parts:
            height, width = (int(size) for size in _mapped(parts[f"{module}.weight_shape"]))
            found[f"{module}.weight"] = (height, width)
        elif method == "gptq" and kind == "qweight" and f"{module}.g_idx" in parts:
            found[f"{module}.weight"] = (info.shape[1], *parts[f"{module}.g_idx"].shape)
        elif not (kind in PARTS.get(method, ()) and _has_words(parts, module)):
            found[name] = info.shape
    return found


def _has_words(parts: Mapping[str, TensorInfo], module: str) -> bool:
    return f"{module}.weight_packed" in parts or f"{module}.qweight" in parts


@dataclass
class _Found:
    ways: list[str]
    integers: list[str]
    zeros: list[str]
    scales: list[str]


def _integers(
    given: QuantizedHfModel, made: HfModel, names: list[str], said: Mapping[str, Any], bench: Bench
) -> Iterator[Check]:
    found = _Found([], [], [], [])
    parts = made.tensors()
    read = _gptq if said["quant_method"] == "gptq" else _compressed_tensors
    way_of = _gptq_way if said["quant_method"] == "gptq" else _compressed_tensors_way
    for number, name in enumerate(names):
        bench.progress(number, len(names), name)
        weight, module = open_weight(given, name), name.removesuffix(".weight")
        way = (weight.how.bits, weight.how.block, weight.how.symmetric)
        if way_of(said, module) != way or not _fit(parts, module, weight.how, str(said["quant_method"])):
            found.ways.append(name)
            continue
        _compare(weight, *read(parts, module, weight.how, said), name, found)
    total = len(names)
    for title, wrong in (
        ("packed-described", found.ways), ("packed-integers", found.integers), ("packed-zero-points", found.zeros),
        ("packed-scales", found.scales),
    ):  # fmt: skip
        detail = f"{len(wrong)} of {total}: {some(wrong)}" if wrong else f"{total} weights"
        yield Check(title, not wrong, len(wrong), 0, detail)


def _compare(
    weight: StoredWeight, codes: _Words, zeros: npt.NDArray[Any], scales: npt.NDArray[Any], name: str,
    found: _Found,
) -> None:  # fmt: skip
    """Compare codes a few rows at a time; zero points (N, B) and scales (N, B) at once."""
    import numpy as np

    height, width = weight.how.shape
    step = max(1, ELEMENTS // width)
    ranges = [(start, min(start + step, height)) for start in range(0, height, step)]
    expected = (unpacked(weight.codes[start:stop], weight.how.bits)[:, :width] for start, stop in ranges)
    pairs = zip(expected, (codes.rows(start, stop) for start, stop in ranges), strict=True)
    if not all(np.array_equal(mine, theirs) for mine, theirs in pairs):
        found.integers.append(name)
    own: Any = 2 ** (weight.how.bits - 1)
    if weight.zero_points is not None:
        own = unpacked(weight.zero_points, weight.how.bits)[:, : weight.scales.shape[1]]
    if not np.array_equal(np.broadcast_to(own, zeros.shape), zeros):
        found.zeros.append(name)
    with np.errstate(over="ignore", under="ignore"):
        wanted = weight.scales.astype(scales.dtype)
    if not (np.isfinite(scales).all() and np.array_equal(wanted, scales)):
        found.scales.append(name)


@dataclass(frozen=True)
class _Words:
    """Codes (N, K) in words, along the rows or the columns of ``words``."""

    words: npt.NDArray[np.int32]
    bits: int
    width: int
    down: bool

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the codes of some rows."""
        part = self.words[:, start:stop].T if self.down else self.words[start:stop]
        return _taken_out(part, self.bits, self.width)


def _taken_out(words: npt.NDArray[np.int32], bits: int, count: int) -> npt.NDArray[np.int64]:
    """Return the first ``count`` codes of each row of words."""
    import numpy as np

    first_bit = np.arange(count) * bits
    moved: npt.NDArray[np.int64] = words[:, first_bit // 32].astype(np.int64) >> (first_bit % 32)
    return moved & np.int64(2**bits - 1)


def _compressed_tensors_way(said: Mapping[str, Any], module: str) -> tuple[int, int, bool] | None:
    for group in said.get("config_groups", {}).values():
        if module in group["targets"] and module not in said.get("ignore", ()):
            weights = group["weights"]
            return int(weights["num_bits"]), int(weights["group_size"]), bool(weights["symmetric"])
    return None


def _compressed_tensors(
    parts: Mapping[str, TensorInfo], module: str, how: Stored, _said: Mapping[str, Any]
) -> tuple[_Words, npt.NDArray[Any], npt.NDArray[Any]]:
    import numpy as np

    height, width = how.shape
    scales = _mapped(parts[f"{module}.weight_scale"])
    codes = _Words(_mapped(parts[f"{module}.weight_packed"]), how.bits, width, down=False)
    if how.symmetric:
        return codes, np.full(scales.shape, 2 ** (how.bits - 1)), scales
    return codes, _taken_out(_mapped(parts[f"{module}.weight_zero_point"]).T, how.bits, height).T, scales


def _gptq_way(said: Mapping[str, Any], module: str) -> tuple[int, int, bool] | None:
    way = dict(said)
    for pattern, other in said.get("dynamic", {}).items():
        if re.match(pattern[2:], module):
            if pattern.startswith("-:"):
                return None
            way.update(other)
            break
    return int(way["bits"]), int(way["group_size"]), bool(way["sym"])


def _gptq(
    parts: Mapping[str, TensorInfo], module: str, how: Stored, said: Mapping[str, Any]
) -> tuple[_Words, npt.NDArray[Any], npt.NDArray[Any]]:
    height, width = how.shape
    codes = _Words(_mapped(parts[f"{module}.qweight"]), how.bits, width, down=True)
    more = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
    zeros = _taken_out(_mapped(parts[f"{module}.qzeros"]), how.bits, height).T + more
    return codes, zeros, _mapped(parts[f"{module}.scales"]).T


def _fit(parts: Mapping[str, TensorInfo], module: str, how: Stored, method: str) -> bool:
    """Say whether the tensors of a module have the types and shapes that its description asks for."""
    import numpy as np

    height, width = how.shape
    words, count = width * how.bits // 32, width // how.block
    if method == "gptq":
        wanted = {
            "qweight": ("I32", (words, height)), "qzeros": ("I32", (count, height * how.bits // 32)),
            "scales": ("F16", (count, height)), "g_idx": ("I32", (width,)),
        }  # fmt: skip
    else:
        wanted = {
            "weight_packed": ("I32", (height, words)), "weight_scale": ("F32", (height, count)),
            "weight_shape": ("I64", (2,)),
        }  # fmt: skip
        if not how.symmetric:
            wanted["weight_zero_point"] = ("I32", (-(-height * how.bits // 32), count))
    there = {kind: parts[f"{module}.{kind}"] for kind in PARTS[method] if f"{module}.{kind}" in parts}
    if {kind: (info.dtype, info.shape) for kind, info in there.items()} != wanted:
        return False
    return method != "gptq" or np.array_equal(_mapped(there["g_idx"]), np.arange(width) // how.block)


def _mapped(info: TensorInfo) -> npt.NDArray[Any]:
    import numpy as np

    return np.memmap(info.file, MAPPED[info.dtype], "r", info.offset, info.shape)


def _same(source: TensorInfo, result: TensorInfo) -> bool:
    return source.dtype == result.dtype and stored.same_bytes(source, result)


def _on_its_grid(weight: StoredWeight, result: TensorInfo) -> bool:
    """Say whether a weight written in float32 is the number that each code stands for."""
    import numpy as np

    if result.dtype != "F32" or result.shape != weight.how.shape:
        return False
    floats = _mapped(result)
    step = max(1, ELEMENTS // weight.how.shape[1])
    starts = range(0, len(floats), step)
    return all(np.array_equal(weight.rows(s, min(s + step, len(floats))), floats[s : s + step]) for s in starts)
