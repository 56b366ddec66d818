"""Does a quantized network whose inputs were scaled still stand for its source.

A scale c of an input is read off what writes it: norm of the source over norm of the result, or, where rows of a
quantized weight write it, source over result by least squares. The columns that read it must then be c times the
source's. Three measures: the distance that every quantized weight is held to; how far the factors of single
columns are from 1, far less than that distance, for rounding errors are many and factors are means over them; and
how these factors depend on c. Where c was applied twice they grow as c does, however small the scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.quantized import FARTHEST, presence, rest
from picual.engine.verification.source import ELEMENTS
from picual.graph.checkpoint import Checkpoint
from picual.models import HfModel, Model, QuantizedHfModel
from picual.models.layout import TensorSlice
from picual.models.links import Link, links_of
from picual.models.quantized_weights import StoredWeight, open_weight
from picual.passes.base import WeightsScaled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]

# How far the factors of columns may be from 1, root mean square over their energy. Rounding left 0.28, 0.03 and
# 0.001 with 2, 4 and 8 bits in the smallest weights, of 64 rows; two bits shrink what is small.
FACTORS = {2: 0.5, 4: 0.05, 8: 0.005}
SLOPES = {2: 0.6, 4: 0.35, 8: 0.35}  # of the factors over the logarithm of c, beside six standard errors of theirs
FLAT = 1e-3  # standard deviation of log c: with less there is no slope


@dataclass
class _Scales:
    """What the columns and rows of one weight are multiplied by."""

    columns: Vector | None = None
    rows: dict[tuple[int, int], Vector] = field(default_factory=dict)


@dataclass
class _Seen:
    """What came out of one weight."""

    distance: float  # each as a share of what is allowed
    factors: float
    slope: float


def check(promise: WeightsScaled, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare a quantized checkpoint with the one it was made from."""
    assert isinstance(given, HfModel)
    assert isinstance(made, QuantizedHfModel)
    there = list(presence(given, made))
    yield from there
    if not there[0].passed:
        return
    shapes = [name for name, info in made.tensors().items() if info.shape != given.tensors()[name].shape]
    if shapes:
        yield Check("scaled-writers", passed=False, detail=f"of other shapes: {some(shapes)}")
        return
    links = links_of(given.tensors(), given.config())
    norms = [link for link in links if len(given.tensors()[link.writer.name].shape) == 1]
    yield rest(given, made, {link.writer.name for link in norms})
    scales, odd = _scales(links, given, made)
    yield Check("scaled-writers", not odd, len(odd), 0, some(odd) if odd else f"{len(links)} inputs of layers")
    if not odd:
        yield from _weights(scales, given, made, bench)


def _scales(
    links: tuple[Link, ...], given: HfModel, made: QuantizedHfModel
) -> tuple[dict[str, _Scales], list[str]]:
    """Return the scales of each weight, and the writers from which none can be read."""
    import numpy as np

    found: dict[str, _Scales] = {name: _Scales() for name in made.stored()}
    odd: list[str] = []
    for link in links:
        if link.writer.name in found:
            columns = found[link.writer.name].columns
            scales = _of_rows(link.writer, columns, given, open_weight(made, link.writer.name))
            found[link.writer.name].rows[link.writer.start, link.writer.stop] = scales
        else:
            scales = _of_norm(link, given, made)
        honest = np.isfinite(scales) & (scales > 0)
        if not honest.all():
            odd.append(link.writer.name)
            scales = np.where(honest, scales, 1.0)
        for name in link.readers:
            found[name].columns = scales
    return found, odd


def _of_norm(link: Link, given: HfModel, made: QuantizedHfModel) -> Vector:
    """Return c (K,) of a norm; 1 where both are zero, and nothing is read."""
    import numpy as np

    before, after = (
        Checkpoint(model).rows([link.writer], 0, link.width).astype(np.float64) + link.added
        for model in (given, made)
    )
    silent = (before == 0) & (after == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales: Vector = np.where(silent, 1.0, before / after)
    return scales


def _of_rows(writer: TensorSlice, columns: Vector | None, given: HfModel, weight: StoredWeight) -> Vector:
    """Return c (K,) of rows that write K inputs, each |w|^2 / (w^ . w); 1 where both rows are zero."""
    import numpy as np

    scales = []
    for expected, found, _ in _pieces(writer, given, weight):
        wanted = expected if columns is None else expected * columns
        energy, product = (wanted**2).sum(1), (wanted * found).sum(1)
        silent = (energy == 0) & ~found.any(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            scales.append(np.where(silent, 1.0, energy / product))
    return np.concatenate(scales)


def _pieces(rows: TensorSlice, given: HfModel, weight: StoredWeight) -> Iterator[tuple[Vector, Vector, slice]]:
    """Yield some rows of source and result in float64, and which they are."""
    import numpy as np

    source, step = Checkpoint(given), max(1, ELEMENTS // weight.how.shape[1])
    whole = TensorSlice(rows.name, 0, weight.how.shape[0])
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        expected = source.rows([whole], start, stop).astype(np.float64)
        yield expected, weight.rows(start, stop).astype(np.float64), slice(start, stop)


def _weights(
    scales: Mapping[str, _Scales], given: HfModel, made: QuantizedHfModel, bench: Bench
) -> Iterator[Check]:
    """Hold every weight to its scaled source."""
    seen: dict[str, _Seen] = {}
    for number, (name, its) in enumerate(scales.items()):
        bench.progress(number, len(scales), name)
        seen[name] = _seen(name, its, given, open_weight(made, name))
    yield _check("scaled-distance", {name: one.distance for name, one in seen.items()})
    yield _check("scaled-columns", {name: one.factors for name, one in seen.items()})
    yield _check("scaled-slope", {name: one.slope for name, one in seen.items()})


def _check(title: str, shares: Mapping[str, float]) -> Check:
    far = [name for name, share in shares.items() if not share <= 1.0]  # so that a NaN is wrong too
    worst = max(shares, key=lambda name: shares[name])
    detail = f"{len(far)} of {len(shares)}: {some(far)}" if far else f"{len(shares)} weights"
    return Check(title, not far, shares[worst], 1.0, f"{detail}; worst `{worst}`")


def _seen(name: str, scales: _Scales, given: HfModel, weight: StoredWeight) -> _Seen:
    """Measure one weight (N, K) against its source with every row and column scaled."""
    import numpy as np

    height, width = weight.how.shape
    by_row = np.ones(height)
    for (start, stop), its in scales.rows.items():
        by_row[start:stop] = 1 / its
    columns = np.ones(width) if scales.columns is None else scales.columns
    energy, product, farthest = np.zeros(width), np.zeros(width), 0.0
    for expected, found, rows in _pieces(TensorSlice(name, 0, height), given, weight):
        wanted = expected * columns * by_row[rows, None]
        size, distance = float(np.linalg.norm(wanted)), float(np.linalg.norm(found - wanted))
        share = distance / (size * FARTHEST[weight.how.bits]) if size else float(distance > 0) * 2
        farthest = max(farthest, share) if np.isfinite(share) else float("inf")
        energy += (wanted**2).sum(0)
        product += (wanted * found).sum(0)
    # By how much the factor of each column is off 1; one without energy is off nothing.
    off = np.where(energy > 0, product / np.where(energy > 0, energy, 1), 1) - 1
    weights, bits = energy / (energy.sum() or 1), weight.how.bits
    factors = float(np.sqrt((weights * off**2).sum())) / FACTORS[bits]
    return _Seen(farthest, factors, _slope(np.log(columns), off, weights, SLOPES[bits]))


def _slope(logarithms: Vector, off: Vector, weights: Vector, bound: float) -> float:
    """Return how the factors of columns grow with their scales, as a share of what is allowed."""
    import numpy as np

    centred = logarithms - (weights * logarithms).sum()
    spread = float((weights * centred**2).sum())
    if np.sqrt(spread) < FLAT:
        return 0.0
    level = off - (weights * off).sum()
    slope = float((weights * centred * level).sum()) / spread
    left = level - slope * centred
    error = float(np.sqrt(((weights * centred * left) ** 2).sum())) / spread
    return abs(slope) / (bound + 6 * error)
