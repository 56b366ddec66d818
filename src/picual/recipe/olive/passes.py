"""`passes`: each becomes a step under its own name, with our pass's fields or, where we have none, its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.errors import nearest
from picual.recipe.olive import build, lora, pass_names
from picual.recipe.olive.context import Context
from picual.recipe.olive.data import DataSets
from picual.recipe.olive.engine import Engine
from picual.recipe.olive.notes import Path_, Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.step import Step
from picual.recipe.olive.systems import Systems
from picual.recipe.schema import StepSpec

_OWN_KEYS = ("type", "config", "host", "evaluator", "disable_search", "clean_run_cache", "output_name")
_UNUSED: dict[str, Reason] = {
    "disable_search": ("mapped", "nothing is searched that the recipe does not name"),
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
    entries = [one for name, entry in _entries(found) if (one := _first(context, name, entry)) is not None]
    steps = [_step(context, name, entry, sets, systems) for name, entry in _flow(context, entries, engine)]
    return tuple(steps)


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


def _first(context: Context, name: str, found: Found) -> tuple[str, Found] | None:
    """Return the pass that a name stands for; of a list of alternatives the first."""
    ledger = context.ledger
    if isinstance(found.value, list):
        ledger.opened(found.path)
        for index in range(1, len(found.value)):
            text = "a choice between passes comes with search; the first is taken"
            ledger.note((*found.path, index), "later", text)
        if not found.value:
            ledger.problem(found.path, f"pass `{name}` is an empty list", "remove it")
            return None
        return _first(context, name, Found((*found.path, 0), found.value[0]))
    if not isinstance(found.value, Mapping):
        ledger.problem(found.path, f"pass `{name}` must be a mapping with `type`", f'"{name}": {{"type": "LoRA"}}')
        return None
    return name, found


def _flow(context: Context, entries: list[tuple[str, Found]], engine: Engine) -> list[tuple[str, Found]]:
    """Return the passes in the order of the first of `pass_flows`, if there are flows."""
    found, ledger = engine.flows, context.ledger
    if found is None:
        return entries
    flows = found.value if isinstance(found.value, list) else []
    if flows and all(isinstance(name, str) for name in flows):
        flows = [flows]
    first = flows[0] if flows and isinstance(flows[0], list) else None
    named = dict(entries)
    if first is None or not all(isinstance(name, str) and name in named for name in first):
        unknown = next((name for name in first or () if not (isinstance(name, str) and name in named)), None)
        hint = nearest(unknown, list(named)) if isinstance(unknown, str) else ""
        ledger.problem(found.path, "`pass_flows` must be a list of lists of names under `passes`", hint)
        return entries
    more = f"; {len(flows) - 1} more would need search" if len(flows) > 1 else ""
    ledger.note(found.path, "later" if more else "mapped", f"the first flow is the order of the steps{more}")
    for name, entry in entries:
        if name not in first:
            ledger.note(entry.path, "ignored", "not in the first of `pass_flows`")
    return [(name, named[name]) for name in dict.fromkeys(first)]


def _step(context: Context, name: str, found: Found, sets: DataSets, systems: Systems) -> StepSpec:
    step = Step(context, name, object_reader(context.ledger, found), sets)
    given = step.reader.find_type()
    kind = "" if given is None else word(given.value)
    host = systems.use(step.reader.given("host"), f"{name}_host", step.to("host"))
    if host is not None:
        step.places["host"] = context.ledger.place(step.path("host"))
    if kind in pass_names.LORA:
        type_, fields, known = "lora", lora.read_lora(context, step), lora.KNOWN
    elif kind in pass_names.MERGE:
        type_, fields, known = "merge-adapter", {}, ()
    elif kind in pass_names.BUILD and not build.only_metadata(step):
        if (more := step.reader.child("extra_options", nested=None)) is not None:
            step.reader = Reader(context.ledger, [*step.reader.layers, *more.layers])
        type_, fields, known = "build-genai", build.read_build(context, step), build.KNOWN
    else:
        return _unavailable(context, step, given, found, host)
    assert given is not None
    context.ledger.mapped(given.path, f"becomes `{type_}`")
    step.reader.drop_all({**_UNUSED, **_FILES})
    step.reader.unknown(known, str(given.value).strip(), _OWN_KEYS)
    places = {**step.places, "type": context.ledger.place(given.path)}
    return StepSpec(
        name=name, type=type_, fields=fields, host=host, place=context.ledger.place(found.path), places=places
    )


def _unavailable(context: Context, step: Step, given: Found | None, found: Found, host: str | None) -> StepSpec:
    """Return the step of a pass that we do not have, with its own name and parameters, for the check to refuse."""
    title = given.value.strip() if given is not None and isinstance(given.value, str) else ""
    fields: dict[str, Any] = step.reader.merged(without=_OWN_KEYS)
    context.ledger.note(found.path, "later", _why(title, word(title)))
    places = {key: context.ledger.place(one.path) for key in fields if (one := step.reader.find(key)) is not None}
    places |= step.places
    places["type"] = context.ledger.place((*found.path, "type"))
    return StepSpec(
        name=step.name,
        type=_KNOWN.get(word(title), title) or "?",
        fields=fields,
        host=host,
        place=context.ledger.place(found.path),
        places=places,
    )


def _why(title: str, kind: str) -> str:
    if not kind:
        return "a pass without `type` cannot run"
    if kind in pass_names.BUILD:
        return (
            f"`{title}` with `metadata_only` is not available in this version; its parameters are kept as they are"
        )
    if kind in pass_names.RENAMED:
        now = pass_names.RENAMED[kind]
        return f"pass `{title}` (`{now}` in Olive today) is not available in this version; its parameters are kept"
    if kind in _KNOWN:
        return f"pass `{title}` is not available in this version; its parameters are kept as they are"
    hint = nearest(title, pass_names.KNOWN)
    return f"pass `{title}` is not one of Olive's" + (f"; {hint}" if hint.startswith("did you") else "")
