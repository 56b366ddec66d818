"""Adapter files without exporting anything: made from peft's form, or taken out of a deployed folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from picual.errors import Refused, UnreadableModel
from picual.graph.skeleton import build_skeleton, is_known
from picual.hardware import Target
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model, QuantizedHfModel
from picual.models.adapter_files import SUFFIX, adapters_of, arrays_of
from picual.models.layout import is_tied
from picual.passes.export.adapter_files import arrays_for, updates_of, write_adapter
from picual.passes.export.assembly import Choice, assemble

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

Format = Literal["onnx_adapter", "safetensors"]
ENDINGS: dict[Format, str] = {"onnx_adapter": SUFFIX, "safetensors": ".safetensors"}


def convert(adapter: HfAdapter, file: Path, *, model: GenaiModel | None = None, halves: bool = False) -> int:
    """Write an adapter for the inputs of its base's graph, and return how many inputs it fills.

    Args:
        adapter: In peft's form.
        file: To write.
        model: The deployed base; left out, the graph that ``build-genai`` would make now.
        halves: For a graph that computes in half precision; ``model`` says it itself.

    Raises:
        Refused: The adapter is more than updates of linear layers, or the graph has no inputs for it.
    """
    import onnx_ir as ir

    updates_of(adapter)
    floats = ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT
    graph = _graph_of(adapter.root(), floats) if model is None else _load(model.decoder())
    inputs = {str(value.name): value.dtype for value in graph.graph.inputs}
    if model is not None:
        floats = next((kind for name, kind in inputs.items() if ".lora_A" in name and kind), floats)
    arrays = arrays_for(graph, adapter, floats)
    if model is not None and (lost := sorted(set(arrays) - set(inputs))):
        raise Refused(
            f"the graph of the model has no input `{lost[0]}`, which the adapter fills",
            where=str(model.path),
            hint="export the model with this adapter: `build-genai: {adapters: {NAME: FOLDER}}`",
        )
    write_adapter(file, arrays)
    return len(arrays)


def extract(model: Model, folder: Path, *, form: Format = "onnx_adapter") -> list[Path]:
    """Write the adapters of a model into files of their own, and return these.

    Args:
        model: A deployed folder with adapters, or one adapter in peft's form.
        folder: Where to.
        form: Of the files; their names are those of the graph's inputs in either.

    Raises:
        Refused: The model has no adapters.
    """
    if isinstance(model, HfAdapter):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"adapter{SUFFIX}"
        convert(model, file)
        found = {"adapter": file}
    else:
        found = adapters_of(model.path) if isinstance(model, GenaiModel) else {}
    if not found:
        raise Refused(
            f"the model has no adapters beside it: this is {model.title}",
            where=str(model.path),
            hint="give an adapter's folder, or one that `build-genai` made of an adapter",
        )
    made = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in found.items():
        goal = folder / f"{name}{ENDINGS[form]}"
        if form == "safetensors":
            _as_safetensors(arrays_of(file), goal)
            if isinstance(model, HfAdapter):
                file.unlink()
        elif file != goal:
            shutil.copyfile(file, goal)
        made.append(goal)
    return made


def _graph_of(root: HfCheckpoint, floats: ir.DataType) -> ir.Model:
    """Return the graph of a checkpoint with its linear layers in place; no weight is read."""
    import onnx_ir as ir

    config = root.config()
    kind = str(config.get("model_type"))
    if not is_known(kind):
        raise Refused(
            f"networks of type `{kind}` have no graph with inputs for adapters",
            where=str(root.path),
            hint="merge the adapter: `picual merge`",
        )
    wide: Literal["fp32", "fp16"] = "fp16" if floats == ir.DataType.FLOAT16 else "fp32"
    choice = Choice(floats=wide, body=None, head=None, keep=isinstance(root, QuantizedHfModel))
    config = {**config, "tie_word_embeddings": is_tied(root.tensors(), config)}
    skeleton = build_skeleton(config, floats=wide, provider=Target().provider)
    return assemble(skeleton, root, choice).model


def _load(file: Path) -> ir.Model:
    import onnx_ir as ir
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        return ir.load(file)
    except (OSError, ValueError, DecodeError) as error:
        raise UnreadableModel(f"`{file.name}` is no readable ONNX file ({error})", where=str(file)) from error


def _as_safetensors(arrays: Mapping[str, npt.NDArray[Any]], file: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: arrays[name] for name in sorted(arrays)}, file)
