"""A layer whose inputs were watched gives, by the shorter way, what it gives when it is run as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from picual.passes.quantize.layer import Layer
from picual.passes.quantize.network import LayeredNetwork
from picual.testing.tiny import Layout, tiny_model

LAYOUTS: tuple[Layout, ...] = ("llama", "phi3", "gemma", "qwen3")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def layered(folder: Path, layout: Layout = "llama") -> LayeredNetwork:
    model = tiny_model(folder, layout=layout)
    return LayeredNetwork(model, torch.arange(12 * 16).reshape(12, 16) % 250)  # more windows than a batch


def name_of(layer: Layer, states: torch.Tensor, end: str) -> str:
    return next(name for group in layer.groups(states) for name in group if name.endswith(f"{end}.weight"))


def through(layer: Layer, states: torch.Tensor) -> list[torch.Tensor]:
    """Watch every group, halving its weights as a quantizer would replace them; return what each got."""
    seen = []
    for group in layer.groups(states):
        got: list[torch.Tensor] = []
        layer.watch(states, group, got.append)
        seen.append(torch.cat(got))
        for name in group:
            layer.replace(name, layer.weight(name) / 2)
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shorter_way_gives_the_states_of_the_whole_layer(tmp_path: Path, layout: Layout) -> None:
    network = layered(tmp_path / "model", layout)
    with network.layer(1) as layer:
        through(layer, network.states)
        short = layer.forward(network.states.clone())
        layer._reached.clear()
        whole = layer.forward(network.states.clone())
    assert torch.allclose(short, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(whole, network.states)


def test_parts_that_were_watched_are_not_run_again(tmp_path: Path) -> None:
    network = layered(tmp_path / "model")
    with network.layer(0) as layer:
        through(layer, network.states)
        query = layer._module.self_attn.q_proj
        query.register_forward_pre_hook(lambda *_: pytest.fail("attention ran again"))
        layer.forward(network.states.clone())


@pytest.mark.parametrize("changed", ["v_proj", "input_layernorm"])
def test_what_changes_before_the_end_of_a_part_is_seen(tmp_path: Path, changed: str) -> None:
    network = layered(tmp_path / "model")
    with network.layer(0) as layer:
        end = name_of(layer, network.states, "o_proj")
        layer.watch(network.states, [end], lambda _: None)
        before = layer.forward(network.states.clone())
        part = "self_attn." if changed == "v_proj" else ""
        name = f"{end.partition('.self_attn')[0]}.{part}{changed}.weight"
        layer.replace(name, layer.weight(name) * 3)
        after = layer.forward(network.states.clone())
    assert not torch.allclose(before, after)
