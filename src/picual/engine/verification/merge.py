"""Is the merged model its base plus the adapters, nothing less, nothing more, nothing else.

For every weight W of the base and every adapter on it, in float64 and by the formula of its method (``deltas``):

    W + sum of scale * B A   against   W' as stored

may differ by half a unit in the last place of W' plus what summing in float32 can lose. A weight that no
adapter names has the same bytes, or is the same number rounded to another dtype.

Where the adapter was trained beside weights in 4 bits and is merged onto these, W is what 4 bits leave of the
base's weight, whether an adapter names it or not. If all that holds, the merged network is held to the live one's
logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from picual.engine.verification import deltas, live
from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.four_bit import Held
from picual.engine.verification.updates import TENSOR, Found, updates_of
from picual.models import HfAdapter, HfCheckpoint, HfModel, Model, QuantizedHfModel
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import TensorInfo
from picual.models.trained_on import FourBit, held_in_four_bits
from picual.passes.base import AdapterMerged

if TYPE_CHECKING:
    import torch

HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass
class _Recipe:
    """What the adapters do to one weight: start from ``source``, or what 4 bits leave of it, apply each update."""

    source: TensorInfo
    held: FourBit | None = None
    updates: list[Found] = field(default_factory=list)


def check(promise: AdapterMerged, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Go through every tensor of the base once, a few rows at a time."""
    import torch

    assert isinstance(given, HfAdapter)
    assert isinstance(made, HfModel)
    torch.set_num_threads(bench.threads)
    before, after = _live(given.root()), _live(made)
    yield _same_names(given.root(), made, before, after)
    held = held_in_four_bits(given.chain()) if promise.base == "as-trained" else None
    recipes, unknown = _recipes(given, before, held, promise.weights)
    if unknown:
        yield Check("merge-adapter-known", passed=False, detail=f"no weight of the base for {some(unknown)}")
    adapted, wrong, others, rounded = _Tally(), [], [], _Tally()
    names = sorted(set(before) & set(after))
    for number, name in enumerate(names):
        bench.progress(number, len(names), name)
        recipe, result = recipes[name], after[name]
        if recipe.source.shape != result.shape:
            wrong.append(f"{name} {recipe.source.shape} -> {result.shape}")
        elif recipe.updates:
            adapted.add(name, recipe, result)
        elif recipe.held is not None:
            rounded.add(name, recipe, result)
        elif not _unchanged(recipe.source, result):
            others.append(name)
    yield Check("merge-shapes", not wrong, len(wrong), 0, "; ".join(wrong[:3]))
    yield Check("merge-others-unchanged", not others, len(others), 0, f"changed: {some(others)}" if others else "")
    found = [*adapted.checks(), *_held_checks(rounded, held)]
    yield from found
    same = not (unknown or wrong or others) and set(before) == set(after) and all(one.passed for one in found)
    if same and _can_be_live(given, promise.weights):
        yield from live.check(given, made, held, bench)


def _can_be_live(given: HfAdapter, weights: tuple[float, ...]) -> bool:
    """Say whether ``peft`` computes all adapters beside each other: each once, and one alone or all plain LoRA."""
    configs = [adapter.adapter_config() for adapter in given.chain()]
    plain = all(one.get("peft_type", "LORA") == "LORA" and not one.get("use_dora") for one in configs)
    return all(weight == 1.0 for weight in weights) and (len(configs) == 1 or plain)


def _held_checks(rounded: _Tally, held: FourBit | None) -> Iterator[Check]:
    """Yield the findings on weights that no adapter names and that were in 4 bits."""
    if held is None:
        return
    odd = sorted({*rounded.wrong, *rounded.not_finite})
    detail = f"not as {held.format} leaves them: {some(odd)}" if odd else f"{rounded.count} weights"
    yield Check("merge-as-trained", not odd, rounded.worst, 1.0, detail)


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


def _recipes(
    given: HfAdapter, before: Mapping[str, TensorInfo], held: FourBit | None, weights: tuple[float, ...]
) -> tuple[dict[str, _Recipe], list[str]]:
    """Read every adapter of the chain, first trained first."""
    narrow = set(held.names) if held is not None else set()
    recipes = {name: _Recipe(source, held if name in narrow else None) for name, source in before.items()}
    unknown = []
    for adapter, weight in zip(given.chain(), weights or [1.0] * len(given.chain()), strict=True):
        # Whole replacements come first: peft adds its update on top of them.
        for name, tensor in adapter.tensors().items():
            target = re.sub(r"^base_model\.model\.|\.base_layer(?=\.)", "", name)
            if TENSOR.fullmatch(name) is None and target in recipes:
                recipes[target] = _Recipe(tensor)
            elif TENSOR.fullmatch(name) is None:
                unknown.append(name)
        for module, update in updates_of(adapter, weight).items():
            target = f"{module.replace('.base_layer', '')}.weight"
            if target in recipes and not update.missing():
                recipes[target].updates.append(update)
            else:
                unknown.append(f"{module}.{next(iter(update.parts))}")
    return recipes, unknown


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
        if not all(update.fits(result.shape) for update in recipe.updates):
            self.wrong.append(name)  # the adapter does not fit this base at all
            return
        updates = [update.open() for update in recipe.updates]
        deltas.measured(updates, lambda: _rows_of(recipe.source))
        worst, moved, should_move = 0.0, False, False
        held = None if recipe.held is None else Held(recipe.source, recipe.held)
        pieces = zip(
            _rows_of(recipe.source),
            stored.rows(result.file, result.name, stored.ranges(result.shape)),
            strict=True,
        )
        for (where, source), found in pieces:
            if not bool(found.isfinite().all()):
                self.not_finite.append(name)
                return
            new, old = found.double(), source.double()
            if held is not None:  # additive updates alone: what they add does not depend on the weight
                added, _ = deltas.applied(updates, old.new_zeros(old.shape), where)
                old = held.explaining(new - added, where)
            exact, slack = deltas.applied(updates, old, where)
            delta = exact - old
            bound = _half_unit(exact, found) + slack
            worst = max(worst, float(((new - exact).abs() / bound).max()))
            rounded = exact.to(found.dtype).double()
            moved |= bool((new != old).any())
            should_move |= bool((rounded != old).any())
            if not updates:
                continue
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


def _rows_of(source: TensorInfo) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the rows of a weight of the base, a range at a time."""
    return zip(stored.ranges(source.shape), _rows(source), strict=True)


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


def added_by(given: HfAdapter) -> tuple[dict[str, list[Found]], list[str]]:
    """Return the updates of each weight of the base; and what the adapters do beside adding to weights."""
    before = _live(given.root())
    recipes, unknown = _recipes(given, before, None, ())
    replaced = [name for name, recipe in recipes.items() if recipe.source is not before[name]]
    return {name: recipe.updates for name, recipe in recipes.items() if recipe.updates}, [*unknown, *replaced]


def delta_of(updates: list[Found], where: slice, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what updates add to some rows of a weight (N, width), in float64, and how large its terms are."""
    import torch

    nothing = torch.zeros((where.stop - where.start, width), dtype=torch.float64)
    delta, slack = deltas.applied([update.open() for update in updates], nothing, where)
    return delta, slack / deltas.EPS32
