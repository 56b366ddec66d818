"""Is every linear weight there as integers that stand for it, and is all else as it was.

Rounding to nearest moves no weight by more than half a step. A calibrated quantizer may, to make up for the errors
of others: there the distance of the whole weight from its source is held to what a grid of so many bits explains.
A weight in another's place, a row turned round or a scale out of order is whole units away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.source import ELEMENTS
from picual.graph.checkpoint import Checkpoint
from picual.models import HfAdapter, HfModel, Model, QuantizedHfModel
from picual.models.layout import HEAD, TensorSlice, is_tied, linears
from picual.models.quantized_weights import StoredWeight, open_weight
from picual.passes.base import WeightsQuantized

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# |W^ - W| / |W| of a row block. Rounding a Gaussian to nearest leaves 0.6, 0.11 and 0.007 with 2, 4 and 8 bits and
# blocks of 256; weights of another place leave 1.4.
FARTHEST = {2: 0.9, 4: 0.35, 8: 0.05}


def check(promise: WeightsQuantized, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare a quantized checkpoint, or that below an adapter, with the one it was made from."""
    made = made.root() if isinstance(made, HfAdapter) else made
    if made == given:
        return  # it was given as integers
    assert isinstance(given, HfModel)
    assert isinstance(made, QuantizedHfModel)
    there = list(presence(given, made))
    yield from there
    if there[0].passed:
        yield rest(given, made, ())
        yield from _distances(promise, given, made, bench)


def presence(given: HfModel, made: QuantizedHfModel) -> Iterator[Check]:
    """Say whether the same tensors are there, and every linear weight as integers."""
    source, found, how = given.tensors(), made.tensors(), made.stored()
    wanted = _wanted(given)
    lost = sorted(wanted - set(found)) + sorted(set(found) - wanted)
    yield Check("quantized-tensors", not lost, len(lost), 0, some(lost) if lost else f"{len(found)} tensors")
    if lost:
        return
    left = [name for name in linears(source) if name in found and name not in how]
    yield Check(
        "quantized-linears", not left, len(left), 0, f"still floats: {some(left)}" if left else f"{len(how)}"
    )


def rest(given: HfModel, made: QuantizedHfModel, changed: Collection[str]) -> Check:
    """Say whether what stayed floats is the source's, but for the tensors in ``changed``."""
    source, found, how = given.tensors(), made.tensors(), made.stored()
    kept = _wanted(given) - set(how) - set(changed)
    moved = [name for name in kept if not stored.same_bytes(source[name], found[name])]
    return Check("quantized-rest", not moved, len(moved), 0, some(sorted(moved)) if moved else "unchanged")


def _wanted(given: HfModel) -> set[str]:
    source = given.tensors()
    return set(source) - ({HEAD} if is_tied(source, given.config()) else set())


def _distances(promise: WeightsQuantized, given: HfModel, made: QuantizedHfModel, bench: Bench) -> Iterator[Check]:
    how, shapes = made.stored(), given.tensors()
    far: list[str] = []
    worst, worst_name = 0.0, ""
    for number, name in enumerate(how):
        bench.progress(number, len(how), name)
        if how[name].shape != shapes[name].shape:
            far.append(name)
            continue
        share = _share_of_allowed(open_weight(made, name), Checkpoint(given), name, nearest=promise.nearest)
        if not share <= 1.0:  # so that a NaN is wrong too
            far.append(name)
        if not share <= worst:
            worst, worst_name = share, name
    detail = f"{len(far)} of {len(how)}: {some(far)}" if far else f"{len(how)} weights"
    detail += f"; worst `{worst_name}`" if worst_name else ""
    title = "quantized-half-step" if promise.nearest else "quantized-distance"
    yield Check(title, not far, worst, 1.0, detail)


def _share_of_allowed(weight: StoredWeight, source: Checkpoint, name: str, *, nearest: bool) -> float:
    """Return how far a weight is from its source, as a share of what is allowed, by its worst rows."""
    import numpy as np

    height, width = weight.how.shape
    step = max(1, ELEMENTS // width)
    worst = 0.0
    for start in range(0, height, step):
        stop = min(start + step, height)
        expected = source.rows([TensorSlice(name, 0, height)], start, stop)
        found = weight.rows(start, stop)
        if not np.isfinite(found).all():
            return float("inf")
        if nearest:
            share = _in_half_steps(weight, found, expected, start, stop)
        else:
            size = float(np.linalg.norm(expected))
            distance = float(np.linalg.norm(found - expected))
            share = distance / (size * FARTHEST[weight.how.bits]) if size else float(distance > 0) * 2
        worst = max(worst, share)
    return worst


def _in_half_steps(
    weight: StoredWeight, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], start: int, stop: int
) -> float:
    import numpy as np

    distance = np.abs(found - expected)
    starts = np.arange(0, distance.shape[1], weight.how.block)
    largest = np.maximum.reduceat(distance, starts, axis=1)
    size = np.maximum.reduceat(np.abs(expected), starts, axis=1)
    allowed = np.abs(weight.scales[start:stop]) * 0.5005 + size * 2.0**-22 + np.finfo(np.float32).tiny
    return float((largest / allowed).max())
