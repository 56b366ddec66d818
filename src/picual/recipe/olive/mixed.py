"""Olive's ``SelectiveMixedPrecision``: which layers get more bits, said for the quantizer that follows."""

from __future__ import annotations

from dataclasses import dataclass

from picual.recipe.olive.notes import Ledger
from picual.recipe.olive.reader import Found, Reader, number_of, object_reader, whole_number, word

MOST_BITS = 8  # beside which no layer stays in float
# Share of the weights of the layers that a rule gives more bits: half of the layers, of which `down_proj` is about
# a quarter and query, key and value about a sixth.
_RULES = {
    "k_quant_last": 0.0,
    "high_precision_lm_head": 0.0,
    "k_quant_down": 0.12,
    "high_precision_mlp_down": 0.12,
    "k_quant_mixed": 0.2,
    "high_precision_mlp_down_qkv": 0.2,
}
_SCORED = ("snr", "snr_relative", "iqe", "iqe_relative", "kld_gradient")
_SCALE = 32  # bits
_HEAD_SHARE, _HEAD_BITS = 0.15, 8.6  # of all weights, on models of half a billion to eight; and what it takes


@dataclass(frozen=True)
class Mixed:
    """What a pass says of bits: a mean over the weights, or only that the head has more.

    Attributes:
        text: What becomes of the pass.
        mean: Bits a weight, scales and zero points included; None: every layer has as many as the quantizer says.
        is_read: Whether the pass could be read at all.
    """

    text: str
    mean: float | None = None
    is_read: bool = True


def read_mixed(ledger: Ledger, found: Found, *, block: int, symmetric: bool) -> Mixed:
    """Return what a ``SelectiveMixedPrecision`` says.

    Args:
        ledger: Of the import.
        found: The pass.
        block: Weights that share a scale, as the quantizer says.
        symmetric: Whether the quantizer stores no zero points.
    """
    reader = object_reader(ledger, found)
    given = reader.find("algorithm")
    name = "" if given is None else word(given.value)
    if name in _SCORED:
        ratio = _ratio(reader)
        if ratio is None:
            return Mixed(f"`{name}` needs a `ratio` between 0 and 1", is_read=False)
        share, block = 1 - ratio, _whole(reader, "group_size", 128, most=256)
    elif name in _RULES:
        share = _RULES[name]
    else:
        return Mixed("`algorithm` is not one of Olive's, so no layer gets more bits", is_read=False)
    if not share:
        return Mixed("the head has 8 bits")
    low, high = (_whole(reader, key, bits, most=MOST_BITS) for key, bits in (("bits", 4), ("high_bits", 8)))
    body = low + share * (high - low) + (_SCALE + (0 if symmetric else low)) / block
    mean = round(body + _HEAD_SHARE * (_HEAD_BITS - body), 1)
    text = f"`quantize` measures which layers gain most from 8 bits, within a mean of {mean} bits a weight, about "
    return Mixed(f"{text}what `{name}` spends", mean=mean)


def _ratio(reader: Reader) -> float | None:
    found = reader.find("ratio")
    share = None if found is None else number_of(found.value)
    return share if share is not None and 0 < share < 1 else None


def _whole(reader: Reader, name: str, default: int, *, most: int) -> int:
    """Return a number of bits or weights; one that says "all of them" is the most there is."""
    found = reader.find(name)
    value = None if found is None else found.value if found.value in (-1, 0) else whole_number(found.value)
    return default if value is None else most if value <= 0 else min(value, most)
