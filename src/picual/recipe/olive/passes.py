"""`passes`: each becomes a step under its own name, with our pass's fields or, where we have none, its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from picual.errors import nearest
from picual.recipe.olive import adapter_methods, build, lora, pass_names, quantizers, rotations
from picual.recipe.olive.alternatives import choice
from picual.recipe.olive.chains import Link, links_of, quantizes
from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.engine import Engine
from picual.recipe.olive.extraction import EXTRACTING, WHY_NOT, is_done_already
from picual.recipe.olive.flows import Slot, slots_of
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.step import SEARCHED, Step
from picual.recipe.olive.strategy import Strategy
from picual.recipe.olive.systems import Systems
from picual.recipe.schema import StepSpec

_OWN_KEYS = ("type", "config", "host", "evaluator", "disable_search", "clean_run_cache", "output_name")
_UNUSED: dict[str, Reason] = {
    "clean_run_cache": ("ignored", "the store knows by itself what is still valid"),
    "output_name": ("ignored", "the output folder's files have fixed names"),
    "evaluator": ("later", "metrics are measured of the input and the final model, not after single steps"),
}
_KNOWN = {name.lower(): name for name in pass_names.KNOWN}
_FILES: dict[str, Reason] = dict.fromkeys(
    (
        "save_as_external_data",
        "all_tensors_to_one_file",
        "external_data_name",
        "size_threshold",
        "convert_attribute",
    ),
    ("ignored", "the files of the model's folder have fixed names"),
)

_REASONS = {
    EXTRACTING: WHY_NOT,
    **dict.fromkeys(
        pass_names.ONNX_QUANTIZERS,
        "quantizes an exported model; here weights are quantized before: `rtn`, then `build-genai`",
    ),
    **dict.fromkeys(
        pass_names.SAYING, "says how the quantizer right after it quantizes, such as `Rtn` or `Gptq`; none follows"
    ),
}


@dataclass(frozen=True)
class Reading:
    """What every pass is read with."""

    context: Context
    sets: DataSets
    systems: Systems
    strategy: Strategy


def read_passes(
    context: Context, top: Reader, sets: DataSets, systems: Systems, engine: Engine
) -> tuple[StepSpec, ...]:
    """Return the steps of a config in their order.

    Raises:
        BadValue: `passes` is neither a mapping nor a list.
    """
    found = top.given("passes")
    if found is None:
        return ()
    if not isinstance(found.value, dict | list):
        raise context.ledger.wrong_shape(found.path, "a mapping of names to passes")
    context.ledger.opened(found.path)
    reading = Reading(context, sets, systems, engine.strategy)
    read = {name: _among(context, name, entry, engine.strategy) for name, entry in _entries(found)}
    passes = {name: among for name, among in read.items() if among}
    slots = _without(
        slots_of(context.ledger, list(read), engine.flows, is_search=engine.strategy.on),
        {name for name, among in read.items() if not among},
    )
    in_flows = {name for slot in slots for name in slot}
    for name, among in passes.items():
        for entry in among if name not in in_flows else ():
            context.ledger.note(entry.path, "ignored", "in none of the `pass_flows` that are run")
    steps: list[StepSpec] = []
    for link in links_of(context.ledger, slots, passes):
        if is_done_already(context.ledger, link, passes, steps):
            continue
        takes_integers = any(quantizes(step) for step in steps)
        steps.append(_of_link(reading, replace(link, takes_integers=takes_integers), passes))
    return tuple(steps)


def _without(slots: Sequence[Slot], wrong: Set[str]) -> list[Slot]:
    """Return the places of an order without the passes that could not be read."""
    left = [tuple(name for name in slot if name not in wrong) for slot in slots]
    return [slot for slot in left if set(slot) - {None}]


def _of_link(reading: Reading, link: Link, passes: Mapping[str, list[Found]]) -> StepSpec:
    """Return the step that a place in the order stands for: one pass, or a choice between several."""
    names = [name for name in link.slot if name is not None]
    title = "_or_".join(names)
    entries = [entry for name in names for entry in passes[name]]
    if len(entries) == 1 and None not in link.slot:
        return _step(reading, title, entries[0], link)
    among = [
        (entry, _step(reading, title, entry, link, f"passes.{title}.search.{number}"))
        for number, entry in enumerate(entries)
    ]
    return choice(reading.context.ledger, among, is_optional=None in link.slot)


def _entries(found: Found) -> list[tuple[str, Found]]:
    """Return the passes by name; in a list they are named by themselves, or by their type and a number."""
    if isinstance(found.value, dict):
        return [(name, Found((*found.path, name), value)) for name, value in found.value.items()]
    entries: list[tuple[str, Found]] = []
    for index, value in enumerate(found.value):
        path: Path_ = (*found.path, index)
        if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), dict):
            name, inner = next(iter(value.items()))
            entries.append((_free(name, entries), Found((*path, name), inner)))
            continue
        own = (value.get("name") or value.get("type")) if isinstance(value, dict) else None
        name = own.strip() if isinstance(own, str) and own.strip() else f"pass_{index + 1}"
        entries.append((_free(name, entries), Found(path, value)))
    return entries


def _free(name: str, entries: list[tuple[str, Found]]) -> str:
    taken = {one for one, _ in entries}
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _among(context: Context, name: str, found: Found, strategy: Strategy) -> list[Found]:
    """Return the passes that a name stands for: of a list all that a search may choose, without one the first."""
    ledger = context.ledger
    if not isinstance(found.value, list):
        if isinstance(found.value, Mapping):
            return [found] if _has_type(context, name, found) else []
        what = f"pass `{name}` must be a mapping with `type`"
        ledger.problem(found.path, what, f'"{name}": {{"type": "LoRA"}}')
        return []
    ledger.opened(found.path)
    if not found.value:
        ledger.problem(found.path, f"pass `{name}` is an empty list", "remove it")
        return []
    entries = [Found((*found.path, index), value) for index, value in enumerate(found.value)]
    if not strategy.on:
        for other in entries[1:]:
            ledger.note(
                other.path, "ignored", "without a search the first of several passes is taken, as in Olive"
            )
        entries = entries[:1]
    return [one for entry in entries for one in _among(context, name, entry, strategy)]


def _has_type(context: Context, name: str, found: Found) -> bool:
    given = object_reader(context.ledger, found).find_type()
    if given is not None and word(given.value):
        return True
    path = found.path if given is None else given.path
    context.ledger.problem(path, f"pass `{name}` has no `type`", f'"{name}": {{"type": "LoRA"}}')
    return False


def _step(reading: Reading, name: str, found: Found, link: Link, inside: str = "") -> StepSpec:
    context = reading.context
    step = Step(context, name, object_reader(context.ledger, found), reading.sets, inside)
    step.unsearched = _unsearched(step.reader, reading.strategy)
    given = step.reader.find_type()
    kind = "" if given is None else word(given.value)
    host = reading.systems.use(step.reader.given("host"), f"{name}_host", step.to("host"))
    if host is not None:
        host = reading.systems.home_of(host)
        step.places["host"] = context.ledger.place(step.path("host"))
    told: Reason | None = None
    if kind in pass_names.LORA:
        type_, fields, known = "lora", lora.read_lora(context, step), lora.KNOWN
    elif kind in pass_names.METHODS:
        type_, fields, known = "lora", adapter_methods.read_method(context, step, kind), adapter_methods.KNOWN
    elif kind in pass_names.QLORA:
        type_, fields, known = "qlora", lora.read_qlora(context, step), lora.KNOWN
    elif kind in pass_names.LOFTQ:
        type_, fields, known = "qlora", lora.read_loftq(context, step), lora.KNOWN_OF_LOFTQ
    elif kind in pass_names.MERGE:
        type_, fields, known = "merge-adapter", {}, ()
    elif kind in pass_names.BUILD and not build.only_metadata(step):
        if (more := step.reader.child("extra_options", nested=None)) is not None:
            step.reader = Reader(context.ledger, [*step.reader.layers, *more.layers])
        fields = build.read_build(context, step, takes_integers=link.takes_integers)
        type_, known = "build-genai", build.KNOWN
    elif kind in pass_names.QUANTIZERS or link.is_moved:
        type_, fields, told = quantizers.read_quantizer(context, step, kind, link)
        known = quantizers.KNOWN
    elif kind in pass_names.ROTATING:
        (type_, fields, told), known = rotations.read_rotation(context, step, kind), rotations.KNOWN
    else:
        return _unavailable(context, step, given, found, host)
    assert given is not None
    context.ledger.note(given.path, *(told or ("mapped", f"becomes `{type_}`")))
    step.reader.drop_all({**_UNUSED, **_FILES})
    step.reader.unknown(known, str(given.value).strip(), _OWN_KEYS)
    places = {**step.places, "type": context.ledger.place(given.path)}
    return StepSpec(
        name=name, type=type_, fields=fields, host=host, place=context.ledger.place(found.path), places=places
    )


def _unsearched(reader: Reader, strategy: Strategy) -> str:
    """Return why no parameter of a pass is searched; empty when they are."""
    disabled = reader.flag("disable_search", to="its parameters are searched as the others are")
    if disabled:
        reader.drop("disable_search", "mapped", "no parameter of it is searched", again=True)
    if not strategy.on:
        reader.drop("disable_search", "mapped", "there is no search", again=True)
        return "there is no `search_strategy`"
    if disabled:
        return "`disable_search` is true"
    return "" if strategy.has_own_values else "`include_pass_params` is false"


def _unavailable(context: Context, step: Step, given: Found | None, found: Found, host: str | None) -> StepSpec:
    """Return the step of a pass that we do not have, with its own name and parameters, for the check to refuse."""
    title = given.value.strip() if given is not None and isinstance(given.value, str) else ""
    fields: dict[str, Any] = step.reader.merged(without=_OWN_KEYS)
    context.ledger.note(found.path, "later", _why(title, word(title)))
    is_searched = word(title) in pass_names.SEARCHED or SEARCHED in fields.values()
    if is_searched and not step.unsearched:
        context.searched.add(step.name)
    places = {key: context.ledger.place(one.path) for key in fields if (one := step.reader.find(key)) is not None}
    places |= step.places
    places["type"] = context.ledger.place((*found.path, "type"))
    return StepSpec(
        name=step.name,
        type=_KNOWN.get(word(title), title),
        fields=fields,
        host=host,
        place=context.ledger.place(found.path),
        places=places,
    )


def _why(title: str, kind: str) -> str:
    if kind in pass_names.BUILD:
        return (
            f"`{title}` with `metadata_only` is not available in this version; its parameters are kept as they are"
        )
    if kind in _REASONS:
        return f"`{title}` {_REASONS[kind]}; its parameters are kept as they are"
    if kind in pass_names.RENAMED:
        now = pass_names.RENAMED[kind]
        return f"pass `{title}` (`{now}` in Olive today) is not available in this version; its parameters are kept"
    if kind in _KNOWN:
        return f"pass `{title}` is not available in this version; its parameters are kept as they are"
    hint = nearest(title, pass_names.KNOWN)
    return f"pass `{title}` is not one of Olive's" + (f"; {hint}" if hint.startswith("did you") else "")
