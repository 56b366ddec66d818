"""What a rotation does to each tensor of a checkpoint, read from headers and config alone.

R1 turns the residual stream of width h, one R for the whole network. R2 turns the values of each key-value head of
width d, a matrix for each head of each layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.errors import Refused
from picual.models import HfModel
from picual.models.layout import DERIVED, HEAD, embedding_of, is_tied
from picual.models.safetensors_file import TensorInfo

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Kind:
    """How the norms of a network are put together."""

    offset: float = 0.0  # what is added to a stored gain before it multiplies
    norms_outputs: bool = False  # whether what attention and MLP give is normed before it is added to the stream


# Networks whose every tensor is known below: attention that is linear in its values, norms that are RMS.
KINDS = {
    "llama": Kind(), "mistral": Kind(), "qwen2": Kind(), "qwen3": Kind(), "phi3": Kind(), "smollm3": Kind(),
    "granite": Kind(), "gemma": Kind(offset=1.0), "gemma2": Kind(1.0, norms_outputs=True),
    "gemma3_text": Kind(1.0, norms_outputs=True),
}  # fmt: skip

ATTENTION, MLP = "input_layernorm.weight", "post_attention_layernorm.weight"  # norms, by who reads them
READERS = {
    "self_attn.q_proj": ATTENTION, "self_attn.k_proj": ATTENTION, "self_attn.v_proj": ATTENTION,
    "self_attn.qkv_proj": ATTENTION, "mlp.gate_proj": MLP, "mlp.up_proj": MLP, "mlp.gate_up_proj": MLP,
}  # fmt: skip
TAKES_VALUES = "self_attn.o_proj"
GIVES_VALUES = ("self_attn.v_proj", "self_attn.qkv_proj")  # in the latter, the last rows
WRITERS = (TAKES_VALUES, "mlp.down_proj")
HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")  # within a head, of what is not turned
OUTPUT_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
_IN_LAYER = re.compile(r"(model\.layers\.(\d+)\.)(.+)")
_FINAL = "model.norm.weight"


@dataclass(frozen=True)
class Turn:
    """What happens to one tensor, in this order: W diag(g), W R1, R1^T W, and each head's rows or columns."""

    gain: str | None = None  # the norm whose gain goes into the columns
    is_norm: bool = False  # its gain becomes 1
    reads: bool = False  # of the stream
    writes: bool = False
    gives: int | None = None  # the layer whose values its rows are
    takes: int | None = None  # the layer whose values its columns take

    def __str__(self) -> str:
        """Say it as the journal does."""
        said = {
            "its gain went into its readers": self.is_norm, "reads the turned stream": self.reads,
            "writes the turned stream": self.writes, "gives turned values": self.gives is not None,
            "takes turned values": self.takes is not None,
        }  # fmt: skip
        return ", ".join(text for text, is_so in said.items() if is_so)


@dataclass(frozen=True)
class Sizes:
    """Of attention."""

    heads: int
    groups: int  # key-value heads
    width: int  # of a head
    hidden: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Read them off ``config.json``."""
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        groups = int(config.get("num_key_value_heads") or heads)
        return cls(heads, groups, int(config.get("head_dim") or hidden // heads), hidden)


def turns_of(model: HfModel, *, values: bool, residual: bool) -> dict[str, Turn]:
    """Return the tensors that change.

    Raises:
        Refused: The network is of a kind that would not compute the same.
    """
    tensors, config, where = model.tensors(), model.config(), str(model.path)
    kind = _kind_of(config, where)
    _refuse_quantized(tensors, config, where)
    if residual:
        _refuse_residual(kind, tensors, config, where)
    turns: dict[str, Turn] = {}
    for name in tensors:
        turn = _turn(name, tensors, values=values, residual=residual)
        if turn is None:
            raise Refused(
                f"`rotate` does not know what `{name}` does in the network",
                where=where,
                hint="leave this step out: quantizers work without it",
            )
        if turn != Turn():
            turns[name] = turn
    if not turns:
        raise Refused("nothing is to be rotated", where=where, hint="set `values: true`")
    _check_shapes(turns, tensors, Sizes.of(config), where)
    return turns


def _kind_of(config: Mapping[str, Any], where: str) -> Kind:
    model_type = str(config.get("model_type"))
    if model_type not in KINDS:
        raise Refused(
            f"`rotate` does not know how a `{model_type}` network is put together; it knows {', '.join(KINDS)}",
            where=where,
            hint="leave this step out: quantizers work without it",
        )
    return KINDS[model_type]


def _refuse_quantized(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str) -> None:
    odd = next((tensor for tensor in tensors.values() if tensor.dtype not in FLOATS), None)
    if config.get("quantization_config") is not None or odd is not None:
        what = f"`{odd.name}` is stored as {odd.dtype}" if odd else "its config has a `quantization_config`"
        raise Refused(
            f"this checkpoint is quantized already: {what}", where=where, hint="give the unquantized checkpoint"
        )


def _refuse_residual(kind: Kind, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str) -> None:
    hint = "set `residual: false`: `values` alone works here"
    if is_tied(tensors, config):
        raise Refused(
            "head and embedding are one weight, and `residual` folds the last norm's gain into the head alone",
            where=where,
            hint=hint,
        )
    if kind.norms_outputs:
        raise Refused(
            "this network norms what attention and MLP give: such a gain cannot go through a rotation",
            where=where,
            hint=hint,
        )


def _turn(name: str, tensors: Mapping[str, TensorInfo], *, values: bool, residual: bool) -> Turn | None:
    """Return what happens to a tensor, nothing included; None for one that is not known."""
    if name.endswith(DERIVED):
        return Turn()
    if name == embedding_of(tensors):
        return Turn(reads=residual)
    if name == HEAD:
        return Turn(gain=_FINAL, reads=True) if residual else Turn()
    if name == _FINAL:
        return Turn(is_norm=residual)
    match = _IN_LAYER.fullmatch(name)
    return (
        None if match is None else _in_layer(match[1], int(match[2]), match[3], values=values, residual=residual)
    )


def _in_layer(prefix: str, layer: int, inner: str, *, values: bool, residual: bool) -> Turn | None:
    part, _, ending = inner.rpartition(".")
    gives = layer if values and part in GIVES_VALUES else None
    if ending == "bias" and part in {*READERS, *WRITERS}:
        return Turn(writes=residual and part in WRITERS, gives=gives)
    if inner in {ATTENTION, MLP}:
        return Turn(is_norm=residual)
    if inner in {*HEAD_NORMS, *OUTPUT_NORMS}:
        return Turn()
    if ending == "weight" and part in READERS:
        return Turn(gain=prefix + READERS[part] if residual else None, reads=residual, gives=gives)
    if ending == "weight" and part in WRITERS:
        return Turn(writes=residual, takes=layer if values and part == TAKES_VALUES else None)
    return None


def _check_shapes(turns: Mapping[str, Turn], tensors: Mapping[str, TensorInfo], sizes: Sizes, where: str) -> None:
    for name, turn in turns.items():
        shape = tensors[name].shape
        heads = sizes.groups if ".v_proj." in name else sizes.heads + 2 * sizes.groups
        gives = turn.gives is None or shape[0] == heads * sizes.width
        takes = turn.takes is None or shape[1] == sizes.heads * sizes.width
        reads = not turn.reads or shape[1] == sizes.hidden
        if not (gives and takes and reads and (not turn.writes or shape[0] == sizes.hidden)):
            raise Refused(
                f"`{name}` has shape {list(shape)}, which does not go with the sizes of attention in its config",
                where=where,
                hint="fetch the model again",
            )
