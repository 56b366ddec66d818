"""The integers a quantizer chose are those that run: read back, dequantized, compared with the runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import load_external_data_for_model

from picual.errors import Refused, UnreadableModel
from picual.models import GenaiModel, HfModel, QuantizedHfModel
from picual.models.detect import open_folder
from picual.models.quantized_weights import open_weight
from picual.models.session import open_session
from picual.passes.base import PassContext
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.quantize import Quantize
from picual.passes.quantize.rtn import Rtn
from picual.space import Settings
from picual.testing.tiny import Layout, tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]
Export = Callable[..., GenaiModel]


IDS = np.arange(3, 60, dtype=np.int64)


def initializers(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every constant of an exported model, read by onnx alone."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    load_external_data_for_model(model, str(folder))
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def runtime_logits(folder: Path) -> np.ndarray[Any, Any]:
    """Logits (T, vocabulary) of plain ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    feed: dict[str, Any] = {}
    for item in session.get_inputs():
        if item.name == "input_ids":
            feed[item.name] = IDS[None]
        elif item.name == "attention_mask":
            feed[item.name] = np.ones((1, len(IDS)), np.int64)
        elif item.name == "position_ids":
            feed[item.name] = np.arange(len(IDS))[None]
        else:
            feed[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    logits: np.ndarray[Any, Any] = session.run(["logits"], feed)[0][0]
    return logits


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_stacked_rows_of_the_onnx_file_are_the_quantizers_bytes(
    tiny: HfModel, run: Run, tmp_path: Path, block: Any, symmetric: bool, export: Export
) -> None:
    made, _ = run(Rtn(block=block, head_block=16, symmetric=symmetric), tiny)
    found = initializers(export(made, tmp_path / "genai").path)
    names = [f"model.layers.1.self_attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj")]
    weights = [open_weight(made, name) for name in names]
    stem = "model.layers.1.self_attn.qkv_proj"
    codes = np.concatenate([weight.codes for weight in weights])
    assert np.array_equal(found[f"{stem}.qweight"].reshape(codes.shape), codes)
    assert np.array_equal(found[f"{stem}.scales"], np.concatenate([weight.scales for weight in weights]))
    if symmetric:
        assert f"{stem}.zero_points" not in found
    else:
        zeros = np.concatenate([weight.zero_points for weight in weights if weight.zero_points is not None])
        assert np.array_equal(found[f"{stem}.zero_points"], zeros)


@pytest.mark.parametrize(
    ("layout", "tied"), [("llama", True), ("llama", False), ("phi3", True), ("qwen3", True), ("gemma", True)]
)
def test_runtime_agrees_with_torch_on_the_integers(
    run: Run, tmp_path: Path, layout: Layout, tied: bool, export: Export
) -> None:
    model = tiny_model(tmp_path / "hf", layout=layout, tied=tied)
    made, _ = run(
        Gptq(block=32, tokens=1024, overrides=Settings({"*.down_proj": {"bits": 8, "block": 16}})), model
    )
    genai = export(made, tmp_path / "genai", logits="all", accuracy_level=0)
    session = open_session(made, threads=1)
    expected = session.logits(IDS)
    session.close()
    assert np.abs(runtime_logits(genai.path) - expected).max() < 1e-3


def test_width_that_no_block_divides_is_filled_up(tiny: HfModel, run: Run, tmp_path: Path, export: Export) -> None:
    made, _ = run(Gptq(block=64, tokens=1024), tiny)  # down_proj has 96 inputs
    weight = open_weight(made, "model.layers.0.mlp.down_proj.weight")
    assert weight.scales.shape == (64, 2)
    genai = export(made, tmp_path / "genai", logits="all", accuracy_level=0)
    session = open_session(made, threads=1)
    assert np.abs(runtime_logits(genai.path) - session.logits(IDS)).max() < 1e-3


def test_two_bits_run(tiny: HfModel, run: Run, tmp_path: Path, export: Export) -> None:
    made, _ = run(Rtn(block=32, bits=2), tiny)
    genai = export(made, tmp_path / "genai", logits="all", accuracy_level=0)
    session = open_session(made, threads=1)
    assert np.abs(runtime_logits(genai.path) - session.logits(IDS)).max() < 1e-3


def test_folder_is_recognised_and_no_other_tool_takes_it_for_floats(tiny: HfModel, run: Run) -> None:
    from transformers import AutoModelForCausalLM

    made, _ = run(Rtn(), tiny)
    assert open_folder(made.path) == QuantizedHfModel(made.path)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(made.path)


def test_calibration_beats_rounding_where_it_counts(tiny: HfModel, run: Run) -> None:
    before = open_session(tiny, threads=1)
    ids = np.array(
        before.encode("A village on the river where the ferry waits for the mail and nobody is in a hurry.")
    )
    expected = torch.log_softmax(torch.from_numpy(before.logits(ids)), -1)

    def divergence(made: QuantizedHfModel) -> float:
        session = open_session(made, threads=1)
        found = torch.log_softmax(torch.from_numpy(session.logits(ids)), -1)
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    plain = divergence(run(Rtn(block=32, search=False), tiny, name="plain")[0])
    searched = divergence(run(Rtn(block=32), tiny, name="searched")[0])
    calibrated = divergence(run(Gptq(block=32, tokens=4096), tiny, name="calibrated")[0])
    assert calibrated < searched < plain
    assert calibrated < 0.7 * plain


def test_killed_run_goes_on_after_its_last_layer(tiny: HfModel, run: Run, tmp_path: Path) -> None:
    whole, _ = run(Gptq(tokens=1024), tiny, name="whole")
    broken = PassContextThatStops(tmp_path / "killed", after=1)
    with pytest.raises(KeyboardInterrupt):
        Gptq(tokens=1024).run(tiny, broken.context)
    assert (broken.context.scratch / "layer-00000.safetensors.done.json").exists()
    first = (broken.context.scratch / "layer-00000.safetensors").stat().st_mtime_ns
    made = Gptq(tokens=1024).run(tiny, PassContextThatStops(tmp_path / "killed", after=99).context)
    assert (broken.context.scratch / "layer-00000.safetensors").stat().st_mtime_ns == first
    for file in sorted(whole.path.iterdir()):
        assert (made.path / file.name).read_bytes() == file.read_bytes(), file.name


class PassContextThatStops:
    """A context whose progress raises once so many calls are done."""

    def __init__(self, root: Path, *, after: int) -> None:
        for name in ("out", "scratch"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._left = after
        self.context = PassContext(
            folder=root / "out", scratch=root / "scratch", threads=1, seed=7, on_progress=self._progress
        )

    def _progress(self, *_: object) -> None:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1


def spoilt(model: HfModel, folder: Path, name: str, value: float) -> HfModel:
    """Copy a model with one weight of one tensor replaced."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model.path, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return HfModel(folder)


@pytest.mark.parametrize("a_pass", [Rtn(), Gptq(tokens=1024), Quantize(effort="fast", bits_per_weight=6)])
def test_weight_that_is_no_number_is_named(tiny: HfModel, run: Run, tmp_path: Path, a_pass: Any) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    model = spoilt(tiny, tmp_path / "nan", name, float("nan"))
    with pytest.raises(UnreadableModel, match=name.replace(".", r"\.")):
        run(a_pass, model)


def test_dead_column_costs_nothing(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model(tmp_path / "hf")
    tensors = load_file(model.path / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][7] = 0  # so input 7 of q, k and v is always zero
    save_file(tensors, model.path / "model.safetensors", metadata={"format": "pt"})
    made, _ = run(Gptq(tokens=1024), model)
    assert np.isfinite(open_weight(made, "model.layers.0.self_attn.q_proj.weight").rows(0, 64)).all()


def test_text_that_is_too_short_is_refused(tiny: HfModel, run: Run, tmp_path: Path) -> None:
    from picual.data.base import DataConfig

    file = tmp_path / "short.txt"
    file.write_text("too short", encoding="utf-8")
    with pytest.raises(Refused, match="hold 9 tokens"):
        run(Gptq(data="mine"), tiny, data={"mine": DataConfig(files=(str(file),))})


def test_activations_of_wide_blocks_stay_floats_unless_that_was_weighed(
    tiny: HfModel, run: Run, tmp_path: Path, export: Export
) -> None:
    def levels(made: QuantizedHfModel, name: str, **fields: Any) -> set[tuple[int, int]]:
        graph = onnx.load(
            export(made, tmp_path / "genai" / name, **fields).path / "model.onnx", load_external_data=False
        ).graph
        attributes = [
            {one.name: one.i for one in node.attribute} for node in graph.node if node.op_type == "MatMulNBits"
        ]
        return {(one["block_size"], one["accuracy_level"]) for one in attributes}

    wide = Settings({"*.down_proj": {"block": 128}})
    plain, _ = run(Rtn(block=32, head_block=32, overrides=wide), tiny, name="plain")
    assert levels(plain, "left-out") == {(32, 4), (128, 0)}
    assert levels(plain, "asked", accuracy_level=4) == {(32, 4), (128, 4)}
    weighed, _ = run(Quantize(effort="fast", block=32, head_block=32, overrides=wide), tiny, name="weighed")
    assert levels(weighed, "weighed") == {(32, 4), (128, 4)}
