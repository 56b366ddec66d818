"""From a weightless graph to the final one, and the list of what its data file will hold, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from picual.errors import Refused
from picual.graph import floats as float_linears
from picual.graph.checkpoint import Checkpoint
from picual.graph.edits import replace_value, sweep
from picual.graph.embedding import replace_embedding
from picual.graph.external_data import DataFile
from picual.graph.linears import WEIGHT, LinearSite, embedding_site, linear_sites
from picual.graph.matmul_nbits import Format, Table, add_table, replace_linear
from picual.models import HfModel
from picual.models.layout import HEAD, TensorSlice, is_tied, slices_of, unused

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


def unsourced(model: ir.Model, source: HfModel) -> list[str]:
    """Return the initializers of a skeleton that wait for a weight which the checkpoint does not have."""
    tensors, config = source.tensors(), source.config()
    waiting = [name for name, value in model.graph.initializers.items() if value.const_value is None]
    return [name for name in waiting if not slices_of(name, tensors, config)]


def assemble(model: ir.Model, source: HfModel, choice: Choice, *, complete: bool = True) -> Assembly:
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
    def __init__(self, model: ir.Model, source: HfModel, choice: Choice) -> None:
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
        for site in list(linear_sites(model)):
            form = self._choice.head if site.is_head else self._choice.body
            if form is None:
                self._float(site, tied=site.is_head and self._tied)
            else:
                table = self._quantized(site.stem, site.names, site.height, site.width, form)
                replace_linear(model, site, table, accuracy_level=self._choice.accuracy_level)
                if site.is_head and self._tied and embedding is not None:
                    replace_embedding(model, self.finished.data, embedding, table)
        if embedding is not None and self._choice.body is not None and not self._tied:
            self._own_embedding(embedding, self._choice.body)
        elif embedding is not None and self._choice.body is None:
            embedding.metadata_props[WEIGHT] = _name(embedding.inputs[0])
        sweep(model)
        self._rest()
        return self

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

    def _own_embedding(self, gather: ir.Node, body: Format) -> None:
        name = _name(gather.inputs[0])
        height, width = self._checkpoint.shape(self._parts(name))
        form = Format(bits=EMBEDDING_BITS, block=body.block, symmetric=body.symmetric)
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
                if self._choice.body is not None:
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


def _name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _shape(value: ir.Value) -> tuple[int, ...]:
    return () if value.shape is None else tuple(int(size) for size in value.shape.numpy())


def _is_external(tensor: ir.TensorProtocol) -> bool:
    import onnx_ir as ir

    return isinstance(tensor, ir.ExternalTensor)
