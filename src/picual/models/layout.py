"""Where a weight named in Llama's way lies in a checkpoint that names, fuses or ties things differently.

Graphs and checks speak of ``model.layers.0.self_attn.q_proj.weight`` and ``lm_head.weight`` whatever the
checkpoint. Phi-3 stores query, key and value rows in one ``qkv_proj``; a tied head has no tensor of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.errors import UnreadableModel
from picual.models.safetensors_file import TensorInfo, read_pieces

HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
# Tensors that older checkpoints carry although they follow from the config, or that no answer depends on.
DERIVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True)
class TensorSlice:
    """Rows ``start`` to ``stop`` of one tensor of the checkpoint."""

    name: str
    start: int
    stop: int


def embedding_of(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the name of the token embedding, if it has a known one."""
    return next((name for ending in EMBEDDINGS for name in tensors if name.endswith(ending)), None)


def is_tied(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> bool:
    """Say whether head and embedding are one weight, as ``transformers`` decides when it loads.

    A head that is stored although the config ties it is tied only if it equals the embedding.

    Raises:
        UnreadableModel: The config says there is a head of its own, and it is not stored.
    """
    embedding = embedding_of(tensors)
    says = config.get("tie_word_embeddings")
    if HEAD not in tensors:
        if says is False and embedding is not None:
            raise UnreadableModel(
                f"`{HEAD}` is missing, and the config does not tie it to the embedding",
                where=str(tensors[embedding].file.parent),
                hint="fetch the model again, or set `tie_word_embeddings` in its config.json",
            )
        return True
    if says is False or embedding is None:
        return False
    head, table = tensors[HEAD], tensors[embedding]
    if (head.shape, head.dtype) != (table.shape, table.dtype):
        return False
    pairs = zip(read_pieces(head), read_pieces(table), strict=True)
    return all(mine == its for mine, its in pairs)


def slices_of(name: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> list[TensorSlice]:
    """Return where the rows of a weight named in Llama's way lie, in order; empty when nowhere.

    Args:
        name: ``model.layers.0.self_attn.q_proj.weight``, ``lm_head.weight``, a norm, a bias.
        tensors: Of the checkpoint, by name.
        config: Its ``config.json``.
    """
    if name == HEAD and is_tied(tensors, config):
        embedding = embedding_of(tensors)
        return [] if embedding is None else [_whole(tensors[embedding])]
    if name in tensors:
        return [_whole(tensors[name])]
    for part in ("q_proj", "k_proj", "v_proj"):
        fused = name.replace(f".{part}.", ".qkv_proj.")
        if fused != name and fused in tensors:
            start, stop = rows_of_part(part, config)
            return [TensorSlice(fused, start, stop)] if stop <= tensors[fused].shape[0] else []
    return []


def _whole(tensor: TensorInfo) -> TensorSlice:
    return TensorSlice(tensor.name, 0, tensor.shape[0] if tensor.shape else 1)


def rows_of_part(part: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the rows of query, key or value in Phi-3's ``qkv_proj``."""
    config = config.get("text_config", config)
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    query, shared = heads * size, int(config.get("num_key_value_heads") or heads) * size
    return {
        "q_proj": (0, query), "k_proj": (query, query + shared), "v_proj": (query + shared, query + 2 * shared),
    }[part]  # fmt: skip


def linears(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Return the weights of linear layers that the checkpoint stores, an untied head included."""
    embedding = embedding_of(tensors)
    return tuple(
        name
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name.endswith(".weight") and name != embedding
    )


def unused(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], used: Mapping[str, set[tuple[int, int]]]
) -> list[str]:
    """Return the tensors, or ``name[rows]``, that nothing read, those without influence left out.

    Args:
        tensors: Of the checkpoint.
        config: Its ``config.json``.
        used: The row ranges that were read, by tensor name.
    """
    found = []
    for name, tensor in tensors.items():
        if name.endswith(DERIVED) or (name == HEAD and name not in used and is_tied(tensors, config)):
            continue
        rows = tensor.shape[0] if tensor.shape else 1
        end = 0
        for start, stop in sorted(used.get(name, set())):
            if start > end:
                break
            end = max(end, stop)
        if end < rows:
            found.append(name if end == 0 else f"{name}[{end}:]")
    return found
