"""Is the adapter whole: for every targeted module an update that is finite, moved, and of the asked rank."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from picual.engine.verification import deltas
from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.updates import Found, updates_of
from picual.models import HfAdapter, Model
from picual.models.safetensors_file import TensorInfo
from picual.models.trained_on import base_digest, read
from picual.passes.base import AdapterTrained

LETTERS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}


def check(promise: AdapterTrained, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare the adapter with the modules it was asked to adapt and with its own config."""
    assert isinstance(made, HfAdapter)
    config = made.adapter_config()
    targets = targeted(promise.modules, made.root().tensors(), config)
    yield from _every_target_is_in_the_base(promise.modules, targets)
    updates = {module: update for module, update in updates_of(made).items() if module in set(targets)}
    parts = {module: updates[module].missing() if module in updates else ["*"] for module in targets}
    whole = {module: updates[module] for module, missing in parts.items() if not missing}
    lacking = sorted(set(targets) - set(whole))
    share = len(whole) / max(len(targets), 1)
    detail = f"no whole update for {some(lacking)}" if lacking else f"{len(whole)} modules"
    yield Check("adapter-complete", not lacking, share, 1.0, detail)
    yield _shapes(made, whole)
    yield from _values(made, whole)
    yield from _trained_on(made)


def targeted(modules: tuple[str, ...], base: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> list[str]:
    """Return the base's modules that carry one of the names, in the layers the adapter's config asks for."""
    linear = [name.removesuffix(".weight") for name, tensor in base.items() if len(tensor.shape) == 2]
    if "all-linear" in modules:
        found = [name for name in linear if not re.search(r"(^|\.)(lm_head|embed\w*|wte|wpe)$", name)]
    else:
        found = [name for name in linear if any(f".{name}".endswith(f".{module}") for module in modules)]
    layers = config.get("layers_to_transform")
    if layers is not None:
        wanted = {layers} if isinstance(layers, int) else set(layers)
        found = [name for name in found if int((re.search(r"\.(\d+)\.", name) or [0, -1])[1]) in wanted]
    return found


def _trained_on(made: HfAdapter) -> Iterator[Check]:
    """Hold what the adapter says of its base to the base: a merge will rely on it."""
    said = read(made.path)
    if said is None:
        return
    base = made.root()
    differs = said.digest != base_digest(base)
    names = said.weights.names if said.weights is not None else ()
    strangers = [name for name in names if name not in base.tensors()]
    detail = "another digest" if differs else f"the base has no {some(strangers)}" if strangers else ""
    yield Check("adapter-base", not differs and not strangers, detail=detail)


def _every_target_is_in_the_base(modules: tuple[str, ...], targets: list[str]) -> Iterator[Check]:
    absent = [m for m in modules if m != "all-linear" and not any(f".{t}".endswith(f".{m}") for t in targets)]
    if absent or not targets:
        yield Check("adapter-targets", passed=False, detail=f"the base has no module {some(absent or ['*'])}")


def _shapes(made: HfAdapter, updates: Mapping[str, Found]) -> Check:
    base = made.root().tensors()
    wrong = []
    for module, update in updates.items():
        of = base[f"{module}.weight"].shape
        if not update.fits(of):
            parts = ", ".join(f"{LETTERS.get(name, name)} {part.shape}" for name, part in update.parts.items())
            wrong.append(f"{module}: {parts}, rank {update.rank} for a weight of {of}")
    return Check("adapter-shapes", not wrong, len(wrong), 0, "; ".join(wrong[:3]))


def _values(made: HfAdapter, updates: Mapping[str, Found]) -> Iterator[Check]:
    base = made.root().tensors()
    not_finite, still = [], []
    smallest = float("inf")
    for module, update in updates.items():
        if not all(bool(stored.read(part.file, part.name).isfinite().all()) for part in update.parts.values()):
            not_finite.append(module)
            continue
        if not update.fits(base[f"{module}.weight"].shape):
            continue  # said already
        moved = deltas.largest(update.open(), base[f"{module}.weight"].shape)
        smallest = min(smallest, moved)
        if moved == 0.0:
            still.append(module)
    yield Check("adapter-finite", not not_finite, len(not_finite), 0, some(not_finite))
    detail = f"the update is all zero in {some(still)}: training changed nothing there" if still else ""
    yield Check("adapter-moved", not still, smallest, 0, detail)
