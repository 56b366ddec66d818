from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from picual.models.links import Link, links_of
from picual.testing.tiny import Layout, tiny_model


def shown(link: Link) -> tuple[str, int, int, tuple[str, ...]]:
    """The writer and its rows, and the readers, without the prefix of the first layer."""
    writer, *readers = (name.removeprefix("model.layers.0.") for name in (link.writer.name, *link.readers))
    return (
        writer.removesuffix(".weight"),
        link.writer.start,
        link.writer.stop,
        tuple(r.removesuffix(".weight") for r in readers),
    )


def links(model: Any) -> list[Link]:
    return list(links_of(model.tensors(), model.config()))


def test_norms_and_rows_write_what_linear_layers_read(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, kv_heads=4)
    found = links(model)
    assert [shown(link) for link in found[:4]] == [
        ("input_layernorm", 0, 64, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("self_attn.v_proj", 0, 64, ("self_attn.o_proj",)),
        ("post_attention_layernorm", 0, 64, ("mlp.gate_proj", "mlp.up_proj")),
        ("mlp.up_proj", 0, 96, ("mlp.down_proj",)),
    ]
    assert [link.writer.name.split(".")[2] for link in found] == ["0"] * 4 + ["1"] * 4


def test_rows_of_fused_weights_are_those_of_their_parts(tmp_path: Path) -> None:
    found = [shown(link) for link in links(tiny_model(tmp_path, layout="phi3", kv_heads=4))[:4]]
    assert found == [
        ("input_layernorm", 0, 64, ("self_attn.qkv_proj",)),
        ("self_attn.qkv_proj", 128, 192, ("self_attn.o_proj",)),
        ("post_attention_layernorm", 0, 64, ("mlp.gate_up_proj",)),
        ("mlp.gate_up_proj", 96, 192, ("mlp.down_proj",)),
    ]


@pytest.mark.parametrize("layout", ["llama", "phi3", "qwen3"])
def test_rows_that_several_heads_share_write_nothing(tmp_path: Path, layout: Layout) -> None:
    readers = [name for link in links(tiny_model(tmp_path, layout=layout)) for name in link.readers]
    assert not any("o_proj" in name for name in readers)


def test_rows_with_a_bias_write_nothing(tmp_path: Path) -> None:
    readers = [name for link in links(tiny_model(tmp_path, layout="qwen2", kv_heads=4)) for name in link.readers]
    assert any("down_proj" in name for name in readers)
    assert not any("o_proj" in name for name in readers)


def test_gemmas_norms_multiply_by_one_more(tmp_path: Path) -> None:
    assert [link.added for link in links(tiny_model(tmp_path, layout="gemma"))[:3]] == [1.0, 1.0, 0.0]


def test_norm_before_the_feed_forward_part_may_have_another_name(tmp_path: Path) -> None:
    from picual.models.safetensors_file import TensorInfo

    shapes = {
        f"model.layers.0.{name}.weight": (64,)
        for name in ("post_attention_layernorm", "pre_feedforward_layernorm")
    }
    shapes |= {f"model.layers.0.mlp.{name}.weight": (96, 64) for name in ("gate_proj", "up_proj")}
    tensors = {name: TensorInfo(name, "F32", shape, tmp_path, 0, 0) for name, shape in shapes.items()}
    (link,) = links_of(tensors, {"model_type": "gemma2"})
    assert link.writer.name == "model.layers.0.pre_feedforward_layernorm.weight"


def test_networks_that_are_laid_out_otherwise_have_none(tmp_path: Path) -> None:
    tensors = tiny_model(tmp_path).tensors()
    assert links_of(tensors, {"model_type": "cohere"}) == ()
