"""Olive's DoRA, LoHa and LoKr as our `lora` with another `method`."""

from __future__ import annotations

from typing import Any

from picual.recipe.olive import lora
from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import unquoted
from picual.recipe.olive.step import Step

_EVERY_LAYER: Reason = (
    "ignored",
    "every layer of the adapted modules gets an update of the same rank and strength",
)
# Of LoHa and LoKr: what their updates have beside those of LoRA.
UNUSED: dict[str, Reason] = {
    "lora_dropout": ("ignored", "this method has no dropout of inputs: `rank_dropout` leaves out outputs"),
    "module_dropout": ("ignored", "no module is left out as a whole: `rank_dropout` leaves out outputs"),
    "use_effective_conv2d": ("ignored", "it is for convolutions; a language model's layers are linear"),
    "exclude_modules": ("ignored", "name the layers to adapt instead: `target_modules`"),
    "init_weights": ("ignored", "an update starts at zero, so that training begins at the model itself"),
    "layers_to_transform": _EVERY_LAYER,
    "layers_pattern": _EVERY_LAYER,
    "rank_pattern": _EVERY_LAYER,
    "alpha_pattern": _EVERY_LAYER,
    "decompose_both": ("ignored", "the left matrix of LoKr is small, and whole"),
    "decompose_factor": ("ignored", "the matrices of LoKr are as near to equal in size as the layer allows"),
    "rank_dropout_scale": ("ignored", "what dropout leaves is scaled up, so that the update keeps its size"),
}
_AS_IT_IS: dict[str, Any] = {
    "module_dropout": 0, "init_weights": True, "rank_pattern": {}, "alpha_pattern": {}, "decompose_both": False,
    "decompose_factor": -1, "rank_dropout_scale": True,
}  # fmt: skip
KNOWN = (*lora.KNOWN, *UNUSED, "rank_dropout")


def read_method(context: Context, step: Step, kind: str) -> dict[str, Any]:
    """Return the fields of `lora`.

    Args:
        context: Of the import.
        step: The pass.
        kind: Its name at Olive, in lower case, which is ours of the method.
    """
    step.fields["method"] = kind
    if step.reader.given("use_rslora") is not None:
        step.reader.drop("use_rslora", "ignored", f"the pass is `{kind}`, whose strength is alpha / rank")
        step.fields["use_rslora"] = False
    if kind != "dora":
        dropout = step.take("dropout", "rank_dropout")
        if dropout is None:
            step.default("rank_dropout", "dropout", 0.0)
        else:
            step.fields["dropout"] = dropout
        for name, value in _AS_IT_IS.items():
            found = step.reader.given(name)
            if found is not None and unquoted(found.value) == value:
                step.reader.ledger.mapped(found.path, "it is so here")
        step.reader.drop_all(UNUSED)
    return lora.read_lora(context, step)
