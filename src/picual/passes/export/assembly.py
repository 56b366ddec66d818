"""From a weightless graph to the final one, and the list of what its data file will hold, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from picual.errors import Refused
from picual.graph import floats as float_linears
from picual.graph.checkpoint import Checkpoint
from picual.graph.edits import replace_value, sweep
from picual.graph.embedding import replace_embedding
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT, LinearSite, embedding_site, linear_sites
from picual.graph.matmul_nbits import Table, add_table, replace_linear
from picual.graph.packing import pack_gates
from picual.models import HfCheckpoint, QuantizedHfModel
from picual.models.layout import HEAD, TensorSlice, is_tied, slices_of, unused
from picual.numerics.block_sizes import Bits, Format

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

DATA_FILE = "model.onnx.data"
INLINE = 1024  # bytes: smaller constants stay in the graph
EMBEDDING_BITS: Literal[8] = 8  # of a table of its own: reading it costs one row a token, so it can be wide


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the weights become."""

    floats: Literal["fp32", "fp16"]  # type of activations, and of the weights that stay floats
    body: Format | None  # None: floats
    head: Format | None
    accuracy_level: int = 0
    widest_rounded: int = 256  # block; activations of wider ones stay floats
    keep: bool = False  # a quantized checkpoint's integers go over as they are

    @property
    def table(self) -> Format | None:
        """What an embedding of its own becomes."""
        return None if self.body is None else replace(self.body, bits=EMBEDDING_BITS)

    def level_of(self, form: Format) -> int:
        """Return the accuracy level of a layer stored so."""
        return self.accuracy_level if form.block <= self.widest_rounded else 0

    def form(self, *, is_head: bool) -> Format | None:
        """Return what a linear layer becomes; None: it stays a float."""
        return self.head if is_head else self.body


@dataclass(frozen=True)
class Job:
    """One stretch of the data file to fill.

    Attributes:
        name: What it is, as the journal says it.
        parts: Where its rows lie in the checkpoint; empty for a constant.
        shape: Of the stacked parts.
        blocks: The table they become, or None.
        floats: The tensor they become otherwise: rows as they are, or W^T where ``transposed``.
        constant: The content, where it does not come from the checkpoint.
        how: For the journal.
    """

    name: str
    parts: tuple[TensorSlice, ...]
    shape: tuple[int, ...]
    blocks: Table | None = None
    floats: ir.ExternalTensor | None = None
    constant: npt.NDArray[np.generic] | None = None
    transposed: bool = False
    how: str = ""


@dataclass
class Assembly:
    """A finished graph and what its data file waits for."""

    model: ir.Model
    data: DataFile
    jobs: list[Job] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)  # weights left as they are, and why


def unsourced(model: ir.Model, source: HfCheckpoint) -> list[str]:
    """Return the initializers of a skeleton that wait for a weight which the checkpoint does not have."""
    tensors, config = source.tensors(), source.config()
    waiting = [name for name, value in model.graph.initializers.items() if value.const_value is None]
    return [name for name in waiting if not slices_of(name, tensors, config)]


def assemble(model: ir.Model, source: HfCheckpoint, choice: Choice, *, complete: bool = True) -> Assembly:
    """Edit ``model`` into the graph to be written.

    Args:
        model: A skeleton.
        source: The checkpoint.
        choice: What the weights become.
        complete: Whether the skeleton waits for every tensor of the checkpoint; otherwise for linears at most.

    Raises:
        Refused: A shape differs from the checkpoint's, or a tensor of the checkpoint has no place in the graph.
    """
    made = _Assembler(model, source, choice).assemble()
    if complete:
        made.nothing_dropped()
    return made.finished


class _Assembler:
    def __init__(self, model: ir.Model, source: HfCheckpoint, choice: Choice) -> None:
        import onnx_ir as ir

        self._source, self._choice = source, choice
        self._tensors, self._config = source.tensors(), source.config()
        self._checkpoint = Checkpoint(source)
        self._tied = is_tied(self._tensors, self._config)
        self._floats = ir.DataType.FLOAT16 if choice.floats == "fp16" else ir.DataType.FLOAT
        self.finished = Assembly(model, DataFile(DATA_FILE))
        self._used: dict[str, set[tuple[int, int]]] = {}

    def assemble(self) -> _Assembler:
        model = self.finished.model
        embedding = embedding_site(model)
        if embedding is not None and self._tied:
            self._tie(embedding)
        pack_gates(model, self._alike)
        for site in list(linear_sites(model)):
            form = self._form(site.names) if self._choice.keep else self._choice.form(is_head=site.is_head)
            if form is None:
                self._float(site, tied=site.is_head and self._tied)
            else:
                table = self._quantized(site.stem, site.names, site.height, site.width, form)
                replace_linear(model, site, table, accuracy_level=self._choice.level_of(form))
                if site.is_head and self._tied and embedding is not None:
                    replace_embedding(model, self.finished.data, embedding, table)
        if embedding is not None and embedding.op_type == "Gather" and embedding.graph is not None:
            self._embedding(embedding)
        sweep(model)
        self._rest()
        return self

    def _alike(self, names: Sequence[str]) -> bool:
        """Say whether weights have one format, so that one kernel can take them."""
        return not self._choice.keep or len(self._forms(names)) == 1

    def _form(self, names: Sequence[str]) -> Format | None:
        """Return how a quantized checkpoint stores weights that one kernel takes; None where they are floats.

        Raises:
            Refused: They are stored in different ways.
        """
        forms = self._forms(names)
        if len(forms) > 1:
            raise Refused(
                f"{', '.join(f'`{name}`' for name in names)} are one kernel's and stored in different formats",
                where=str(self._source.path),
                hint="quantize with the same `overrides` for all of them",
            )
        return next(iter(forms), None)

    def _forms(self, names: Sequence[str]) -> set[Format | None]:
        assert isinstance(self._source, QuantizedHfModel)
        stored = self._source.stored()
        found = {stored.get(part.name) for name in names for part in self._parts(name)}
        return {
            None if one is None else Format(bits=_bits(one.bits), block=one.block, symmetric=one.symmetric)
            for one in found
        }

    def _embedding(self, gather: ir.Node) -> None:
        """Give an embedding that no head's table stands for its own, or leave it as floats."""
        name = _name(gather.inputs[0])
        form = self._form([name]) if self._choice.keep else self._choice.table
        if form is None or self._tied:
            gather.metadata_props[WEIGHT] = name
        else:
            self._own_embedding(gather, form)

    def _tie(self, embedding: ir.Node) -> None:
        head = self.finished.model.graph.initializers.get(HEAD)
        table = embedding.inputs[0]
        if head is not None and table is not None:
            replace_value(head, table)

    def _quantized(self, stem: str, names: Sequence[str], height: int, width: int, form: Format) -> Table:
        table = add_table(self.finished.model, self.finished.data, stem, height, width, form, self._floats)
        parts = self._take(stem, names, (height, width))
        self.finished.jobs.append(Job(stem, parts, (height, width), blocks=table, how=str(form)))
        return table

    def _float(self, site: LinearSite, *, tied: bool) -> None:
        if tied:
            float_linears.keep_tied_head(site)
            self.finished.kept.append((site.stem, "tied: reads the embedding's table"))
            return
        shape = (site.height, site.width)
        parts = self._take(site.stem, site.names, shape)
        tensor = float_linears.replace_linear(self.finished.model, self.finished.data, site, self._floats)
        how = self._choice.floats
        self.finished.jobs.append(Job(site.stem, parts, shape, floats=tensor, transposed=True, how=how))

    def _own_embedding(self, gather: ir.Node, form: Format) -> None:
        name = _name(gather.inputs[0])
        height, width = self._checkpoint.shape(self._parts(name))
        table = self._quantized(name.removesuffix(".weight"), [name], height, width, form)
        replace_embedding(self.finished.model, self.finished.data, gather, table)

    def _rest(self) -> None:
        """Give every initializer that is left its place: norms, biases, a float embedding, constants."""
        graph = self.finished.model.graph
        for name, value in list(graph.initializers.items()):
            constant = value.const_value
            if constant is None:
                shape = _shape(value)
                parts = self._take(name, [name], shape)
                tensor = self.finished.data.reserve(name, self._floats, shape)
                value.const_value = tensor
                self.finished.jobs.append(Job(name, parts, shape, floats=tensor))
                if self._choice.body is not None or self._choice.keep:
                    self.finished.kept.append((name, "no linear layer: stays a float"))
            elif not self.finished.data.holds(name) and (constant.nbytes >= INLINE or _is_external(constant)):
                array = constant.numpy()
                value.const_value = self.finished.data.reserve(name, constant.dtype, array.shape)
                self.finished.jobs.append(Job(name, (), tuple(array.shape), constant=array))

    def _take(self, name: str, names: Sequence[str], shape: tuple[int, ...]) -> tuple[TensorSlice, ...]:
        """Return where stacked weights lie, and remember that they are used."""
        parts = tuple(part for one in names for part in self._parts(one))
        found = self._checkpoint.shape(parts)
        if found != shape:
            raise Refused(
                f"`{name}` is {found} in the checkpoint and {shape} in its graph",
                where=str(self._source.path),
                hint="config.json and the weights belong to different models: fetch the model again",
            )
        for part in parts:
            self._used.setdefault(part.name, set()).add((part.start, part.stop))
        return parts

    def _parts(self, name: str) -> list[TensorSlice]:
        return slices_of(name, self._tensors, self._config)

    def nothing_dropped(self) -> None:
        left = unused(self._tensors, self._config, self._used)
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise Refused(
                f"the graph of this architecture has no place for `{left[0]}`{more}: exporting would drop it",
                where=str(self._source.path),
                hint="config.json and the weights belong to different models: fetch the model again",
            )


def _bits(bits: int) -> Bits:
    if bits == 2:
        return 2
    return 4 if bits == 4 else 8


def _name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _shape(value: ir.Value) -> tuple[int, ...]:
    return () if value.shape is None else tuple(int(size) for size in value.shape.numpy())


def _is_external(tensor: ir.TensorProtocol) -> bool:
    import onnx_ir as ir

    return isinstance(tensor, ir.ExternalTensor)
