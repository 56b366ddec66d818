from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from picual.engine.verification.exported import Exported
from picual.engine.verification.pieces import Pieces, cut
from picual.engine.verification.runtime import Session
from picual.errors import UnreadableModel
from picual.testing.tiny import Layout

IDS = np.arange(3 * 40).reshape(3, 40) % 250 + 3
LAYERS = 2  # of the tiny models
LAYOUTS: tuple[Layout, ...] = ("llama", "phi3", "qwen2", "qwen3", "gemma", "mistral")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "fields",
    [{"precision": "fp32"}, {"precision": "int4", "accuracy_level": 0}, {"precision": "int4"}],
    ids=["fp32", "level 0", "level 4"],
)
def test_pieces_give_the_logits_of_the_whole(exports: Any, layout: Layout, fields: dict[str, Any]) -> None:
    _, model = exports(layout, **fields)
    graph = Exported(model.decoder()).at_all_positions(rounded=True)

    session = Session(graph, model.decoder(), threads=1)
    whole = np.stack([session.run(["logits"], ids, {})[0][0] for ids in IDS])
    pieces = np.stack(list(Pieces(model.decoder(), threads=1, graph=graph).each(IDS)))

    assert whole.std() > 0.01
    assert abs(whole - pieces).max() < 1e-5


def test_the_file_itself_gives_its_last_logits_in_pieces(exports: Any) -> None:
    _, model = exports(precision="int4")
    session = Session(model.decoder().read_bytes(), model.decoder(), threads=1)
    whole = [session.run(["logits"], ids, {})[0][0] for ids in IDS]
    pieces = list(Pieces(model.decoder(), threads=1).each(IDS))
    assert [found.shape for found in pieces] == [(1, 320)] * len(IDS)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_node_is_in_one_piece_and_every_layer_a_piece(exports: Any, layout: Layout) -> None:
    graph = onnx.load(exports(layout, precision="int4")[1].decoder(), load_external_data=False).graph
    pieces = cut(graph)

    assert [node.name for piece in pieces for node in piece.nodes] == [node.name for node in graph.node]
    assert len(pieces) == 1 + LAYERS + 1  # the embedding first, the head last
    for number, piece in enumerate(pieces[1:-1]):
        weights = {name for name in piece.read if name.startswith("model.layers.")}
        assert {name.split(".")[2] for name in weights} == {str(number)}
    assert any(node.op_type == "MatMulNBits" for node in pieces[-1].nodes)


def test_a_graph_without_layers_is_one_piece(exports: Any) -> None:
    graph = onnx.load(exports(precision="int4")[1].decoder(), load_external_data=False).graph
    for node in graph.node:
        node.name = ""
        node.input[:] = [name.replace("layers", "parts") for name in node.input]
    for weight in graph.initializer:
        weight.name = weight.name.replace("layers", "parts")
    (piece,) = cut(graph)
    assert len(piece.nodes) == len(graph.node)
    assert (piece.given, piece.kept) == ((), ("logits",))


def test_nodes_out_of_order_are_refused(exports: Any) -> None:
    graph = onnx.load(exports(precision="int4")[1].decoder(), load_external_data=False).graph
    last = graph.node.pop()
    graph.node.insert(0, last)
    with pytest.raises(UnreadableModel, match="its last nodes do not make the logits"):
        cut(graph)
    graph.node.append(graph.node.pop(0))
    graph.node.append(graph.node.pop(0))  # the look-up of the embedding
    graph.node.append(graph.node.pop(-2))
    with pytest.raises(UnreadableModel, match="is taken before it is made"):
        cut(graph)


def test_what_a_branch_takes_crosses_a_cut_too() -> None:
    def branch(name: str) -> onnx.GraphProto:
        made = onnx.helper.make_node("Identity", ["a"], [name])
        return onnx.helper.make_graph([made], name, [], [onnx.ValueInfoProto(name=name)])

    nodes = [
        onnx.helper.make_node("Neg", ["input_ids"], ["a"], name="start"),
        onnx.helper.make_node("Neg", ["a"], ["b"], name="layers.0.step"),
        onnx.helper.make_node(
            "If", ["b"], ["logits"], name="end", then_branch=branch("yes"), else_branch=branch("no")
        ),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [onnx.ValueInfoProto(name="input_ids")], [])
    first, _, last = cut(graph)
    assert first.kept == ("a",)
    assert last.given == ("a", "b")
