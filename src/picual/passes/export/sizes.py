"""What an exported model will weigh, and what exporting it takes, from its sizes alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

from picual.models import Profile
from picual.numerics.block_sizes import Bits, nbytes

# Measured: the imports, a skeleton's nodes, and one piece of weights with what rounding it needs.
LIBRARIES = 245_000_000  # bytes
LAYER_NODES = 200_000  # bytes a decoder layer
PIECE = 30_000_000  # bytes
TOKENIZER = 4_000_000  # bytes of tokenizer files, roughly
GRAPH = 3_000  # bytes of model.onnx beside its layers
GRAPH_LAYER = {"fp32": 4_800, "fp16": 4_800, "int8": 7_100, "int4": 7_100}  # bytes a layer


def peak_memory(profile: Profile) -> int:
    """Return the anonymous memory at the peak, in bytes: the weights are streamed, so they hardly count."""
    caches = 4 * profile.context * profile.head_size
    return LIBRARIES + PIECE + LAYER_NODES * profile.layers + 3 * caches


def kept_bytes(profile: Profile) -> int:
    """Return the bytes of ``model.onnx`` and its data file, integers kept as a quantized checkpoint has them."""
    caches = 4 * profile.context * profile.head_size
    return GRAPH + GRAPH_LAYER["int4"] * profile.layers + caches + 4 * profile.other + profile.quantized


def exported_bytes(profile: Profile, *, precision: str, block: int, symmetric: bool, head: str) -> int:
    """Return the bytes of ``model.onnx`` and its data file.

    Args:
        profile: Of the checkpoint.
        precision: fp32, fp16, int8 or int4.
        block: Weights that share a scale.
        symmetric: Without zero points.
        head: int8 or int4; of a head, tied or not, when ``precision`` is not a float.
    """
    graph = GRAPH + GRAPH_LAYER[precision] * profile.layers
    caches = 4 * profile.context * profile.head_size  # cosines and sines of half a head
    if precision in {"fp32", "fp16"}:
        width = 4 if precision == "fp32" else 2
        return graph + width * profile.parameters + caches * width // 4
    bits: dict[str, Bits] = {"int4": 4, "int8": 8}
    form = functools.partial(nbytes, block=block, symmetric=symmetric)
    tables = form(profile.vocabulary, profile.hidden, bits=bits[head])
    if not profile.tied:
        tables += form(profile.vocabulary, profile.hidden, bits=8)
    body = functools.partial(form, bits=bits[precision])
    return graph + caches + 4 * profile.other + tables + linear_bytes(profile, body)


def linear_bytes(profile: Profile, form: Callable[[int, int], int]) -> int:
    """Return the bytes of all linear layers; each matrix by its own shape, since rows are filled up to a block.

    Args:
        profile: Of the checkpoint.
        form: Bytes of a matrix by its rows and columns.
    """
    down = profile.intermediate * profile.hidden * profile.layers
    attention_width = profile.heads * profile.head_size
    out = attention_width * profile.hidden * profile.layers
    rest = profile.linear - down - out
    if rest <= 0 or not profile.intermediate:
        return form(profile.linear // profile.hidden, profile.hidden)
    return (
        form(profile.hidden * profile.layers, profile.intermediate)
        + form(profile.hidden * profile.layers, attention_width)
        + form(rest // profile.hidden, profile.hidden)
    )
