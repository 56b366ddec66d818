"""Is the merged model its base plus the adapters, nothing less, nothing more, nothing else.

For every weight W of the base and every adapter (A, B, scale) on it, in float64:

    W + sum of scale * B A   against   W' as stored

may differ by half a unit in the last place of W' plus what summing in float32 can lose. A weight that no
adapter names has the same bytes, or is the same number rounded to another dtype.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.models import HfAdapter, HfCheckpoint, HfModel, Model, QuantizedHfModel
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import TensorInfo
from picual.passes.base import AdapterMerged

if TYPE_CHECKING:
    import torch

EPS32 = 2.0**-23
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass
class _Recipe:
    """What the adapters do to one weight: start from ``source``, add each pair."""

    source: TensorInfo
    pairs: list[_Pair] = field(default_factory=list)


@dataclass(frozen=True)
class _Pair:
    file: Path
    a: str
    b: str
    scale: float
    transposed: bool


def check(promise: AdapterMerged, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Go through every tensor of the base once, a few rows at a time."""
    import torch

    assert isinstance(given, HfAdapter)
    assert isinstance(made, HfModel)
    torch.set_num_threads(bench.threads)
    before, after = _live(given.root()), _live(made)
    yield _same_names(given.root(), made, before, after)
    recipes, unknown = _recipes(given, before)
    if unknown:
        yield Check("merge-adapter-known", passed=False, detail=f"no weight of the base for {some(unknown)}")
    adapted, wrong, others = _Tally(), [], []
    names = sorted(set(before) & set(after))
    for number, name in enumerate(names):
        bench.progress(number, len(names), name)
        recipe, result = recipes[name], after[name]
        if recipe.source.shape != result.shape:
            wrong.append(f"{name} {recipe.source.shape} -> {result.shape}")
        elif recipe.pairs:
            adapted.add(name, recipe, result)
        elif not _unchanged(recipe.source, result):
            others.append(name)
    yield Check("merge-shapes", not wrong, len(wrong), 0, "; ".join(wrong[:3]))
    yield Check("merge-others-unchanged", not others, len(others), 0, f"changed: {some(others)}" if others else "")
    yield from adapted.checks()


def _live(model: HfCheckpoint) -> dict[str, TensorInfo]:
    """Return the weights as the network uses them: a tied head is the embedding's tensor."""
    found = model.tensors()
    if model.config().get("tie_word_embeddings", HEAD not in found):
        embedding = next((name for name in found if name.endswith(EMBEDDINGS)), None)
        if embedding is not None:
            found[HEAD] = found[embedding]
    return found


def _same_names(
    base: HfCheckpoint, made: HfModel, before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo]
) -> Check:
    missing = sorted(set(before) - set(after))
    extra = sorted(set(after) - set(before))
    parts = [f"missing {some(missing)}"] * bool(missing) + [f"not in the base: {some(extra)}"] * bool(extra)
    return Check("merge-tensors", not parts, len(missing) + len(extra), 0, "; ".join(parts))


def _recipes(given: HfAdapter, before: Mapping[str, TensorInfo]) -> tuple[dict[str, _Recipe], list[str]]:
    """Read every adapter of the chain, first trained first."""
    recipes = {name: _Recipe(source) for name, source in before.items()}
    unknown = []
    for adapter in given.chain():
        config = adapter.adapter_config()
        own = adapter.tensors()
        # Whole replacements come first: peft adds the low-rank part on top of them.
        for name in sorted(own, key=lambda name: ".lora_" in name):
            low_rank = re.fullmatch(r"base_model\.model\.(.+)\.lora_(embedding_)?A(?:\.weight)?", name)
            module = low_rank[1] if low_rank else ""
            target = (
                f"{module}.weight" if low_rank else re.sub(r"^base_model\.model\.|\.base_layer(?=\.)", "", name)
            )
            if low_rank and target in recipes:
                recipes[target].pairs.append(_pair(config, own[name], module, bool(low_rank[2])))
            elif not low_rank and target in recipes:
                recipes[target] = _Recipe(own[name])
            elif low_rank or ".lora_" not in name:
                unknown.append(name)
    return recipes, unknown


def _pair(config: Mapping[str, Any], a: TensorInfo, module: str, embedding: bool) -> _Pair:
    alpha = float(config.get("lora_alpha", 8))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.)({pattern})$", module):
            alpha = float(value)
            break
    rank = a.shape[0]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    b = re.sub(r"A(\.weight)?$", r"B\1", a.name)
    return _Pair(a.file, a.name, b, scale, embedding or bool(config.get("fan_in_fan_out")))


class _Tally:
    """What was found about the adapted weights so far."""

    def __init__(self) -> None:
        self.count = 0
        self.worst, self.worst_name = 0.0, ""
        self.not_finite: list[str] = []
        self.wrong: list[str] = []
        self.absent: list[str] = []
        self.along = self.expected = self.length = (
            0.0  # <W' - W, delta>, <round(W + delta) - W, delta>, <delta, delta>
        )

    def add(self, name: str, recipe: _Recipe, result: TensorInfo) -> None:
        """Compare one adapted weight with its exact sum."""
        self.count += 1
        factors = [_factors(pair) for pair in recipe.pairs]
        if any((left.shape[0], right.shape[1]) != result.shape for left, right, _ in factors):
            self.wrong.append(name)  # the adapter does not fit this base at all
            return
        worst, moved, should_move = 0.0, False, False
        pieces = zip(
            stored.ranges(result.shape),
            _rows(recipe.source),
            stored.rows(result.file, result.name, stored.ranges(result.shape)),
            strict=True,
        )
        for where, source, found in pieces:
            if not bool(found.isfinite().all()):
                self.not_finite.append(name)
                return
            old, new = source.double(), found.double()
            delta, loss = _delta(factors, where)
            exact = old + delta
            bound = _half_unit(exact, found) + EPS32 * ((len(factors) + 1) * old.abs() + loss)
            worst = max(worst, float(((new - exact).abs() / bound).max()))
            rounded = exact.to(found.dtype).double()
            moved |= bool((new != old).any())
            should_move |= bool((rounded != old).any())
            self.along += float(((new - old) * delta).sum())
            self.expected += float(((rounded - old) * delta).sum())
            self.length += float((delta * delta).sum())
        if worst > 1.0:
            self.wrong.append(name)
        if should_move and not moved:
            self.absent.append(name)
        if worst > self.worst:
            self.worst, self.worst_name = worst, name

    def checks(self) -> Iterator[Check]:
        """Yield the findings."""
        yield Check("merge-finite", not self.not_finite, len(self.not_finite), 0, some(self.not_finite))
        detail = f"no trace of the adapter in {some(self.absent)}" if self.absent else ""
        yield Check("merge-adapter-present", not self.absent, len(self.absent), 0, detail)
        detail = (
            f"{len(self.wrong)} of {self.count}: {some(self.wrong)}" if self.wrong else f"{self.count} weights"
        )
        detail += f"; worst `{self.worst_name}`" if self.worst_name else ""
        yield Check("merge-delta", not self.wrong, self.worst, 1.0, detail)
        if self.length:
            share, wanted = self.along / self.length, self.expected / self.length
            passed = abs(share - wanted) <= 0.01 * max(1.0, abs(wanted))
            yield Check(
                "merge-strength",
                passed,
                share,
                None,
                f"the adapter counts {share:.4g} times, {wanted:.4g} expected",
            )


def _factors(pair: _Pair) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return left (rows of W, r), right (r, columns of W) in float64 with the scale in left, and r."""
    a, b = (stored.read(pair.file, name).double() for name in (pair.a, pair.b))
    left, right = (a.T, b.T) if pair.transposed else (b, a)
    return left * pair.scale, right, float(a.shape[0])


def _delta(factors: list[tuple[torch.Tensor, torch.Tensor, float]], where: slice) -> tuple[Any, Any]:
    """Return the sum of scale * B A for some rows, and how many float32 roundings of what size it may have had.

    A dot product of length r is off by at most r eps |b| |a|, however its terms cancel (Cauchy-Schwarz).
    """
    delta: Any = 0.0
    loss: Any = 0.0
    for left, right, rank in factors:
        part = left[where]
        delta = delta + part @ right
        size = part.norm(dim=1, keepdim=True) * right.norm(dim=0, keepdim=True)
        loss = loss + (rank + len(factors) + 2) * size
    return delta, loss


def _half_unit(exact: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return half the distance between neighbours of each number in the dtype it was stored in."""
    import torch

    facts = torch.finfo(found.dtype)
    _, exponent = torch.frexp(exact.abs().clamp_min(facts.smallest_normal))
    return torch.exp2(exponent.double()) * (facts.eps / 4)  # |x| lies in [2^(e-1), 2^e), a unit is eps 2^(e-1)


def _unchanged(source: TensorInfo, result: TensorInfo) -> bool:
    if source.dtype == result.dtype:
        return stored.same_bytes(source, result)
    if not {source.dtype, result.dtype} <= FLOATS | {DTYPE}:
        return False
    pieces = zip(
        _rows(source),
        stored.rows(result.file, result.name, stored.ranges(result.shape)),
        strict=True,
    )
    return all(bool((old.to(new.dtype) == new).all()) for old, new in pieces)


def _rows(source: TensorInfo) -> Iterator[torch.Tensor]:
    """Yield the rows of a weight of the base: its numbers, or those that a quantizer's integers stand for."""
    if source.dtype != DTYPE:
        yield from stored.rows(source.file, source.name, stored.ranges(source.shape))
        return
    import torch

    weight = open_weight(QuantizedHfModel(source.file.parent), source.name)
    for where in stored.ranges(source.shape):
        yield torch.from_numpy(weight.rows(where.start, where.stop).copy())


def updates_of(given: HfAdapter) -> tuple[dict[str, list[_Pair]], list[str]]:
    """Return the updates of each weight of the base; and what the adapters do beside adding to weights."""
    before = _live(given.root())
    recipes, unknown = _recipes(given, before)
    replaced = [name for name, recipe in recipes.items() if recipe.source is not before[name]]
    return {name: recipe.pairs for name, recipe in recipes.items() if recipe.pairs}, [*unknown, *replaced]


def delta_of(pairs: list[_Pair], where: slice) -> tuple[Any, Any]:
    """Return the sum of scale * B A for some rows in float64, and how large its terms are: r |b| |a|."""
    return _delta([_factors(pair) for pair in pairs], where)
