"""In which precision the base model's weights are held while its adapter is trained."""

from __future__ import annotations

from typing import Literal

from picual.hardware import Machine

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
FAST_BF16 = {"amx_bf16", "avx512_bf16"}  # processors that multiply bfloat16 faster than float32


def weights_dtype(asked: Dtype, machine: Machine, *, gpu: bool) -> tuple[str, str]:
    """Return the dtype, and a note when it is not the one asked for.

    Args:
        asked: The pass's field.
        machine: Where the step runs.
        gpu: Whether it runs on a GPU.
    """
    if asked == "auto":
        return "bfloat16" if gpu or FAST_BF16 & set(machine.instructions) else "float32", ""
    if asked == "float16" and not gpu:
        return "float32", "`dtype: float16` needs a GPU; the weights are float32 while training"
    return asked, ""


def on_the_grid(asked: Dtype) -> Dtype:
    """Return the dtype for weights that integers stand for: half precision would move them off their grid."""
    return "float32" if asked == "auto" else asked
