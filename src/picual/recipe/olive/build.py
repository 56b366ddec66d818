"""Olive's ModelBuilder as `build-genai`: its own parameters and those of `extra_options`, which say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from picual.passes.export.genai import ROUNDING_BLOCK
from picual.recipe.olive.context import Context
from picual.recipe.olive.domains import each, listed, values_of
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, flag_of, word
from picual.recipe.olive.step import Step

_KERNEL: Reason = ("ignored", "the runtime chooses its kernels by the target")
_OWN_HEAD: Reason = ("ignored", "`build-genai` writes a complete model, embeddings and head included")
_FILES: Reason = ("ignored", "the files of the model's folder have fixed names")
_MIXTURE: Reason = ("later", "models of many experts are not supported in this version")
_GENERATION: Reason = ("ignored", "generation settings are the checkpoint's own: its generation_config.json")
UNUSED: dict[str, Reason] = {
    "search": _GENERATION,
    "override_search_opt": _GENERATION,
    "metadata_only": ("mapped", "false: the model itself is built"),
    "use_qdq": ("ignored", "int4 weights are written as MatMulNBits"),
    "use_8bits_moe": _MIXTURE,
    "use_nvfp4_moe": _MIXTURE,
    "qmoe_block_size": _MIXTURE,
    "quant_mode": _MIXTURE,
    "use_webgpu_fp32": _KERNEL,
    "use_cuda_bf16": _KERNEL,
    "enable_cuda_graph": _KERNEL,
    "enable_webgpu_graph": _KERNEL,
    "enable_GQA_on_CPU": _KERNEL,
    "use_packed_matmul": _KERNEL,
    "include_hidden_states": ("later", "hidden states as an output are not supported in this version"),
    "exclude_embeds": _OWN_HEAD,
    "exclude_lm_head": _OWN_HEAD,
    "prune_lm_head": (
        "ignored",
        "the head is computed for the last token while a prompt is read, where it can be",
    ),
    "filename": _FILES,
    "save_as_external_data": _FILES,
    "all_tensors_to_one_file": _FILES,
    "external_data_name": _FILES,
    "hf_token": ("ignored", "the hub's token comes from the environment: `HF_TOKEN`"),
    "execution-provider": ("ignored", "the target names the provider"),
    "execution_provider": ("ignored", "the target names the provider"),
    "quantization_config": ("ignored", "a checkpoint that is quantized already says so itself"),
}
KNOWN = (
    *UNUSED, "precision", "int4_block_size", "int4_is_symmetric", "int4_accuracy_level", "int4_algo_config",
    "int4_op_types_to_quantize", "int4_nodes_to_exclude", "extra_options",
)  # fmt: skip
_FLOATS = ("fp32", "fp16", "bf16")
_AS_STORED: Reason = ("mapped", "the integers of the step that quantizes go over as they are")
_KEPT: dict[str, Reason] = dict.fromkeys(
    ("precision", "int4_block_size", "int4_is_symmetric", "int4_algo_config", "int4_op_types_to_quantize",
     "int4_nodes_to_exclude"),
    _AS_STORED,
)  # fmt: skip
_FLOATING = (0, 1, 2, 3)  # levels of accuracy whose activations stay in a floating type
_INT8 = 4
_BLOCKS = (32, 64, 128)  # that Olive searches
_SUGGESTED = ("default", "rtn", "k_quant_mixed", "k_quant_last")
# How int4 is done -> width of the head, and what else would be different.
_ALGORITHMS: dict[str, tuple[str | None, str]] = {
    "default": (None, "weights are rounded to the nearest step, as here"),
    "rtn": (None, "weights are rounded to the nearest step, as here"),
    "rtn_last": ("int8", ""),
    "k_quant": (
        None,
        "weights are rounded to the nearest step; a step `rtn` before it searches for better scales",
    ),
    "k_quant_last": ("int8", ""),
    "k_quant_mixed": ("int8", "; a step `quantize` with `bits_per_weight` before it gives single layers 8 bits"),
    "k_quant_linear": (None, "a step `quantize` before it gives single layers 8 bits: `overrides`"),
}


def only_metadata(step: Step) -> bool:
    """Say whether the pass writes configuration files for a model that is built already."""
    found = step.reader.find("metadata_only")
    return found is not None and flag_of(found.value) is True


def only_floats(reader: Reader) -> bool:
    """Say whether the pass builds a model whose weights stay in float."""
    precision, metadata = reader.find("precision"), reader.find("metadata_only")
    is_metadata = metadata is not None and flag_of(metadata.value) is True
    return precision is not None and word(precision.value) in _FLOATS and not is_metadata


def read_build(context: Context, step: Step, *, takes_integers: bool) -> dict[str, Any]:
    """Return the fields of `build-genai`; the check of the recipe looks at their types.

    Args:
        context: Of the import.
        step: The pass.
        takes_integers: Whether a step before it quantizes: then its integers go over as they are.
    """
    if takes_integers:
        step.reader.drop_all(_KEPT)
        _accuracy_level(step)
        context.trusts(step.reader)
        step.reader.drop_all(UNUSED)
        return step.fields
    _take(step, "precision", "precision")
    is_int4 = any(word(value) == "int4" for value in values_of(step.fields.get("precision")))
    _take(step, "block", "int4_block_size", own=_BLOCKS if is_int4 else ())
    _take(step, "symmetric", "int4_is_symmetric", own=(True, False) if is_int4 else ())
    _accuracy_level(step)
    _algorithm(step, is_int4=is_int4)
    _excluded(step)
    _operators(step)
    if is_int4:
        _better_defaults(step)
    context.trusts(step.reader)
    step.reader.drop_all(UNUSED)
    return step.fields


def _take(step: Step, ours: str, olive: str, *, own: Sequence[Any] = ()) -> None:
    value = step.take(ours, olive, own=own)
    if value is not None:
        step.fields[ours] = each(value, _plain)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else value.strip()
    return value


def _better_defaults(step: Step) -> None:
    """Say where int4 differs from Olive's when the config leaves it open."""
    ledger = step.context.ledger
    if "symmetric" not in step.fields:
        text = "left out: each block of weights has a zero point, which is closer to the model (Olive: none)"
        ledger.note(step.path("int4_is_symmetric"), "defaulted", text)
    if "head" not in step.fields and not step.reader.has("int4_algo_config"):
        text = "left out: the head has 8 bits, which is closer to the model (Olive: 4)"
        ledger.note(step.path("int4_algo_config"), "defaulted", text)


def _accuracy_level(step: Step) -> None:
    """Take the type that activations are rounded to; the kernels know int8 and none."""
    value = each(step.take("accuracy_level", "int4_accuracy_level"), _plain)
    found = step.reader.find("int4_accuracy_level")
    if value is None or found is None:
        return
    wide = [one for one in values_of(step.fields.get("block")) if isinstance(one, int) and one > ROUNDING_BLOCK]
    if value == _INT8 and wide:
        text = "left out: activations stay in float, since rounding them in blocks of "
        step.context.ledger.note(found.path, "replaced", f"{text}{listed(wide)} changes what is said")
        return
    step.fields["accuracy_level"] = each(value, lambda one: _FLOATING[0] if one in _FLOATING else one)
    floating = [one for one in values_of(value) if one in _FLOATING and one != _FLOATING[0]]
    if floating:
        to = f"`{step.to('accuracy_level')}: {_FLOATING[0]}`"
        text = f"becomes {to}: activations stay in float, as with {listed(floating)}"
        step.context.ledger.note(found.path, "replaced", text)


def _algorithm(step: Step, *, is_int4: bool) -> None:
    """Take how int4 is done: every way that Picual knows is rounding, with a head of 8 bits."""
    value = step.take("head", "int4_algo_config", own=_SUGGESTED if is_int4 else ())
    found = step.reader.given("int4_algo_config")
    if value is None:
        return
    path = step.path("int4_algo_config") if found is None else found.path
    ledger = step.context.ledger
    given = values_of(value)
    names = [word(one) for one in given]
    if unknown := [one for one in given if word(one) not in _ALGORITHMS]:
        ledger.note(path, "later", f"`{listed(unknown)}` is not supported in this version")
        return
    if len(names) > 1:
        text = f"{listed(names)} are one here: weights are rounded to the nearest step, and the head has 8 bits"
        ledger.note(path, "replaced" if found is not None else "defaulted", text)
        step.fields["head"] = "int8"
        return
    head, text = _ALGORITHMS[names[0]]
    if head is None:
        ledger.note(path, "mapped" if text.endswith("here") else "later", f"{text}; the head has 8 bits")
        return
    step.fields["head"] = head
    ledger.note(path, "mapped", f"becomes `{step.to('head')}: {head}`{text}")


def _excluded(step: Step) -> None:
    """Take the nodes that stay in float, of which `build-genai` can give the head more bits than the others."""
    found = step.reader.given("int4_nodes_to_exclude")
    if found is None:
        return
    nodes = found.value if isinstance(found.value, list) else [found.value]
    others = [node for node in nodes if "lm_head" not in str(node)]
    ledger = step.context.ledger
    if len(others) < len(nodes):
        step.fields["head"] = "int8"
        step.places["head"] = ledger.place(found.path)
    if not nodes:
        ledger.mapped(found.path, "no node is left out")
    elif not others:
        text = f"becomes `{step.to('head')}: int8`: a head in float beside int4 is not supported in this version"
        ledger.note(found.path, "replaced", text)
    else:
        ledger.note(found.path, "later", "single nodes in float beside int4 are not supported in this version")


def _operators(step: Step) -> None:
    found = step.reader.given("int4_op_types_to_quantize")
    if found is None:
        return
    text = "the linear layers are always quantized"
    if _names(found, "gather"):
        text += "; of embeddings only one that is tied to the head, in this version"
    step.context.ledger.note(found.path, "later" if _names(found, "gather") else "mapped", text)


def _names(found: Found, operator: str) -> bool:
    return isinstance(found.value, list) and any(word(item) == operator for item in found.value)
