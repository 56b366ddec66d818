"""Olive's ModelBuilder as `build-genai`: its own parameters and those of `extra_options`, which say the same."""

from __future__ import annotations

from typing import Any

from picual.passes.export.genai import ROUNDING_BLOCK
from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, word
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
_FLOATING = (0, 1, 2, 3)  # levels of accuracy whose activations stay in a floating type
_INT8 = 4
# How int4 is done -> width of the head, and what else would be different.
_ALGORITHMS: dict[str, tuple[str | None, str]] = {
    "default": (None, "weights are rounded to the nearest step, as here"),
    "rtn": (None, "weights are rounded to the nearest step, as here"),
    "rtn_last": ("int8", ""),
    "k_quant": (
        None,
        "weights are rounded to the nearest step; the search for better scales is not in this version",
    ),
    "k_quant_last": ("int8", ""),
    "k_quant_mixed": ("int8", "; single layers of 8 bits are not supported in this version"),
    "k_quant_linear": (None, "layers of 8 bits are not supported in this version"),
}


def only_metadata(step: Step) -> bool:
    """Say whether the pass writes configuration files for a model that is built already."""
    found = step.reader.find("metadata_only")
    return found is not None and found.value is True


def read_build(context: Context, step: Step) -> dict[str, Any]:
    """Return the fields of `build-genai`; the check of the recipe looks at their types."""
    for ours, olive in (
        ("precision", "precision"),
        ("block", "int4_block_size"),
        ("symmetric", "int4_is_symmetric"),
    ):
        value = step.take(ours, olive)
        if value is not None:
            step.fields[ours] = _plain(value)
    _accuracy_level(step)
    _algorithm(step)
    _excluded(step)
    _operators(step)
    if word(step.fields.get("precision")) == "int4":
        _better_defaults(step)
    context.trusts(step.reader)
    step.reader.drop_all(UNUSED)
    return step.fields


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
    value = _plain(step.take("accuracy_level", "int4_accuracy_level"))
    found = step.reader.find("int4_accuracy_level")
    if value is None or found is None:
        return
    block = step.fields.get("block")
    if value == _INT8 and isinstance(block, int) and block > ROUNDING_BLOCK:
        text = (
            f"left out: activations stay in float, since rounding them in blocks of {block} changes what is said"
        )
        step.context.ledger.note(found.path, "replaced", text)
        return
    known = value in _FLOATING or value == _INT8
    step.fields["accuracy_level"] = _FLOATING[0] if value in _FLOATING else value
    if known and value not in {_FLOATING[0], _INT8}:
        text = f"becomes `{step.to('accuracy_level')}: {_FLOATING[0]}`: activations stay in float, as with {value}"
        step.context.ledger.note(found.path, "replaced", text)


def _algorithm(step: Step) -> None:
    found = step.reader.given("int4_algo_config")
    if found is None:
        return
    ledger = step.context.ledger
    if word(found.value) not in _ALGORITHMS:
        ledger.note(found.path, "later", f"`{found.value}` is not supported in this version")
        return
    head, text = _ALGORITHMS[word(found.value)]
    if head is None:
        ledger.note(found.path, "mapped" if text.endswith("here") else "later", f"{text}; the head has 8 bits")
        return
    step.fields["head"] = head
    step.places["head"] = ledger.place(found.path)
    ledger.note(found.path, "mapped", f"becomes `{step.to('head')}: {head}`{text}")


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
