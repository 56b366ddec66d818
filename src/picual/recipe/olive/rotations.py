"""Olive's rotations as `rotate`: of the values of each head; of the stream too only where the recipe says so."""

from __future__ import annotations

from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import word
from picual.recipe.olive.step import Step

_QUANTIZER: Reason = ("ignored", "a rotation rounds nothing: the quantizer after it does")
_ONLINE: Reason = (
    "ignored",
    "activations and caches are not rotated while the model runs, nor rounded by this step",
)
UNUSED: dict[str, Reason] = {
    "a_bits": _ONLINE, "a_symmetric": _ONLINE, "a_per_token": _ONLINE, "k_bits": _ONLINE, "v_bits": _ONLINE,
    "training_args": ("ignored", "rotations are drawn, not trained"),
    "w_bits": _QUANTIZER, "w_rtn": _QUANTIZER, "w_gptq": _QUANTIZER,
    "calibration_data_config": _QUANTIZER, "data_config": _QUANTIZER,
    "rotate": ("mapped", "it is what the step is for"),
}  # fmt: skip
KNOWN = (*UNUSED, "seed", "rotate_mode")
_VALUES = (
    "becomes `rotate`, which turns the values of attention; `residual: true` turns the stream between layers as "
    "well, as Olive does, where the head is not tied to the embedding (Olive unties it)"
)


def read_rotation(context: Context, step: Step, kind: str) -> tuple[str, dict[str, Any], Reason]:
    """Return our pass, its fields and what to say of the type."""
    seed = step.take("seed", "seed")
    if seed is not None:
        step.fields["seed"] = seed
    mode = step.reader.given("rotate_mode")
    if mode is not None:
        is_hadamard = word(mode.value) == "hadamard"
        text = "signs are drawn, and a Hadamard matrix follows, where one of that size is known"
        context.ledger.note(mode.path, "mapped" if is_hadamard else "replaced", text)
    step.reader.drop_all(UNUSED)
    trained = "; its rotations are drawn, Olive's are trained" if kind == "spinquant" else ""
    return "rotate", step.fields, ("replaced", _VALUES + trained)
