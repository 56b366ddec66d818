"""Is every weight of the checkpoint in the exported file, once, at the asked width, where it belongs.

Each weight is read back through the formula of the kernel that will use it. Rounding to nearest may move it by
half a step of its block, floats by the rounding of their type; anything else is a fault. Integers that a quantizer
chose must be there as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.exported import Blocks, Exported, Floats, Holder
from picual.engine.verification.shipped import checks, root_of, shipped
from picual.engine.verification.source import Placed, Source
from picual.models import GenaiModel, Model, OnnxModel
from picual.models.layout import DERIVED, HEAD, embedding_of, is_tied
from picual.passes.base import WeightsExported

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KEPT = "kept"  # the checkpoint decides
BITS = {"int4": 4, "int8": 8}
HALVES = ("F16", "BF16")
FLOAT = {"fp32": "float32", "fp16": "float16"}
# How far a stored float may be from its source: (relative, absolute). Half a unit of fp16, subnormals included.
ROUNDING = {
    "float32": (1e-6, 0.0),
    "float16": (2.0**-11, 2.0**-25),
    "bfloat16": (2.0**-8, 0.0),
    "float64": (1e-6, 0.0),
}


def check(promise: WeightsExported, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare the exported file with the checkpoint: what is there, how wide, and each number."""
    file = made.decoder() if isinstance(made, GenaiModel) else made.path
    assert isinstance(made, GenaiModel | OnnxModel)
    exported = Exported(file)
    whole = not exported.incomplete
    yield Check("export-data-complete", whole, len(exported.incomplete), 0, "; ".join(exported.incomplete))
    if not whole:
        return  # every further reading would tell of the same hole
    source = Source(root_of(given))
    yield _each_linear_once(exported.linears, source)
    yield _one_embedding(exported.tables, source)
    if promise.precision == KEPT:
        yield _as_kept(exported, source)
    else:
        yield from _as_asked(promise, exported.linears)
    yield from _numbers(exported, source, bench)
    yield _vectors(exported, source)
    if adapters := shipped(promise.adapters, given, made):
        yield from checks(adapters, exported, source, made)


def _each_linear_once(linears: Sequence[Holder], source: Source) -> Check:
    """Lay the exported rows over the checkpoint's: no gap, no row twice, nothing foreign."""
    covered: dict[str, list[tuple[int, int]]] = {}
    foreign = []
    for holder in linears:
        placed = source.placed(holder)
        if not placed:
            foreign.append(f"`{holder.node}` ({', '.join(holder.names)})")
        for item in placed:
            # A tied head lies where the embedding does; under its own name it counts as a linear layer.
            home = HEAD if item.name == HEAD else item.source.name
            covered.setdefault(home, []).append((item.source.start, item.source.stop))
    wanted = _linear_heights(source)
    missing = [name for name, height in wanted.items() if _covered_once(covered.get(name, []), height) < 0]
    twice = [name for name, height in wanted.items() if _covered_once(covered.get(name, []), height) > 0]
    parts = [f"missing: {some(missing)}"] * bool(missing) + [f"more than once: {some(twice)}"] * bool(twice)
    parts += [f"no such weight in the checkpoint: {', '.join(foreign[:3])}"] * bool(foreign)
    wrong = len(missing) + len(twice) + len(foreign)
    return Check("export-linears", not parts, wrong, 0, "; ".join(parts) or f"{len(wanted)} weights, each once")


def _linear_heights(source: Source) -> dict[str, int]:
    """Return the rows of every 2-D weight of the checkpoint that is no embedding, a tied head included."""
    embedding = embedding_of(source.tensors)
    heights = {
        name: tensor.shape[0]
        for name, tensor in source.tensors.items()
        if len(tensor.shape) == 2 and name != embedding and not name.endswith(DERIVED)
    }
    if embedding is not None and is_tied(source.tensors, source.config):
        heights[HEAD] = source.tensors[embedding].shape[0]
    return heights


def _covered_once(ranges: list[tuple[int, int]], height: int) -> int:
    """Return 0 when the ranges tile the rows, -1 for a gap, 1 for an overlap."""
    end = 0
    for start, stop in sorted(ranges):
        if start != end:
            return -1 if start > end else 1
        end = stop
    return 0 if end == height else -1


def _one_embedding(tables: Sequence[Holder], source: Source) -> Check:
    embedding = embedding_of(source.tensors)
    found = [name for table in tables for name in table.names if source.placed(table)]
    passed = embedding is None or found == [embedding]
    detail = "" if passed else f"expected a look-up in `{embedding}` and found {found or 'none'}"
    return Check("export-embedding", passed, len(found), 1, detail)


def _as_asked(promise: WeightsExported, linears: Sequence[Holder]) -> Iterator[Check]:
    body = [holder for holder in linears if HEAD not in holder.names]
    head = [holder for holder in linears if HEAD in holder.names]
    yield _width("export-width", promise.precision, promise, body)
    wanted = promise.precision if promise.head == "float" and promise.precision in FLOAT else promise.head
    yield _width("export-head-width", wanted, promise, head)
    blocks = [(holder, holder.matrix) for holder in linears if isinstance(holder.matrix, Blocks)]
    odd = [
        f"`{holder.node}` has blocks of {matrix.block}{'' if matrix.symmetric else ' with zero points'}"
        for holder, matrix in blocks
        if matrix.block != promise.block or matrix.symmetric != promise.symmetric
    ]
    asked = f"blocks of {promise.block}{'' if promise.symmetric else ' with zero points'}"
    yield Check("export-blocks", not odd, len(odd), 0, f"{'; '.join(odd[:3])}, asked: {asked}" if odd else asked)


def _as_kept(exported: Exported, source: Source) -> Check:
    """Say whether integers stayed integers and floats floats, halves only where the checkpoint has halves."""
    odd = [
        item.name
        for holder in (*exported.linears, *exported.tables)
        for item in source.placed(holder)
        if not _is_kept(item, source)
    ]
    detail = f"stored as something else than in the checkpoint: {some(odd)}" if odd else "as in the checkpoint"
    return Check("export-width", not odd, len(odd), 0, detail)


def _is_kept(item: Placed, source: Source) -> bool:
    if source.integers(item.source.name) is not None:
        return isinstance(item.matrix, Blocks)
    if not isinstance(item.matrix, Floats):
        return False
    halves = source.tensors[item.source.name].dtype in HALVES
    return item.matrix.dtype == "float32" or (item.matrix.dtype == "float16" and halves)


def _width(name: str, wanted: str, promise: WeightsExported, holders: Sequence[Holder]) -> Check:
    """Say which share of the weights has the asked type."""
    sizes = {holder.node: holder.matrix.height * holder.matrix.width for holder in holders}
    other = [holder.node for holder in holders if not _is(holder, wanted)]
    total = sum(sizes.values())
    share = 1.0 - sum(sizes[node] for node in other) / total if total else 1.0
    return Check(name, not other, share, 1.0, f"not {wanted}: {some(other)}" if other else wanted)


def _is(holder: Holder, wanted: str) -> bool:
    matrix = holder.matrix
    if wanted in BITS:
        return isinstance(matrix, Blocks) and matrix.bits == BITS[wanted]
    if not isinstance(matrix, Floats):
        return False
    return matrix.dtype == FLOAT.get(wanted, matrix.dtype)


@dataclass
class _Worst:
    """The largest deviation met, in units of what is allowed."""

    value: float = 0.0
    name: str = ""
    wrong: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, value: float) -> None:
        self.count += 1
        if not value <= 1.0:  # so that a NaN is wrong too
            self.wrong.append(name)
        if not value <= self.value:
            self.value, self.name = value, name

    def check(self, name: str, unit: float) -> Check:
        """Return the finding; ``unit`` turns shares of the allowed into what a reader knows."""
        detail = (
            f"{len(self.wrong)} of {self.count}: {some(self.wrong)}" if self.wrong else f"{self.count} weights"
        )
        detail += f"; worst `{self.name}`" if self.name else ""
        return Check(name, not self.wrong, self.value * unit, unit, detail)


def _numbers(exported: Exported, source: Source, bench: Bench) -> Iterator[Check]:
    """Compare every number of every matrix with its source."""
    steps, floats, integers = _Worst(), _Worst(), _Worst()
    holders = [*exported.linears, *exported.tables]
    for number, holder in enumerate(holders):
        bench.progress(number, len(holders), holder.node)
        for item in source.placed(holder):
            if isinstance(item.matrix, Blocks) and source.integers(item.source.name) is not None:
                integers.add(item.name, _differing(item, item.matrix, source))
                continue
            worst = max(_deviation(item, source, start, stop) for start, stop in item.pieces())
            (steps if isinstance(item.matrix, Blocks) else floats).add(item.name, worst)
    if integers.count:
        yield integers.check("export-integers", 0.0)
    if steps.count:
        yield steps.check("export-half-step", 0.5)
    if floats.count:
        yield floats.check("export-floats", 1.0)


def _differing(item: Placed, matrix: Blocks, source: Source) -> float:
    """Return how many codes, scales and zero points of some rows are not the quantizer's; more than 1 is wrong."""
    import numpy as np

    weight = source.integers(item.source.name)
    assert weight is not None
    mine, its = slice(item.start, item.start + item.height), slice(item.source.start, item.source.stop)
    pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [
        (matrix.packed[mine], weight.codes[its]),
        (matrix.scales[mine], weight.scales[its]),
    ]
    if (matrix.zero_points is None) != (weight.zero_points is None) or matrix.bits != weight.how.bits:
        return float("inf")
    if matrix.zero_points is not None and weight.zero_points is not None:
        pairs.append((matrix.zero_points[mine], weight.zero_points[its]))
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    wrong = sum(int(np.count_nonzero(one != other.astype(one.dtype))) for one, other in pairs)
    return float(2 * wrong)


def _deviation(item: Placed, source: Source, start: int, stop: int) -> float:
    """Return the largest deviation of some rows as a share of what is allowed; infinite for a NaN."""
    import numpy as np

    expected = source.rows(item.source, start, stop)
    first, last = item.start + start, item.start + stop
    found = item.matrix.rows(first, last)
    if not np.isfinite(found).all():
        return float("inf")
    if isinstance(item.matrix, Blocks):
        return _in_half_steps(item.matrix, item.matrix.steps(first, last), found, expected)
    assert isinstance(item.matrix, Floats)
    return _in_roundings(item.matrix.dtype, found, expected)


def _in_half_steps(
    matrix: Blocks,
    steps: npt.NDArray[np.float32],
    found: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
) -> float:
    """Return the largest distance in half steps.

    The formula is evaluated in float32, where each operand brings a relative error of 2^-24; a scale stored in
    fp16 can also leave the ends of the range up to 2^bits roundings of 2^-11 outside.
    """
    import numpy as np

    slack = 1.001 if matrix.scales.dtype == np.float32 else 1.001 + 2.0 ** (matrix.bits - 10)
    distance = np.abs(found - expected)
    starts = np.arange(0, distance.shape[1], matrix.block)
    largest = np.maximum.reduceat(distance, starts, axis=1)  # (rows, B)
    size = np.maximum.reduceat(np.abs(expected), starts, axis=1)
    allowed = np.abs(steps) * (0.5 * slack) + size * 2.0**-22 + np.finfo(np.float32).tiny
    return float((largest / allowed).max())


def _in_roundings(dtype: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    import numpy as np

    relative, absolute = ROUNDING.get(dtype, (0.0, 0.0))
    allowed = np.abs(expected) * (relative * 1.001) + (absolute + np.finfo(np.float32).tiny)
    return float((np.abs(found - expected) / allowed).max())


def _vectors(exported: Exported, source: Source) -> Check:
    """Compare norms and biases, which stay floats under their own names."""
    worst, missing = _Worst(), []
    for name, tensor in source.tensors.items():
        if len(tensor.shape) != 1 or name.endswith(DERIVED):
            continue
        for exported_name, part in source.vector_parts(name, exported):
            found, height = exported.vector(exported_name), part.stop - part.start
            if found is None or found.size != height:
                missing.append(exported_name)
                continue
            expected = source.rows(part, 0, height)
            worst.add(
                exported_name, _in_roundings(str(found.dtype), found.astype("float32").reshape(-1), expected)
            )
    if missing:
        return Check("export-norms-and-biases", passed=False, detail=f"not in the file: {some(missing)}")
    return worst.check("export-norms-and-biases", 1.0)
