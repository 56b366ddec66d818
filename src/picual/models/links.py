"""What writes the inputs of linear layers, so that scales of single inputs may move from the one to the other.

A norm's weight is multiplied into what query, key and value read; each row of ``up_proj`` gives one input of
``down_proj``, and each row of ``v_proj`` one of ``o_proj`` where as many heads write as read. What is divided by c
there and multiplied by c in the columns that read it leaves the network as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from picual.models.layout import TensorSlice, rows_of_part
from picual.models.safetensors_file import TensorInfo

# Networks whose decoder layers are laid out so, and what their norms add to a stored weight before it multiplies.
ADDED_TO_NORMS = {
    "llama": 0.0, "mistral": 0.0, "phi3": 0.0, "qwen2": 0.0, "qwen3": 0.0, "smollm3": 0.0,
    "gemma": 1.0, "gemma2": 1.0, "gemma3_text": 1.0,
}  # fmt: skip
_ATTENTION_NORM = "input_layernorm"
_FEED_FORWARD_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")  # the first that is there
_ATTENTION, _FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "qkv_proj"), ("gate_proj", "up_proj", "gate_up_proj")


@dataclass(frozen=True)
class Link:
    """One writer and all that reads it.

    Attributes:
        writer: A norm's weight (K,), or K rows of a linear layer.
        readers: Weights (N, K).
        added: To a norm's stored weight before it multiplies.
    """

    writer: TensorSlice
    readers: tuple[str, ...]
    added: float = 0.0

    @property
    def width(self) -> int:
        """Number of inputs."""
        return self.writer.stop - self.writer.start


def links_of(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> tuple[Link, ...]:
    """Return every link of a checkpoint, layer by layer, in the order of use; none for networks not known here.

    Args:
        tensors: Of the checkpoint, by name; shapes of quantized weights are those of the weight.
        config: Its ``config.json``.
    """
    if config.get("model_type") not in ADDED_TO_NORMS:
        return ()
    prefixes = {match.group(1) for name in tensors if (match := re.match(r"(.*\.layers\.\d+\.)", name))}
    ordered = sorted(prefixes, key=lambda prefix: int(prefix.rstrip(".").rpartition(".")[2]))
    found = [link for prefix in ordered for link in _of_layer(prefix, tensors, config)]
    return tuple(link for link in found if _fits(link, tensors))


def _of_layer(prefix: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Iterator[Link]:
    added = ADDED_TO_NORMS[config["model_type"]]
    attention = _present(f"{prefix}self_attn.", _ATTENTION, tensors)
    feed_forward = _present(f"{prefix}mlp.", _FEED_FORWARD, tensors)
    norm = f"{prefix}{_ATTENTION_NORM}.weight"
    if norm in tensors and attention:
        yield Link(_rows(norm, tensors), attention, added)
    yield from _from_rows(_values(prefix, tensors, config), (f"{prefix}self_attn.o_proj.weight",), tensors)
    norms = [f"{prefix}{name}.weight" for name in _FEED_FORWARD_NORMS if f"{prefix}{name}.weight" in tensors]
    if norms and feed_forward:
        yield Link(_rows(norms[0], tensors), feed_forward, added)
    yield from _from_rows(_up(prefix, tensors), (f"{prefix}mlp.down_proj.weight",), tensors)


def _from_rows(
    writer: TensorSlice | None, readers: tuple[str, ...], tensors: Mapping[str, TensorInfo]
) -> Iterator[Link]:
    if writer is not None and all(name in tensors for name in readers):
        yield Link(writer, readers)


def _values(prefix: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> TensorSlice | None:
    """Return the rows that give the values of attention."""
    alone, fused = f"{prefix}self_attn.v_proj.weight", f"{prefix}self_attn.qkv_proj.weight"
    if alone in tensors:
        return _rows(alone, tensors)
    return TensorSlice(fused, *rows_of_part("v_proj", config)) if fused in tensors else None


def _up(prefix: str, tensors: Mapping[str, TensorInfo]) -> TensorSlice | None:
    """Return the rows that the gate is multiplied with; where both are one weight, its second half."""
    alone, fused = f"{prefix}mlp.up_proj.weight", f"{prefix}mlp.gate_up_proj.weight"
    if alone in tensors:
        return _rows(alone, tensors)
    if fused not in tensors:
        return None
    height = tensors[fused].shape[0]
    return TensorSlice(fused, height // 2, height)


def _present(prefix: str, parts: tuple[str, ...], tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    return tuple(name for part in parts if (name := f"{prefix}{part}.weight") in tensors)


def _rows(name: str, tensors: Mapping[str, TensorInfo]) -> TensorSlice:
    return TensorSlice(name, 0, tensors[name].shape[0])


def _fits(link: Link, tensors: Mapping[str, TensorInfo]) -> bool:
    """Say whether each input has a row of its own, and nothing is added to it.

    Fewer value heads than query heads write rows that several inputs share.
    """
    last = tensors[link.writer.name].shape[0]
    if f"{link.writer.name.removesuffix('.weight')}.bias" in tensors:
        return False
    return link.writer.stop <= last and all(tensors[name].shape[1] == link.width for name in link.readers)
