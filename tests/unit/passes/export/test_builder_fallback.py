"""Networks that only the runtime's own builder makes: same weights, same checks, or a reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from picual.errors import Refused
from picual.hardware import Target
from picual.models import GenaiModel, HfModel
from picual.models.session import open_session
from picual.passes.base import PassContext
from picual.passes.export import builder_fallback
from picual.passes.export.genai import BuildGenai
from picual.testing.tiny import tiny_model

IDS = np.random.default_rng(0).integers(0, 256, 32).astype(np.int64)


def phi_model(folder: Path) -> HfModel:
    """Return a network whose checkpoint goes by names that the graph library does not know."""
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    tiny_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, partial_rotary_factor=0.5, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    network = PhiForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.5 if "embed" in name else 0.15)
    network.save_pretrained(folder)
    return HfModel(folder)


def export(model: HfModel, out: Path, **fields: Any) -> tuple[GenaiModel, PassContext]:
    out.mkdir()
    out.with_name("scratch").mkdir()
    context = PassContext(out, out.with_name("scratch"), target=Target(threads=1))
    a_pass = BuildGenai(**fields)
    a_pass.check(model, context.target)
    return a_pass.run(model, context), context


def logits(model: HfModel | GenaiModel) -> npt.NDArray[np.float32]:
    session = open_session(model, threads=1)
    try:
        return session.logits(IDS)
    finally:
        session.close()


def test_floats_are_the_checkpoints(tmp_path: Path) -> None:
    model = phi_model(tmp_path / "in")

    made, context = export(model, tmp_path / "out", precision="fp32")

    np.testing.assert_allclose(logits(made), logits(model), atol=1e-3)
    assert any("own builder" in entry.get("note", "") for entry in context.journal)


def test_integers_are_traced_to_the_checkpoint(tmp_path: Path) -> None:
    model = phi_model(tmp_path / "in")

    made, context = export(model, tmp_path / "out", precision="int8", head="int8", block=16)

    difference = np.abs(logits(made) - logits(model)).max()
    assert difference < 0.1 * np.abs(logits(model)).max()
    quantized = [entry["changed"] for entry in context.journal if entry.get("how") == "int8 block 16"]
    assert "model.layers.1.mlp.fc2" in quantized
    assert "lm_head" in quantized


def test_a_weight_of_the_builder_that_the_checkpoint_does_not_hold_is_not_quantized(tmp_path: Path) -> None:
    model = phi_model(tmp_path / "in")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    graph = builder_fallback.build_skeleton(
        model, floats="fp32", quantized=True, provider="CPUExecutionProvider", scratch=scratch
    )
    waiting = {name for name, value in graph.graph.initializers.items() if value.const_value is None}
    assert "model.layers.0.self_attn.dense.weight" in waiting

    other = tmp_path / "other"
    shutil.copytree(model.path, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.self_attn.dense.weight"][63, 63] += 1
    save_file(tensors, other / "model.safetensors")

    with pytest.raises(Refused, match="cannot be traced to the checkpoint"):
        builder_fallback.traced(scratch, HfModel(other), quantized=True)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_known_network_comes_out_the_same_either_way(precision: Any, tmp_path: Path) -> None:
    from picual.graph.checkpoint import Checkpoint
    from picual.graph.matmul_nbits import Format
    from picual.passes.export.assembly import Choice, assemble
    from picual.passes.export.filling import fill
    from picual.passes.export.genai import save

    model = tiny_model(tmp_path / "in")
    usual, _ = export(model, tmp_path / "out", precision=precision, accuracy_level=0)
    out = tmp_path / "forced"
    out.mkdir()
    skeleton = builder_fallback.build_skeleton(
        model, floats="fp32", quantized=precision == "int4", provider="CPUExecutionProvider", scratch=tmp_path
    )
    body, head = (Format(bits=bits, block=32, symmetric=False) if precision == "int4" else None for bits in (4, 8))
    assembly = assemble(skeleton, model, Choice(floats="fp32", body=body, head=head), complete=False)
    fill(assembly, Checkpoint(model), out / "model.onnx.data", inputs="", on_progress=lambda *_: None)
    save(assembly.model, out / "model.onnx")
    for file in usual.path.iterdir():
        if "onnx" not in file.name:
            (out / file.name).write_bytes(file.read_bytes())

    np.testing.assert_allclose(logits(GenaiModel(out)), logits(usual), atol=1e-4)
    assert GenaiModel(out).size() == pytest.approx(usual.size(), rel=0.1)
