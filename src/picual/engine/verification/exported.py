"""What an exported file holds, read from the file alone: each weight as the runtime's kernels will see it.

N: outputs · K: inputs · B: blocks a row = ceil(K / block).

``MatMulNBits`` and ``GatherBlockQuantized`` store codes q of 2, 4 or 8 bits, the first of a byte in its lowest
bits; w = (q - zero point) * scale, with the zero point 2^(bits - 1) where none is stored.
Source: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import UnreadableModel
from picual.models.all_positions import LAST_POSITION, give_all_positions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

WEIGHT = "picual.weight"  # metadata of a node: the weights it holds, named in Llama's way, in row order
MULTIPLY = ("MatMul", "Gemm", "MatMulNBits")
LOOK_UP = ("Gather", "GatherBlockQuantized")


@dataclass(frozen=True)
class Floats:
    """Plain numbers, stored as (N, K) or transposed."""

    stored: npt.NDArray[Any]  # (N, K) as seen, whatever the order in the file

    @property
    def height(self) -> int:
        """N."""
        return int(self.stored.shape[0])

    @property
    def width(self) -> int:
        """K."""
        return int(self.stored.shape[1])

    @property
    def dtype(self) -> str:
        """The numbers' type: float32, float16."""
        return str(self.stored.dtype)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows as float32."""
        return self.stored[start:stop].astype("float32")


@dataclass(frozen=True)
class Blocks:
    """Small integers in blocks that share a scale."""

    packed: npt.NDArray[np.uint8]  # (N, bytes a row)
    scales: npt.NDArray[Any]  # (N, B)
    zero_points: npt.NDArray[Any] | None  # (N, bytes a row) packed, or (N, B) in the scales' type
    bits: int
    block: int
    width: int

    @property
    def height(self) -> int:
        """N."""
        return int(self.packed.shape[0])

    @property
    def count(self) -> int:
        """B."""
        return -(-self.width // self.block)

    @property
    def symmetric(self) -> bool:
        """Whether no zero points are stored."""
        return self.zero_points is None

    def steps(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the distance between two codes, (rows, B)."""
        return self.scales[start:stop].astype("float32")

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows as float32: the codes less their zero points, times the scales."""
        codes = _unpack(self.packed[start:stop], self.bits)[:, : self.count * self.block]
        centred = codes.reshape(len(codes), self.count, self.block).astype("float32")  # (rows, B, block)
        centred -= self._zeros(start, stop)[:, :, None]
        centred *= self.steps(start, stop)[:, :, None]
        return centred.reshape(len(codes), -1)[:, : self.width]

    def _zeros(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the zero points, (rows, B)."""
        import numpy as np

        if self.zero_points is None:
            return np.full((stop - start, self.count), 2.0 ** (self.bits - 1), dtype=np.float32)
        stored = self.zero_points[start:stop]
        if stored.dtype == np.uint8:
            stored = _unpack(stored, self.bits)[:, : self.count]
        return stored.astype(np.float32)


Matrix = Floats | Blocks  # a weight (N, K) in a file


def _unpack(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return one code a byte, (rows, bytes * 8 / bits)."""
    import numpy as np

    if bits == 8:
        return packed
    share, mask = 8 // bits, 2**bits - 1
    codes = np.empty((packed.shape[0], packed.shape[1], share), dtype=np.uint8)
    for place in range(share):
        np.bitwise_and(packed >> np.uint8(place * bits), mask, out=codes[:, :, place])
    return codes.reshape(packed.shape[0], -1)


@dataclass(frozen=True)
class Holder:
    """A node that holds weights: a linear layer, or the table of the embedding."""

    node: str
    op: str
    names: tuple[str, ...]  # in row order, as the file names them
    matrix: Matrix
    accuracy_level: int  # of a MatMulNBits: 4 rounds activations to int8, 0 does not

    @property
    def activation_block(self) -> int:
        """How many activations the kernel rounds to int8 together; 0 when it takes them as they are."""
        return self.matrix.block if self.accuracy_level == 4 and isinstance(self.matrix, Blocks) else 0


class Exported:
    """An ``.onnx`` file and its external data. Opening reads the graph; weights stay on the disk."""

    def __init__(self, file: Path) -> None:
        loader = _lazy.need("onnx_ir", extra="export", by="verification")
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

        try:
            self._graph: ir.Graph = loader.load(file).graph
        except (OSError, DecodeError, ValueError) as error:
            raise UnreadableModel(f"`{file.name}` is no readable ONNX file ({error})", where=str(file)) from error
        self._file = file

    @property
    def graph(self) -> ir.Graph:
        """The graph, its weights on the disk."""
        return self._graph

    @property
    def gives_last_alone(self) -> bool:
        """Whether logits come at the last position alone, by a node that can be by-passed."""
        return any(LAST_POSITION in node.metadata_props for node in self._graph)

    def at_all_positions(self, *, rounded: bool) -> bytes:
        """Return the graph with logits at every position; its external data stay where they are.

        Args:
            rounded: Whether kernels go on rounding activations; otherwise every accuracy level becomes 0.
        """
        import onnx_ir as ir

        model = ir.load(self._file)
        give_all_positions(model)
        for node in model.graph if not rounded else ():
            if "accuracy_level" in node.attributes:
                node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        graph: bytes = ir.to_proto(model).SerializeToString()
        return graph

    @cached_property
    def incomplete(self) -> list[str]:
        """What the external data lack, a sentence a file; empty when all is there."""
        ends: dict[Path, int] = {}
        for value in self._graph.initializers.values():
            tensor: Any = value.const_value
            if _is_external(tensor):
                path = self._file.parent / tensor.location
                ends[path] = max(ends.get(path, 0), (tensor.offset or 0) + (tensor.length or tensor.nbytes))
        found = []
        for path, end in ends.items():
            size = path.stat().st_size if path.is_file() else -1
            if size < 0:
                found.append(f"`{path.name}` is missing")
            elif size < end:
                found.append(f"`{path.name}` is cut short: {size} bytes of {end}")
        return found

    @cached_property
    def linears(self) -> tuple[Holder, ...]:
        """Every node that multiplies by a weight, in the order of the graph."""
        return tuple(holder for node in self._graph for holder in self._linear(node))

    @cached_property
    def tables(self) -> tuple[Holder, ...]:
        """Every node that looks rows up in a weight."""
        return tuple(holder for node in self._graph for holder in self._table(node))

    def vector(self, name: str) -> npt.NDArray[Any] | None:
        """Return a norm's weight or a bias, as stored; None when the file has no such initializer."""
        value = self._graph.initializers.get(name)
        return None if value is None or value.const_value is None else self._array(value)

    def _linear(self, node: ir.Node) -> Iterator[Holder]:
        if node.op_type not in MULTIPLY:
            return
        found = self._blocks(node) if node.op_type == "MatMulNBits" else self._floats(node)
        if found is not None:
            names, matrix = found
            level = node.attributes.get_int("accuracy_level", 0) if node.op_type == "MatMulNBits" else 0
            yield Holder(str(node.name), node.op_type, self._names(node, names), matrix, level or 0)

    def _table(self, node: ir.Node) -> Iterator[Holder]:
        if node.op_type not in LOOK_UP or node.inputs[0] is None:
            return
        value = node.inputs[0]
        if value.const_value is None or value.shape is None or len(value.shape) != 2:
            return
        if node.op_type == "GatherBlockQuantized":
            bits = node.attributes.get_int("bits", 4) or 4
            packed = self._array(value)
            matrix: Matrix = self._blocks_of(node, packed, packed.shape[1] * 8 // bits, bits)
        elif value.const_value.dtype.is_floating_point():
            matrix = Floats(self._array(value))
        else:
            return
        yield Holder(str(node.name), node.op_type, self._names(node, (str(value.name),)), matrix, 0)

    def _names(self, node: ir.Node, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        said = node.metadata_props.get(WEIGHT)
        return tuple(said.split(",")) if said else otherwise

    def _blocks(self, node: ir.Node) -> tuple[tuple[str, ...], Matrix]:
        value = node.inputs[1]
        assert value is not None
        packed = self._array(value)  # (N, B, bytes a block)
        width = node.attributes.get_int("K", 0) or 0
        bits = node.attributes.get_int("bits", 4) or 4
        return (str(value.name),), self._blocks_of(node, packed.reshape(packed.shape[0], -1), width, bits)

    def _blocks_of(self, node: ir.Node, packed: npt.NDArray[np.uint8], width: int, bits: int) -> Blocks:
        block = node.attributes.get_int("block_size", 0) or 0
        zeros = node.inputs[3] if len(node.inputs) > 3 else None
        height = packed.shape[0]
        scale = node.inputs[2]
        if scale is None or block < 1 or bits not in {2, 4, 8}:
            raise UnreadableModel(
                f"node `{node.name}` has no scales, no block size or {bits} bits", where=str(self._file)
            )
        count = -(-width // block)
        factors = self._array(scale)
        codes = height * count * block * bits // 8
        if factors.size != height * count or packed.size < codes:
            raise UnreadableModel(
                f"node `{node.name}` holds {factors.size} scales and {packed.size} bytes of codes for "
                f"{height} x {width} weights in blocks of {block}",
                where=str(self._file),
            )
        points = None if zeros is None else self._array(zeros).reshape(height, -1)
        return Blocks(packed, factors.reshape(height, count), points, bits, block, width)

    def _floats(self, node: ir.Node) -> tuple[tuple[str, ...], Matrix] | None:
        """Return the weight behind the right input, seen as (N, K), if it is one."""
        import numpy as np

        turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
        parts = self._constants(node.inputs[1])
        if parts is None:
            return None
        names, arrays, transposed = parts
        if any(array.ndim != 2 for array in arrays):
            return None
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=0 if transposed else 1)
        return names, Floats(whole if transposed != turned else whole.T)

    def _constants(self, value: ir.Value | None) -> tuple[tuple[str, ...], list[npt.NDArray[Any]], bool] | None:
        """Follow a value back through Transpose and Concat to its initializers; say whether it was transposed."""
        if value is None:
            return None
        if value.const_value is not None and not value.is_graph_input():  # an adapter's inputs are no weights
            return (str(value.name),), [self._array(value)], False
        producer = value.producer()
        if producer is None or producer.op_type not in {"Transpose", "Concat"}:
            return None
        found = [self._constants(source) for source in producer.inputs]
        if any(part is None for part in found):
            return None
        known = [part for part in found if part is not None]
        names = tuple(name for part in known for name in part[0])
        arrays = [array for part in known for array in part[1]]
        return names, arrays, known[0][2] != (producer.op_type == "Transpose")

    def _array(self, value: ir.Value) -> npt.NDArray[Any]:
        """Return an initializer, mapped from its file where it lies outside the graph."""
        import numpy as np

        tensor: Any = value.const_value
        if tensor is None:
            raise UnreadableModel(f"`{value.name}` is no constant", where=str(self._file))
        if not _is_external(tensor):
            return np.asarray(tensor.numpy())
        shape = tuple(int(size) for size in tensor.shape)
        if math.prod(shape) == 0:
            return np.zeros(shape, tensor.dtype.numpy())
        path = self._file.parent / tensor.location
        try:
            return np.memmap(path, tensor.dtype.numpy(), "r", tensor.offset or 0, shape)
        except (OSError, ValueError) as error:
            raise UnreadableModel(
                f"`{value.name}` cannot be read from `{path.name}` ({error})", where=str(path)
            ) from error


def _is_external(tensor: Any) -> bool:
    import onnx_ir as ir

    return isinstance(tensor, ir.ExternalTensor)
