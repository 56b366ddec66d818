"""The graph of a checkpoint without its weights: names and shapes, no numbers but what the config implies.

Every initializer without a value waits for a weight of the checkpoint, named in Llama's way. Attention is one
fused node that keeps its cache in place, norms are fused with the additions before them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from picual import _lazy
from picual.errors import Refused

if TYPE_CHECKING:
    import onnx_ir as ir

NAME = "picual"
EXTRA = "cpu"
PROVIDERS = {
    "CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu", "NvTensorRTRTXExecutionProvider": "trt-rtx",
}  # fmt: skip


def is_known(model_type: str) -> bool:
    """Say whether a graph can be made for this kind of network, without importing anything heavy."""
    return f'"{model_type}"' in text_of("mobius", "_registry.py")


@functools.cache
def text_of(package: str, file: str) -> str:
    """Return the source of an installed module; importing it would load a whole framework for one name."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ""
    path = Path(next(iter(spec.submodule_search_locations))) / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def build_skeleton(
    config: Mapping[str, Any], *, floats: Literal["fp32", "fp16"], provider: str, trust_from: Path | None = None
) -> ir.Model:
    """Return the weightless graph for a ``config.json``.

    Args:
        config: Its content.
        floats: The type of weights, activations and cache.
        provider: Execution provider whose fused nodes may be used.
        trust_from: A folder whose Python files may be run; only for networks that no library here knows.

    Raises:
        Refused: The config is of no decoder that can be exported.
    """
    mobius = _lazy.need("mobius", extra=EXTRA, by="build-genai")
    with tempfile.TemporaryDirectory(prefix="picual-") as folder, _quiet():
        Path(folder, "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        for code in sorted(trust_from.glob("*.py")) if trust_from is not None else ():
            Path(folder, code.name).write_bytes(code.read_bytes())
        try:
            package = mobius.build(
                folder,
                dtype={"fp32": "f32", "fp16": "f16"}[floats],
                load_weights=False,
                execution_provider=PROVIDERS.get(provider, "cpu"),
                trust_remote_code=trust_from is not None,
            )
        except (ValueError, KeyError, NotImplementedError) as error:
            raise _refused(config, f"its graph cannot be made ({type(error).__name__}: {error})") from error
    if "model" not in package:
        raise _refused(config, f"it is made of several graphs ({', '.join(package)})")
    model: ir.Model = package["model"]
    names = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
    if not {"input_ids", "logits", "past_key_values.0.key"} <= names:
        raise _refused(config, "it does not generate text token by token")
    strip(model)
    return model


def _refused(config: Mapping[str, Any], why: str) -> Refused:
    return Refused(
        f"a network of type `{config.get('model_type')}` cannot be exported: {why}",
        hint="use a Llama, Mistral, Phi-3, Qwen2, Qwen3 or Gemma checkpoint",
    )


def strip(model: ir.Model) -> None:
    """Remove what depends on folders or versions, and what the runtime has of its own."""
    model.graph.name = NAME
    model.producer_name = NAME
    model.producer_version = None
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    for identifier in [name for name in model.functions if name[0] == "com.microsoft"]:
        del model.functions[identifier]  # the runtime's own kernel is meant, not this spelling out of it


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the graph library's talk about optional packages and rewrites to itself."""
    logger = logging.getLogger("mobius")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
