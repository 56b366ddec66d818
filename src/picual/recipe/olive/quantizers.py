"""Olive's quantizers as ours: how many bits, which blocks, what of the head, and on which text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.recipe.olive.chains import Link
from picual.recipe.olive.context import Context
from picual.recipe.olive.domains import each, values_of
from picual.recipe.olive.group_sizes import block_of
from picual.recipe.olive.mixed import Mixed, read_mixed
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, flag_of, object_reader, whole_number, word
from picual.recipe.olive.single_weights import NO_FLOATS, TABLE, Singles, is_table
from picual.recipe.olive.step import Step


@dataclass(frozen=True)
class Sort:
    """One of Olive's quantizers.

    Attributes:
        type: Of our pass.
        block: What Olive takes when the group is left out; -1: a scale for each channel.
        more: What else to say of the pass.
        size: Name of the group's parameter.
        symmetric: Name of the parameter that leaves out zero points.
        has_zeros: Whether Olive stores zero points when that is left out.
    """

    type: str
    block: int
    more: str = ""
    size: str = "group_size"
    symmetric: str = "sym"
    has_zeros: bool = True


_SEARCH = "zero points and scales are searched for"
_NEARER = f": {_SEARCH}, which is closer to the model than Olive's rounding over the range (`search: false`)"
_SAME_IDEA = f": {_SEARCH}, which is the same idea"
SORTS: dict[str, Sort] = {
    "rtn": Sort("rtn", 128, _NEARER),
    "kquant": Sort("rtn", 32, _SAME_IDEA),
    "gptq": Sort("gptq", 128),
    "gptqquantizer": Sort("gptq", 128),
    "gptqmodel": Sort("gptq", -1, has_zeros=False),
    "autoawqquantizer": Sort(
        "awq", 128, ": rows are rounded as GPTQ does it where that is closer, and no GPU is needed",
        size="q_group_size", symmetric="zero_point",
    ),
    "onnxblockwisertnquantization": Sort("rtn", 128, _NEARER, "block_size", "is_symmetric", has_zeros=False),
    "onnxmatmul4quantizer": Sort("rtn", 32, _NEARER, "block_size", "is_symmetric", has_zeros=False),
    "onnxkquantquantization": Sort("rtn", 32, _SAME_IDEA, "block_size", "is_symmetric"),
    "onnxhqqquantization": Sort("rtn", 128, _SAME_IDEA, "block_size", "is_symmetric"),
}  # fmt: skip
_SEARCHED = ("rtn", "gptq", "kquant")  # of which Olive searches what is left out
_BITS, _GROUPS, _DAMPINGS = (2, 4, 8), (-1, 16, 32, 64, 128), (0.001, 0.01, 0.1)
_NO_EXPERTS: Reason = ("later", "models of many experts are not supported in this version")
_FOUND: Reason = ("ignored", "the linear layers are found by their names in the checkpoint")
_FITTED: Reason = ("ignored", "scales are fitted by least squares")
_KERNEL: Reason = ("ignored", "the runtime chooses its kernels by the target")
_SINGLE_NODES: Reason = ("later", "single nodes in float beside integers are not supported in this version")
UNUSED: dict[str, Reason] = {
    "moe": _NO_EXPERTS,
    "moe_fallback_threshold": _NO_EXPERTS,
    "moe_fallback_min_k_multiple": _NO_EXPERTS,
    "device": ("ignored", "Picual computes on the device of its host"),
    "rotation": ("later", "a step `rotate` before this one rotates weights"),
    "damp_auto_increment": ("ignored", "`damping` is one value"),
    "static_groups": ("mapped", "grids are always fixed before the columns are ordered"),
    "true_sequential": ("mapped", "each layer is rounded on what the quantized layers before it leave"),
    "mse": _FITTED,
    "layers_block_name": _FOUND,
    "outside_layer_modules": _FOUND,
    "inside_layer_modules": _FOUND,
    "input_model_dtype": ("ignored", "weights are read in the checkpoint's own type"),
    "version": _KERNEL,
    "export_compatible": ("mapped", "`build-genai` takes every quantized checkpoint of Picual's"),
    "pack_model_for_onnx_conversion": ("mapped", "`build-genai` takes every quantized checkpoint of Picual's"),
    "user_script": ("ignored", "no code of the user's is needed"),
    "script_dir": ("ignored", "no code of the user's is needed"),
    "axis": ("ignored", "blocks lie along the inputs, as kernels take them"),
    "accuracy_level": ("ignored", "`accuracy_level` of `build-genai` says it; left out, the fastest"),
    "algorithm": ("ignored", f"{_SEARCH} whatever it names"),
    "weight_only_quant_configs": ("ignored", f"{_SEARCH} whatever it names"),
    "nodes_to_include": _SINGLE_NODES,
    "customized_weight_config": _SINGLE_NODES,
}
KNOWN = (
    *UNUSED, "bits", "w_bit", "group_size", "q_group_size", "block_size", "sym", "zero_point", "is_symmetric",
    "lm_head", "embeds", "quantize_vision", "overrides", "modules_to_not_convert", "dynamic", "damp_percent",
    "desc_act", "duo_scaling", "data_config", "nodes_to_exclude",
)  # fmt: skip
_MEAN: Reason = "ignored", "`bits_per_weight` is a mean over formats that `quantize` chooses"


def read_quantizer(context: Context, step: Step, kind: str, link: Link) -> tuple[str, dict[str, Any], Reason]:
    """Return our pass, its fields and what to say of the type; the check of the recipe looks at the fields."""
    sort = SORTS[kind]
    is_searched = kind in _SEARCHED
    _take_bits(step, _BITS if is_searched else ())
    _take_block(step, sort, _GROUPS if is_searched and kind != "kquant" else ())
    _take_symmetric(step, sort, (True, False) if is_searched else ())
    singles = Singles(context.ledger)
    singles.read(step.reader)
    _head(step, sort, singles, link.rest)
    if singles.overrides:
        step.fields["overrides"] = singles.overrides
        found = step.reader.find("overrides", "modules_to_not_convert", "dynamic")
        step.places["overrides"] = context.ledger.place(step.path("overrides") if found is None else found.path)
    if sort.type == "gptq":
        _gptq(step, _DAMPINGS if kind == "gptq" else ())
    if sort.type == "awq" and (duo := step.take("duo_scaling", "duo_scaling")) is not None:
        step.fields["duo_scaling"] = duo
    if sort.type in ("gptq", "awq"):
        _calibration(step)
    type_ = _said_before(step, sort, link)
    _vision(step)
    context.trusts(step.reader)
    step.reader.drop_all(UNUSED)
    more = sort.more if type_ == sort.type else ""
    more += "; it comes before `build-genai`, which keeps its integers" if link.is_moved else ""
    return type_, step.fields, ("mapped", f"becomes `{type_}`{more}")


def _take_bits(step: Step, own: tuple[int, ...]) -> None:
    value = step.take("bits", "bits", "w_bit", own=own)
    if value is not None:
        step.fields["bits"] = each(value, _plain)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _take_block(step: Step, sort: Sort, own: tuple[int, ...]) -> None:
    value = step.take("block", sort.size, own=own)
    if value is None:
        if sort.block > 0:
            step.default(sort.size, "block", sort.block)
            return
        step.fields["block"] = 128
        step.context.ledger.note(step.path(sort.size), "defaulted", "left out: 128 (Olive: a scale for a channel)")
        return
    told: list[str] = []

    def ours(given: Any) -> Any:
        size = given if isinstance(given, int) and not isinstance(given, bool) else whole_number(given)
        if size is None:
            return given
        block, text = block_of(size)
        told.extend([text] if text else [])
        return block

    step.fields["block"] = each(value, ours)
    found = step.reader.given(sort.size)
    if told and found is not None:
        step.context.ledger.note(found.path, "replaced", "; ".join(dict.fromkeys(told)))


def _take_symmetric(step: Step, sort: Sort, own: tuple[bool, ...]) -> None:
    value = step.take("symmetric", sort.symmetric, own=own)
    if value is not None:
        step.fields["symmetric"] = each(value, _inverted) if sort.symmetric == "zero_point" else value
    elif not sort.has_zeros:
        text = "left out: each block of weights has a zero point, which is closer to the model (Olive: none)"
        step.context.ledger.note(step.path(sort.symmetric), "defaulted", text)


def _inverted(value: Any) -> Any:
    return not value if isinstance(value, bool) else value


def _head(step: Step, sort: Sort, singles: Singles, rest: Found | None) -> None:
    """Take what is said of head and embeddings, by the pass itself, for single weights, or by one that follows."""
    ledger = step.context.ledger
    if sort.size == "block_size":
        _excluded(step, singles)
    else:
        bits, block = step.fields.get("bits", 4), step.fields.get("block")
        _asked(step, step.reader, singles, bits, block, is_last=rest is None)
    if rest is not None:
        _rest(step, singles, object_reader(ledger, rest))
        ledger.note(rest.path, "mapped", f"is a part of step `{step.name}`, which rounds head and embeddings too")
    if singles.head is not None:
        step.fields["head"] = "int4" if singles.head.get("bits", 8) in {2, 4} else "int8"
        if isinstance(singles.head.get("block"), int):
            step.fields["head_block"] = singles.head["block"]
        step.places.setdefault("head", ledger.place(step.path("lm_head")))


def _rest(step: Step, singles: Singles, reader: Reader) -> None:
    """Take what a pass says that rounds what this one leaves."""
    others = Singles(step.context.ledger)
    others.read(reader)
    tables = {name: fields for name, fields in others.overrides.items() if is_table(name)}
    singles.overrides = {**tables, **singles.overrides}
    singles.head = others.head or singles.head
    bits, size = reader.given("bits"), reader.given("group_size")
    block = None if size is None else whole_number(size.value)
    _asked(step, reader, singles, 4 if bits is None else _plain(bits.value), block, is_last=True)


def _asked(step: Step, reader: Reader, singles: Singles, bits: Any, block: Any, *, is_last: bool) -> None:
    """Take `lm_head` and `embeds`: here both are always integers."""
    ledger = step.context.ledger
    found = reader.given("lm_head")
    if found is None:
        if is_last and singles.head is None:
            path = (*reader.layers[0].path, "lm_head")
            ledger.note(path, "defaulted", f"left out: the head has 8 bits: {NO_FLOATS}; {TABLE}")
    elif (asked := flag_of(found.value)) is True:
        said = {"bits": bits if bits in (2, 4) else 8}  # a tuple: a list may stand there
        if isinstance(block, int):
            said["block"] = block_of(block)[0]
        singles.head = {**said, **(singles.head or {})}
        step.places["head"] = ledger.place(found.path)
        ledger.mapped(found.path, step.to("head"))
    elif asked is False:
        text = f"the head has 8 bits: {NO_FLOATS}" if is_last else "the pass that follows rounds the head"
        ledger.note(found.path, "replaced" if is_last else "mapped", text)
    elif isinstance(found.value, list) or word(found.value):
        ledger.note(found.path, "replaced", f"the head has 8 bits in every trial: {NO_FLOATS}")
    else:
        reader.wrong_type(found, "true or false")
    embeds = reader.given("embeds")
    if embeds is not None:
        ledger.note(embeds.path, "mapped" if flag_of(embeds.value) is True and bits == 8 else "replaced", TABLE)


def _excluded(step: Step, singles: Singles) -> None:
    """Take the nodes of a graph that stay in float."""
    ledger = step.context.ledger
    found = step.reader.given("nodes_to_exclude")
    if found is None:
        text = "left out: the head has 8 bits, which is closer to the model (Olive: as the other layers)"
        ledger.note(step.path("nodes_to_exclude"), "defaulted", text)
        return
    nodes = found.value if isinstance(found.value, list) else [found.value]
    others = [node for node in nodes if "lm_head" not in str(node)]
    if len(others) < len(nodes):
        singles.head = {"bits": 8}
    if others:
        ledger.note(found.path, *_SINGLE_NODES)
    elif nodes:
        ledger.note(found.path, "replaced", f"the head has 8 bits: {NO_FLOATS}")
    else:
        ledger.mapped(found.path, "no node is left out")


def _gptq(step: Step, dampings: tuple[float, ...]) -> None:
    damping = step.take("damping", "damp_percent", own=dampings)
    if damping is not None:
        step.fields["damping"] = damping
    order = step.take("order", "desc_act")
    if order is not None:
        step.fields["order"] = each(order, _order)


def _calibration(step: Step) -> None:
    step.data("data", "data_config")
    if "data" not in step.fields:
        text = "left out: a few pages of text that come with Picual (Olive: rows of a data set from the hub)"
        step.context.ledger.note(step.path("data_config"), "defaulted", text)


def _order(value: Any) -> Any:
    return ("activation" if value else "given") if isinstance(value, bool) else value


def _said_before(step: Step, sort: Sort, link: Link) -> str:
    """Take what earlier passes say of this one; return our pass."""
    type_ = sort.type
    ledger = step.context.ledger
    for found in link.says:
        mixed = _mixed_of(step, found)
        if mixed is None:
            text = f"is a part of step `{step.name}`: clipping is one of the scales that are tried there"
            ledger.note(found.path, "mapped", text)
            continue
        if not mixed.is_read:
            ledger.note(found.path, "ignored", mixed.text)
            continue
        ledger.note(found.path, "mapped", f"is a part of step `{step.name}`: {mixed.text}")
        if mixed.mean is None:
            step.fields["head"] = "int8"
        else:
            type_ = "quantize"
            _budget(step, sort, mixed.mean)
    return type_


def _mixed_of(step: Step, found: Found) -> Mixed | None:
    given = object_reader(step.context.ledger, found).find_type()
    if given is None or word(given.value) != "selectivemixedprecision":
        return None
    block = next((one for one in values_of(step.fields.get("block")) if isinstance(one, int)), 32)
    symmetric = step.fields.get("symmetric") is True
    return read_mixed(step.context.ledger, found, block=block, symmetric=symmetric)


def _budget(step: Step, sort: Sort, mean: float) -> None:
    """Let `quantize` choose formats: what the quantizer says of all layers alike has no effect then."""
    if sort.type == "rtn":
        step.fields["effort"] = "fast"
    step.fields["bits_per_weight"] = mean
    names: Mapping[str, tuple[str, ...]] = {
        "bits": ("bits",), "block": (sort.size,), "damping": ("damp_percent",), "order": ("desc_act",),
        "duo_scaling": ("duo_scaling",),
    }  # fmt: skip
    for ours, olives in names.items():
        step.fields.pop(ours, None)
        step.places.pop(ours, None)
        for name in olives:
            found = step.reader.find(name)
            path = step.path(name) if found is None else found.path
            if step.context.ledger.is_told(path):
                step.context.ledger.note(path, *_MEAN)
    step.fields.pop("head_block", None)


def _vision(step: Step) -> None:
    found = step.reader.given("quantize_vision")
    if found is not None:
        is_asked = flag_of(found.value) is True
        text = "only the decoder is quantized"
        step.context.ledger.note(found.path, "later" if is_asked else "mapped", text)
