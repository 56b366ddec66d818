"""`target`: the device and execution provider that a model is made for, out of a system's `accelerators`."""

from __future__ import annotations

from collections.abc import Mapping

from picual.hardware import PROVIDERS, Device, Target
from picual.recipe import sizes
from picual.recipe.olive.context import Context
from picual.recipe.olive.engine import Engine
from picual.recipe.olive.notes import Path_
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.systems import System, Systems
from picual.recipe.placeholders import placeholder_in
from picual.recipe.schema import UNKNOWN_SYSTEM

_DEVICES: dict[str, Device] = {
    "cpu": "cpu", "gpu": "gpu", "npu": "npu", "cpu_spr": "cpu", "any": "cpu", "vpu": "npu", "intel_myriad": "npu",
}  # fmt: skip
_PROVIDER_OF: dict[Device, str] = {
    "cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider", "npu": "QNNExecutionProvider",
}  # fmt: skip


def read_target(
    context: Context, systems: Systems, name: str | None, engine: Engine
) -> tuple[Target, dict[str, Path_]]:
    """Return the target that a config names, by the name of its system.

    A name that is a placeholder, or of no system, is left in place of the provider, where the check of the
    recipe finds it: `--target local` then replaces it.
    """
    if name is None:
        return _of_system(context, None, engine.providers)
    system = next((one for own, one in systems.named.items() if systems.name_of(own) == name), None)
    if system is not None:
        return _of_system(context, system, engine.providers)
    assert engine.target is not None
    context.ledger.note(engine.target.path, "ignored", f"there is no system `{name}`")
    return Target(provider=name), {"target.provider": engine.target.path, UNKNOWN_SYSTEM: engine.target.path}


def _of_system(
    context: Context, system: System | None, providers: Found | None
) -> tuple[Target, dict[str, Path_]]:
    """Return what the model is made for, and where its parts stand.

    Args:
        context: Of the import.
        system: That `target` names; None when the config names none.
        providers: `execution_providers` of the engine, which the oldest form has.
    """
    accelerators = [] if system is None else system.accelerators
    for other in accelerators[1:]:
        if isinstance(other.value, Mapping):
            context.ledger.note(other.path, "ignored", "a recipe has one target: the first is taken")
    device, named, memory, where = None, None, None, dict[str, Path_]()
    if accelerators:
        device, named, memory, where = _hardware(context, accelerators[0])
        if len(accelerators) > 1 and not isinstance(accelerators[0].value, Mapping):
            path = _listed(accelerators[0])
            context.ledger.note(path, "mapped", f"becomes `target.device`: the first of {len(accelerators)}")
    if providers is not None:
        chosen = _first_provider(context, providers)
        if named is None and chosen is not None:
            named, where["target.provider"] = chosen, providers.path
        else:
            context.ledger.note(providers.path, "ignored", "the target's system names its provider")
    if named is None:
        named = _PROVIDER_OF[device or "cpu"]
        if device not in {None, "cpu"}:
            path = (*accelerators[0].path, "execution_providers")
            context.ledger.note(path, "defaulted", f"left out: `{named}`, the usual one for a {device}")
    if named == "CPUExecutionProvider" and device not in {None, "cpu"}:
        path = where.get("target.device", where["target"])
        context.ledger.note(path, "replaced", f"the provider is `{named}`, so the device is the CPU")
        device = "cpu"
    if device is None:
        device = PROVIDERS[named][0] if named in PROVIDERS else "cpu"
    return Target(device=device, provider=named, memory=memory), where


def unused_hardware(context: Context, systems: Systems, target: str | None) -> None:
    """Note the hardware of the systems that are not the target."""
    for name, system in systems.named.items():
        if systems.name_of(name) != target:
            for accelerator in system.accelerators:
                text = "hardware counts for the target alone; a host is asked what it has"
                context.ledger.note(_listed(accelerator), "ignored", text)


def _listed(found: Found) -> Path_:
    """Return the path of a value; of plain text in a list, the path of the list."""
    plain = not isinstance(found.value, Mapping) and isinstance(found.path[-1], int)
    return found.path[:-1] if plain else found.path


def _hardware(context: Context, found: Found) -> tuple[Device | None, str | None, int | None, dict[str, Path_]]:
    where: dict[str, Path_] = {"target": found.path}
    if not isinstance(found.value, Mapping):
        return _device(context, Found(_listed(found), found.value)), None, None, {"target": _listed(found)}
    reader = object_reader(context.ledger, found)
    device = reader.given("device", "accelerator_type")
    providers = reader.given("execution_providers")
    where |= {} if device is None else {"target.device": device.path}
    where |= {} if providers is None else {"target.provider": providers.path}
    left = None if device is None else placeholder_in(device.value)
    if device is not None and left and providers is None:
        # In the provider's place the check of the recipe finds it, and `--target local` replaces it.
        context.ledger.note(device.path, "ignored", f"the device is still the placeholder `{left}`")
        return None, left, _memory(context, reader), {**where, "target.provider": device.path}
    return (
        None if device is None else _device(context, device),
        None if providers is None else _first_provider(context, providers),
        _memory(context, reader),
        where,
    )


def _device(context: Context, found: Found) -> Device | None:
    if (device := _DEVICES.get(word(found.value))) is not None:
        context.ledger.mapped(found.path, "target.device")
        return device
    context.ledger.problem(found.path, f"`{found.value}` is no device", "it can be `cpu`, `gpu` or `npu`")
    return None


def _first_provider(context: Context, found: Found) -> str | None:
    """Return the first execution provider; `[name, library]` in place of a name gives its name."""
    entries = found.value if isinstance(found.value, list) else [found.value]
    if not entries:
        return None
    first = entries[0]
    if isinstance(first, list) and first:
        context.ledger.note(found.path, "mapped", "becomes `target.provider`; its library is ONNX Runtime's own")
        first = first[0]
    elif len(entries) > 1:
        context.ledger.note(found.path, "mapped", f"becomes `target.provider`: the first of {len(entries)}")
    else:
        context.ledger.mapped(found.path, "target.provider")
    if not isinstance(first, str):
        context.ledger.problem(found.path, "an execution provider must be text", "`CPUExecutionProvider`")
        return None
    known = {name.lower(): name for name in PROVIDERS}
    return known.get(word(first), first.strip())


def _memory(context: Context, reader: Reader) -> int | None:
    found = reader.given("memory")
    if found is None:
        return None
    size = sizes.bytes_of(str(found.value)) if not isinstance(found.value, bool) else None
    if size is None:
        reader.wrong_type(found, "a size, such as `8GB`")
        return None
    context.ledger.mapped(found.path, "target.memory")
    return size
