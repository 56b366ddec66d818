"""A decoder's graph in pieces: runs of its nodes, in the file's order, that are sessions one at a time.

The runtime packs every weight anew when it loads a graph, so a session takes memory as the file is large. A cut
before the first node of each layer bounds that to a layer's. What crosses a cut is kept as arrays.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.engine.verification.readback import give_back
from picual.engine.verification.runtime import Session
from picual.errors import UnreadableModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

LOGITS = "logits"
LAYER = re.compile(r"\blayers[./](\d+)[./]")  # in the names of weights and of nodes


@dataclass(frozen=True)
class Piece:
    """Some nodes of a graph, one after another."""

    nodes: Sequence[onnx.NodeProto]
    read: frozenset[str]  # every name that a node takes, those of weights too
    given: tuple[str, ...]  # what nodes before these make and these take
    kept: tuple[str, ...]  # what these make and nodes after these take; at last the logits


class Pieces:
    """One decoder that is never in memory as a whole.

    Args:
        file: The ``.onnx`` file.
        threads: Of each session.
        graph: What to run in its place, with the same external data.
        adapter: Values of the inputs that an adapter fills, by name.
    """

    def __init__(
        self, file: Path, *, threads: int, graph: bytes | None = None,
        adapter: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:  # fmt: skip
        import onnx

        self._file, self._threads, self._adapter = file, threads, dict(adapter or {})
        self._model = onnx.ModelProto.FromString(file.read_bytes() if graph is None else graph)
        self._pieces = cut(self._model.graph, str(file))

    def each(self, windows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield logits (T or 1, vocabulary) of each of the token ids (windows, T)."""
        return self.ends(windows, self.body(windows))

    def body(self, windows: npt.NDArray[np.int64]) -> list[dict[str, npt.NDArray[Any]]]:
        """Run all but the last piece, each over all windows before the next one is loaded.

        Returns:
            What the last piece takes of those before it, by name, for each window.
        """
        held: list[dict[str, Any]] = [{} for _ in windows]
        *body, _ = self._pieces
        for number, piece in enumerate(body):
            session = self._open(piece, held[0])
            for ids, values in zip(windows, held, strict=True):
                values.update(zip(piece.kept, session.run(piece.kept, ids, values | self._adapter), strict=True))
            wanted = {name for later in self._pieces[number + 1 :] for name in later.given}
            held = [{name: values[name] for name in values if name in wanted} for values in held]
            del session
            give_back()
        return held

    def ends(
        self, windows: npt.NDArray[np.int64], held: Sequence[Mapping[str, npt.NDArray[Any]]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield logits (T or 1, vocabulary) window by window, by the last piece alone.

        Args:
            windows: Token ids (windows, T).
            held: What `body` returned for them, maybe that of a graph which is equal before the last piece.

        Raises:
            UnreadableModel: The last piece takes more than was held.
        """
        head = self._pieces[-1]
        lost = sorted(set(head.given) - set(held[0]))
        if lost:
            raise UnreadableModel(f"the last nodes take `{lost[0]}`, which was not kept", where=str(self._file))
        session = self._open(head, held[0])
        for ids, values in zip(windows, held, strict=True):
            yield _as_floats(session.run([LOGITS], ids, {**values, **self._adapter})[0][0])
            give_back()

    def equal_before_the_last(self, other: Pieces) -> bool:
        """Say whether two graphs differ in their last piece at most."""
        mine, theirs = self._pieces[:-1], other._pieces[:-1]
        return len(mine) == len(theirs) and all(
            list(one.nodes) == list(two.nodes) for one, two in zip(mine, theirs, strict=True)
        )

    def _open(self, piece: Piece, values: Mapping[str, npt.NDArray[Any]]) -> Session:
        """Load one piece; the values say of what types and shapes its inputs are."""
        import onnx

        whole, graph = self._model, self._model.graph
        part = onnx.ModelProto(ir_version=whole.ir_version)
        part.opset_import.extend(whole.opset_import)
        part.functions.extend(whole.functions)
        part.graph.name = graph.name
        part.graph.node.extend(piece.nodes)
        part.graph.initializer.extend(weight for weight in graph.initializer if weight.name in piece.read)
        part.graph.input.extend(value for value in graph.input if value.name in piece.read)
        for name in piece.given:
            kind = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
            part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, values[name].shape))
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in piece.kept)
        return Session(part.SerializeToString(), self._file, threads=self._threads)


def cut(graph: onnx.GraphProto, where: str = "") -> list[Piece]:
    """Return all nodes of a graph, each in one piece: what comes before the layers, each layer, what comes after.

    A graph that names no layers is one piece.

    Raises:
        UnreadableModel: A node takes what no earlier one makes, or none of the last ones makes the logits.
    """
    ends = [*_starts(graph), len(graph.node)]
    runs = [list(graph.node[start:end]) for start, end in itertools.pairwise([0, *ends])]
    reads = [frozenset(name for node in run for name in _read(node)) for run in runs]
    makes = [[name for node in run for name in node.output if name] for run in runs]
    known = {value.name for value in (*graph.input, *graph.initializer)}
    home = {name: number for number, made in enumerate(makes) for name in made}
    if home.get(LOGITS) != len(runs) - 1:
        raise UnreadableModel("the graph cannot be cut: its last nodes do not make the logits", where=where)
    pieces = []
    for number, (run, read) in enumerate(zip(runs, reads, strict=True)):
        given = sorted(name for name in read if home.get(name, number) != number)
        lost = [name for name in given if home[name] > number or name in known]
        if lost:
            raise UnreadableModel(f"the graph cannot be cut: `{lost[0]}` is taken before it is made", where=where)
        later = frozenset[str]().union(*reads[number + 1 :])
        kept = [name for name in makes[number] if name in later or name == LOGITS]
        pieces.append(Piece(run, read, tuple(given), tuple(kept)))
    assert sum(len(piece.nodes) for piece in pieces) == len(graph.node)
    return pieces


def _starts(graph: onnx.GraphProto) -> list[int]:
    """Return the places of the first node of each layer and of the first one after the layers."""
    weights = {weight.name for weight in graph.initializer}
    starts: list[int] = []
    highest = last = -1
    for place, node in enumerate(graph.node):
        names = [name for name in node.input if name in weights]
        layers = [int(found[1]) for name in (*names, node.name) for found in LAYER.finditer(name)]
        if not layers:
            continue
        last = place
        if max(layers) > highest:
            highest = max(layers)
            starts.append(place)
    if 0 <= last < len(graph.node) - 1:
        starts.append(last + 1)
    return [start for start in starts if start]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name that a node takes, its branches and loops too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)


def _as_floats(row: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = row.astype("float32", copy=False)
    return found
