"""A skeleton that was written and read is the one that was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.graph import skeleton_file
from picual.graph.skeleton import build_skeleton
from picual.testing.tiny import Layout, tiny_model


@pytest.mark.parametrize("layout", ["llama", "phi3", "gemma"])
def test_nothing_is_lost_and_the_same_waits_for_weights(tmp_path: Path, layout: Layout) -> None:
    config = json.loads((tiny_model(tmp_path / "hf", layout=layout).path / "config.json").read_text())
    made = build_skeleton(config, floats="fp32", provider="CPUExecutionProvider")
    waiting = {
        name: (value.dtype, str(value.shape))
        for name, value in made.graph.initializers.items()
        if value.const_value is None
    }

    skeleton_file.write(made, tmp_path / "skeleton.onnx")
    found = skeleton_file.read(tmp_path / "skeleton.onnx")

    assert len(waiting) > 10
    assert {
        name: (value.dtype, str(value.shape))
        for name, value in found.graph.initializers.items()
        if value.const_value is None
    } == waiting
    assert list(found.graph.initializers) == list(made.graph.initializers)
    assert [(node.domain, node.op_type, node.name) for node in found.graph] == [
        (node.domain, node.op_type, node.name) for node in made.graph
    ]
    assert dict(found.opset_imports) == dict(made.opset_imports)
