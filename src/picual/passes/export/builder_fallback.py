"""Graphs of networks that only onnxruntime-genai's own builder knows, brought into the form of a skeleton.

The builder writes a float model with names of its own. Each of its weights is traced to the checkpoint by name
and then by value, every element; from there on the weights are exported like any other. What cannot be traced
stays as the builder wrote it, and only floats can be exported then.

Cost: the builder loads the whole model and writes it once; three to four times the checkpoint in memory.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from picual import _atomic, _lazy
from picual.errors import Refused, StepFailed
from picual.graph.checkpoint import Checkpoint
from picual.graph.edits import replace_node, sweep
from picual.graph.skeleton import strip, text_of
from picual.models import HfCheckpoint
from picual.models.hf import read_json
from picual.models.layout import embedding_of, linears, slices_of

if TYPE_CHECKING:
    import onnx_ir as ir

PROVIDERS = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
FOLDER = "builder"
ENDING = ".MatMul.weight"
PIECE = 1 << 20  # elements compared at a time


def is_known(config: Mapping[str, Any]) -> bool:
    """Say whether the builder knows this architecture, without importing it."""
    names = config.get("architectures") or ["?"]
    return f'"{names[0]}"' in text_of("onnxruntime_genai", "models/builder.py")


def build_skeleton(
    source: HfCheckpoint, *, floats: Literal["fp32", "fp16"], quantized: bool, provider: str, scratch: Path
) -> ir.Model:
    """Return the builder's graph with every traced weight taken out.

    Args:
        source: The checkpoint.
        floats: fp32 or fp16.
        quantized: Whether the linear layers will be quantized: then all must be traced.
        provider: Execution provider.
        scratch: The builder's model stays there as long as its constants are needed.

    Raises:
        Refused: A linear layer cannot be traced to the checkpoint and was to be quantized.
        StepFailed: The builder does not manage this model.
    """
    folder = scratch / FOLDER
    _atomic.remove(folder)
    _run_builder(source, floats, PROVIDERS.get(provider, "cpu"), folder)
    return traced(scratch, source, quantized=quantized)


def traced(scratch: Path, source: HfCheckpoint, *, quantized: bool) -> ir.Model:
    """Return the graph that the builder wrote, with the checkpoint's weights taken out."""
    import onnx_ir as ir

    model = ir.load(scratch / FOLDER / "model.onnx")
    strip(model)
    untraced = _trace_linears(model, source)
    _trace_embedding(model, source)
    sweep(model)
    if untraced and quantized:
        raise Refused(
            f"the weight `{untraced[0]}` of onnxruntime-genai's builder cannot be traced to the checkpoint, "
            "so it would be quantized unverified",
            where=str(source.path),
            hint="set `precision: fp32`",
        )
    return model


def settings(scratch: Path) -> dict[str, Any]:
    """Return the ``genai_config.json`` that came with the graph."""
    return read_json(scratch / FOLDER / "genai_config.json")


def _run_builder(source: HfCheckpoint, floats: str, provider: str, folder: Path) -> None:
    builder = _lazy.need("onnxruntime_genai.models.builder", extra="cpu", by="build-genai")
    cache = str(folder / "cache")
    where = str(source.path)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _no_warnings():
        told = ["hf_remote=true"] if source.trust_remote_code else []
        try:
            options = builder.parse_extra_options("", where, str(folder), floats, provider, cache, told)
            builder.create_model("", where, str(folder), floats, provider, cache, **options)
        except (NotImplementedError, ValueError, KeyError, AttributeError, RuntimeError, TypeError) as error:
            raise StepFailed(
                f"onnxruntime-genai's builder does not manage this model: {type(error).__name__}: {error}",
                where=where,
                hint="use a Llama, Mistral, Phi-3, Qwen2, Qwen3 or Gemma checkpoint",
            ) from error


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library we do not control, about itself
        yield


def _trace_linears(model: ir.Model, source: HfCheckpoint) -> list[str]:
    """Replace every traced weight by stacked, transposed initializers; return the names of the others."""
    untraced = []
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or str(weight.name) not in model.graph.initializers:
            continue
        names = next(
            (names for names in _candidates(weight, source) if _same(weight, names, source, transposed=True)), None
        )
        if names is None:
            untraced.append(str(weight.name))
        else:
            _stack(model, node, names, source)
    return untraced


def _candidates(weight: ir.Value, source: HfCheckpoint) -> Iterator[list[str]]:
    """Yield the weights of the checkpoint that the builder's may be: by name first, then any of that shape."""
    layer = str(weight.name).removesuffix(ENDING).replace(".attn.", ".self_attn.")
    parts = [f"{layer.replace('qkv_proj', part)}.weight" for part in ("q_proj", "k_proj", "v_proj")]
    tensors, config = source.tensors(), source.config()
    for names in (parts if "qkv_proj" in layer else [f"{layer}.weight"], [f"{layer}.weight"]):
        if all(slices_of(one, tensors, config) for one in names):
            yield names
    shape = () if weight.shape is None else tuple(reversed(weight.shape.numpy()))
    yield from ([name] for name in linears(tensors) if tensors[name].shape == shape)


def _same(value: ir.Value, names: list[str], source: HfCheckpoint, *, transposed: bool) -> bool:
    """Say whether the builder's weight is the checkpoint's, rounded to its type; every element is compared."""
    import numpy as np

    checkpoint, stored = Checkpoint(source), value.const_value
    parts = [part for name in names for part in slices_of(name, source.tensors(), source.config())]
    shape = checkpoint.shape(parts)
    if stored is None or tuple(stored.shape.numpy()) != (shape[::-1] if transposed else shape):
        return False
    built = stored.numpy()
    read = checkpoint.columns if transposed else checkpoint.rows
    step = max(1, PIECE // built.shape[1])
    for start in range(0, len(built), step):
        mine = built[start : start + step]
        if not np.array_equal(mine, read(parts, start, start + len(mine)).astype(built.dtype)):
            return False
    return True


def _stack(model: ir.Model, node: ir.Node, names: list[str], source: HfCheckpoint) -> None:
    import onnx_ir as ir

    weights = [_waiting(model, name, source, node.inputs[1]) for name in names]
    new = []
    if len(weights) > 1:
        new.append(ir.node("Concat", weights, {"axis": 0}, name=f"{names[0]}/Concat"))
    stacked = new[0].outputs[0] if new else weights[0]
    new.append(ir.node("Transpose", [stacked], {"perm": [1, 0]}, name=f"{names[0]}/Transpose"))
    new.append(ir.node("MatMul", [node.inputs[0], new[-1].outputs[0]], name=f"{names[0]}/MatMul"))
    replace_node(model, node, new)


def _waiting(model: ir.Model, name: str, source: HfCheckpoint, like: ir.Value | None) -> ir.Value:
    """Return an initializer that waits for a weight of the checkpoint."""
    import onnx_ir as ir

    if name in model.graph.initializers:
        return model.graph.initializers[name]
    shape = Checkpoint(source).shape(slices_of(name, source.tensors(), source.config()))
    value = ir.Value(name=name, shape=ir.Shape(shape), type=None if like is None else like.type)
    model.graph.initializers[name] = value
    return value


def _trace_embedding(model: ir.Model, source: HfCheckpoint) -> None:
    """Let the token lookup read the checkpoint's table, if that is what it reads."""
    name = embedding_of(source.tensors())
    for node in model.graph:
        if name is None or node.op_type != "Gather" or node.inputs[1] not in model.graph.inputs:
            continue
        table = node.inputs[0]
        producer = None if table is None else table.producer()
        flipped = producer is not None and producer.op_type == "Transpose"
        built = producer.inputs[0] if producer is not None and flipped else table
        if built is None or not _same(built, [name], source, transposed=flipped):
            continue
        if built.name == name:
            built.const_value = None
        else:
            node.replace_input_with(0, _waiting(model, name, source, built))
