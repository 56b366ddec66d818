"""Logits at every position from a decoder that was exported to give the last ones alone.

The exporter marks the node that picks the last position. Without it the same graph, with the same external data,
gives logits at all of them.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from picual import _lazy

if TYPE_CHECKING:
    import onnx_ir as ir

LAST_POSITION = "picual.last_position"  # metadata of the node that picks it


def gives_last_alone(file: Path) -> bool:
    """Say whether a graph has the node, without reading it as one: other people's files need no graph library."""
    with file.open("rb") as stream:
        if not file.stat().st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(LAST_POSITION.encode()) >= 0


def with_all_positions(file: Path) -> bytes | None:
    """Return a marked graph without its node; None for any other. External data stay where they are.

    The runtime must be told the folder of the data: bytes have none.
    """
    if not gives_last_alone(file):
        return None
    loader = _lazy.need("onnx_ir", extra="cpu", by="logits at every position")
    model = loader.load(file)
    give_all_positions(model)
    graph: bytes = loader.to_proto(model).SerializeToString()
    return graph


def give_all_positions(model: ir.Model) -> None:
    """By-pass the marked node and the one that picks the states it is given, if they are there."""
    import onnx_ir as ir

    graph = model.graph
    marked = next((node for node in graph if LAST_POSITION in node.metadata_props), None)
    picked = None if marked is None or marked.inputs[0] is None else marked.inputs[0].producer()
    if marked is None or picked is None or picked.inputs[0] is None:
        return
    ir.convenience.replace_all_uses_with(marked.outputs[0], picked.inputs[0])
    graph.remove(marked, safe=True)
    for output in graph.outputs:
        if output.name == "logits" and output.shape is not None:
            output.shape = ir.Shape([output.shape[0], "sequence_length", *output.shape[2:]])
