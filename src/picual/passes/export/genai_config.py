"""``genai_config.json``: what ONNX Runtime GenAI must know beside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from picual.hardware import Target, physical_cores
from picual.models import HfCheckpoint
from picual.models.hf import read_json

if TYPE_CHECKING:
    import onnx_ir as ir

# The runtime's names of networks; any other plain decoder goes by the generic one.
RUNTIME_TYPES = {
    "llama": "llama", "mistral": "mistral", "phi3": "phi3", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma",
    "gemma2": "gemma2", "granite": "granite", "olmo": "olmo", "phi": "phi", "smollm3": "smollm3",
    "internlm2": "internlm2", "nemotron": "nemotron", "ernie4_5": "ernie4_5",
}  # fmt: skip
RUNTIME_PROVIDERS = {
    "CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml", "WebGpuExecutionProvider": "WebGPU",
    "NvTensorRTRTXExecutionProvider": "NvTensorRtRtx", "OpenVINOExecutionProvider": "OpenVINO",
    "QNNExecutionProvider": "QNN",
}  # fmt: skip
SAMPLING = (
    "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "num_beams", "length_penalty",
    "no_repeat_ngram_size", "early_stopping", "num_return_sequences", "diversity_penalty",
)  # fmt: skip


def genai_config(
    source: HfCheckpoint, model: ir.Model, target: Target, *, built: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of ``genai_config.json``.

    Args:
        source: The checkpoint: sizes, special tokens, generation defaults.
        model: The finished graph: names of inputs and outputs.
        target: Provider and threads.
        built: What the runtime's own builder wrote, where it made the graph: it knows of states beside the cache.
    """
    config = source.config()
    config = {**config, **config.get("text_config", {})}
    file = source.path / "generation_config.json"
    generation = read_json(file) if file.is_file() else {}
    context = int(config.get("max_position_embeddings", 2048))
    own = dict(built["model"]) if built is not None else {}
    decoder = own["decoder"] if built is not None else _decoder(config, model)
    decoder = {**decoder, "filename": "model.onnx", "session_options": _session_options(target)}
    search = _search(generation, context, in_place=_caches_in_place(model))
    if built is not None:
        search["past_present_share_buffer"] = built["search"]["past_present_share_buffer"]
    return {
        "model": {
            **own,
            **_special_tokens(config, generation),
            "context_length": context,
            "decoder": decoder,
            "type": own.get("type") or RUNTIME_TYPES.get(str(config.get("model_type")), "decoder"),
            "vocab_size": int(config["vocab_size"]),
        },
        "search": search,
    }


def _special_tokens(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return BOS, every EOS that either file names, and padding."""
    ends = _listed(generation.get("eos_token_id")) + _listed(config.get("eos_token_id"))
    ends = list(dict.fromkeys(ends))
    found: dict[str, Any] = {}
    bos = _listed(config.get("bos_token_id")) or _listed(generation.get("bos_token_id"))
    if bos:
        found["bos_token_id"] = bos[0]
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    padding = _listed(config.get("pad_token_id")) or _listed(generation.get("pad_token_id")) or ends
    if padding:
        found["pad_token_id"] = padding[0]
    return found


def _listed(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, list) else [int(value)]


def _decoder(config: Mapping[str, Any], model: ir.Model) -> dict[str, Any]:
    inputs = [str(value.name) for value in model.graph.inputs]
    outputs = [str(value.name) for value in model.graph.outputs]
    plain = {name: name for name in inputs if "." not in name}
    kv_heads, head_size = _cache_sizes(model)
    heads = int(config.get("num_attention_heads") or kv_heads)
    return {
        "head_size": head_size,
        "hidden_size": int(config.get("hidden_size") or heads * head_size),
        "inputs": {**plain, **_cache_names(inputs, "past_key_values", "past")},
        "outputs": {"logits": "logits", **_cache_names(outputs, "present", "present")},
        "num_attention_heads": heads,
        "num_hidden_layers": sum(name.startswith("past_key_values.") and name.endswith(".key") for name in inputs),
        "num_key_value_heads": kv_heads,
    }


def _session_options(target: Target) -> dict[str, Any]:
    """Return provider and threads: left to itself, the runtime takes one thread on a small machine."""
    provider = RUNTIME_PROVIDERS.get(target.provider)
    return {
        "log_id": "onnxruntime-genai",
        "intra_op_num_threads": target.threads or physical_cores(),
        "provider_options": [{provider: {}}] if provider else [],
    }


def _cache_sizes(model: ir.Model) -> tuple[int, int]:
    """Return key/value heads and the size of a head, from the cache's shape (batch, heads, past, size)."""
    shape = next(value.shape for value in model.graph.inputs if str(value.name).endswith(".key"))
    assert shape is not None  # the graph's makers give every input one
    return int(str(shape[1])), int(str(shape[3]))


def _cache_names(names: list[str], stem: str, key: str) -> dict[str, str]:
    """Return the patterns of the cache's names, where the graph has them."""
    return {f"{key}_{part}_names": f"{stem}.%d.{part}" for part in ("key", "value") if f"{stem}.0.{part}" in names}


def _caches_in_place(model: ir.Model) -> bool:
    """Say whether every attention writes into the cache it was given; only this fused node does."""
    kinds = {node.op_type for node in model.graph}
    return "GroupQueryAttention" in kinds and not kinds & {"Attention", "MultiHeadAttention"}


def _search(generation: Mapping[str, Any], context: int, *, in_place: bool) -> dict[str, Any]:
    """Return the defaults for generating: greedy unless the model's authors say otherwise."""
    defaults: dict[str, Any] = {
        "diversity_penalty": 0.0, "do_sample": False, "early_stopping": True, "length_penalty": 1.0,
        "max_length": context, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
        "num_return_sequences": 1, "past_present_share_buffer": in_place, "repetition_penalty": 1.0,
        "temperature": 1.0, "top_k": 50, "top_p": 1.0,
    }  # fmt: skip
    told = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
    return {**defaults, **told}
