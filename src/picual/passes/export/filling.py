"""Fills the data file: reads a piece of the checkpoint, rounds it, puts it in its place, forgets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from picual import _atomic
from picual.errors import UnreadableModel
from picual.graph.checkpoint import Checkpoint
from picual.graph.external_data import OpenDataFile
from picual.graph.matmul_nbits import Table
from picual.passes.export.assembly import Assembly, Job

if TYPE_CHECKING:
    import onnx_ir as ir

PIECE = 1 << 20  # elements at a time: fits a processor's cache, and bounds the memory
RECORD_EVERY = 64_000_000  # bytes


def fill(
    assembly: Assembly,
    source: Checkpoint,
    file: Path,
    *,
    inputs: str,
    on_progress: Callable[[int, int, str], None],
    record_every: int = RECORD_EVERY,
) -> None:
    """Write the data file, going on where an interrupted run of the same inputs stopped.

    Args:
        assembly: What goes where.
        source: The weights.
        file: The data file; a record of what is done lies beside it.
        inputs: Digest of all that decides the content.
        on_progress: Called with bytes done, bytes in all, and the name of the layer.
        record_every: Bytes written between two records of progress.
    """
    record = file.with_name(file.name + ".done.json")
    done = _done(record, file, inputs)
    since = written = 0
    with assembly.data.open(file) as stream:
        for number, job in enumerate(assembly.jobs):
            size = _nbytes(job)
            if number >= done:
                _fill(job, source, stream)
                since += size
            written += size
            if since >= record_every:
                stream.sync()
                _atomic.write_json(record, {"inputs": inputs, "done": number + 1})
                since = 0
            on_progress(written, assembly.data.size, job.name)


def _done(record: Path, file: Path, inputs: str) -> int:
    """Return how many jobs an interrupted run has finished."""
    if not record.exists() or not file.exists():
        return 0
    said = json.loads(record.read_text(encoding="utf-8"))
    return int(said["done"]) if said["inputs"] == inputs else 0


def _nbytes(job: Job) -> int:
    if job.blocks is not None:
        return sum(value.const_value.nbytes for value in job.blocks.inputs if value.const_value is not None)
    if job.floats is not None:
        return job.floats.nbytes
    return 0 if job.constant is None else job.constant.nbytes


def _fill(job: Job, source: Checkpoint, stream: OpenDataFile) -> None:
    if job.blocks is not None and source.stored(job.parts[0].name) is not None:
        _copy_blocks(job, job.blocks, source, stream)
    elif job.blocks is not None:
        _fill_blocks(job, job.blocks, source, stream)
    elif job.floats is not None:
        _fill_floats(job, job.floats, source, stream)
    elif job.constant is not None:
        stream.write(job.name, 0, job.constant)


def _copy_blocks(job: Job, table: Table, source: Checkpoint, stream: OpenDataFile) -> None:
    """Take codes, scales and zero points over as a quantized checkpoint has them."""
    names = [str(value.name) for value in table.inputs]
    at = [0] * len(names)
    assert table.scales.dtype is not None  # it was made with one
    scale_type = table.scales.dtype.numpy()
    for part in job.parts:
        weight = source.stored(part.name)
        assert weight is not None  # the assembly saw to it that all parts are stored alike
        rows = slice(part.start, part.stop)
        pieces = [weight.codes[rows], weight.scales[rows].astype(scale_type)]
        if weight.zero_points is not None:
            pieces.append(weight.zero_points[rows])
        at = [stream.write(name, place, piece) for name, place, piece in zip(names, at, pieces, strict=True)]


def _fill_blocks(job: Job, table: Table, source: Checkpoint, stream: OpenDataFile) -> None:
    from picual.numerics import blockwise

    names = [str(value.name) for value in table.inputs]
    form, at = table.format, [0] * len(names)
    assert table.scales.dtype is not None  # it was made with one
    scale_type = table.scales.dtype.numpy().type
    step = max(1, PIECE // table.width)
    for start in range(0, table.height, step):
        weight = source.rows(job.parts, start, min(start + step, table.height))
        try:
            blocks = blockwise.quantize(
                weight, bits=form.bits, block=form.block, symmetric=form.symmetric, scale_type=scale_type
            )
        except FloatingPointError as error:
            raise _not_finite(job) from error
        pieces = [blockwise.pack(blocks.codes, form.bits), blocks.scales]
        if blocks.zero_points is not None:
            pieces.append(blockwise.pack_zero_points(blocks.zero_points, form.bits))
        at = [stream.write(name, place, piece) for name, place, piece in zip(names, at, pieces, strict=True)]


def _fill_floats(job: Job, tensor: ir.ExternalTensor, source: Checkpoint, stream: OpenDataFile) -> None:
    import numpy as np

    name, dtype = str(tensor.name), tensor.dtype.numpy()
    read = source.columns if job.transposed else source.rows
    length = job.shape[1] if job.transposed else job.shape[0]
    other = max(1, int(np.prod(job.shape)) // max(length, 1))
    step, at = max(1, PIECE // other), 0
    for start in range(0, length, step):
        with np.errstate(over="ignore"):  # becomes inf, and is refused
            piece = read(job.parts, start, min(start + step, length)).astype(dtype)
        if not np.isfinite(piece).all():
            raise _not_finite(job)
        at = stream.write(name, at, piece)


def _not_finite(job: Job) -> UnreadableModel:
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(part.name for part in job.parts))
    return UnreadableModel(
        f"{names} holds a weight that is not a number, is infinite, or is too large for the asked type",
        where=job.name,
        hint="check the training that made it, or export with precision fp32",
    )
