"""LoftQ's start of an adapter: computed weight by weight, kept until the training begins.

What was taken off a weight before 4 bits held it lies beside the adapter: without it nobody could tell what was
trained on. Where the update starts lies in the scratch folder.
Source: Li et al., "LoftQ", arXiv 2310.08659.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from picual.models import HfModel
from picual.models.four_bit import dequantized
from picual.models.trained_on import TAKEN_OFF, FourBit
from picual.passes.base import PassContext
from picual.passes.rewriting import read

START = "loftq-start.safetensors"


def write(
    model: HfModel, names: Sequence[str], held: FourBit, context: PassContext, *, rank: int, rounds: int
) -> FourBit:
    """Write both files and return how the weights are held then.

    Args:
        model: The base.
        names: Of the weights that get an adapter and are held in 4 bits.
        held: How, with nothing taken off.
        context: Of the pass.
        rank: Of the adapter.
        rounds: Of LoftQ, at least 1.
    """
    import torch
    from safetensors.torch import save_file

    from picual.numerics import loftq

    tensors = model.tensors()
    starts: dict[str, torch.Tensor] = {}
    taken: dict[str, torch.Tensor] = {}
    torch.set_num_threads(context.threads)
    for name in names:
        weight = read(tensors[name].file, name)
        off, found = loftq.start(weight, rank, rounds, lambda matrix: dequantized(matrix, held))
        starts |= {f"{name}.b": found.b, f"{name}.a": found.a}
        if off is not None:
            taken |= {f"{name}.b": off.b, f"{name}.a": off.a}
    save_file(starts, context.scratch / START)
    context.metrics["loftq_weights"] = len(names)
    if not taken:
        return held
    save_file(taken, context.folder / TAKEN_OFF)
    return replace(held, taken_off=context.folder / TAKEN_OFF)


def begin(adapted: Any, context: PassContext) -> None:
    """Put the start into a fresh adapter, half of its strength in each factor."""
    import torch
    from safetensors.torch import load_file

    starts = load_file(context.scratch / START)
    for name in sorted(one.removesuffix(".weight.b") for one in starts if one.endswith(".weight.b")):
        layer = adapted.base_model.model.get_submodule(name)
        strength = layer.scaling["default"] ** 0.5
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(starts[f"{name}.weight.a"] / strength)
            layer.lora_B["default"].weight.copy_(starts[f"{name}.weight.b"] / strength)
