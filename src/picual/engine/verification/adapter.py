"""Is the adapter whole: a finite A and a B that moved, of the asked rank, for every targeted module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.tensors import weight_of
from picual.models import HfAdapter, Model
from picual.models.safetensors_file import TensorInfo
from picual.models.trained_on import base_digest, read
from picual.passes.base import AdapterTrained

PREFIX = "base_model.model."


def check(promise: AdapterTrained, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare the adapter with the modules it was asked to adapt and with its own config."""
    assert isinstance(made, HfAdapter)
    config, tensors = made.adapter_config(), made.tensors()
    targets = targeted(promise.modules, made.root().tensors(), config)
    yield from _every_target_is_in_the_base(promise.modules, targets)
    pairs = {module: _pair(module, tensors) for module in targets}
    whole = {module: pair for module, pair in pairs.items() if pair is not None}
    lacking = sorted(set(pairs) - set(whole))
    share = len(whole) / max(len(pairs), 1)
    detail = f"no A and B for {some(lacking)}" if lacking else f"{len(whole)} modules"
    yield Check("adapter-complete", not lacking, share, 1.0, detail)
    yield _shapes(made, config, whole)
    yield from _values(tensors, whole, bench)
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


def _pair(module: str, tensors: Mapping[str, TensorInfo]) -> tuple[TensorInfo, TensorInfo] | None:
    for a, b in (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")):
        names = f"{PREFIX}{module}.{a}", f"{PREFIX}{module}.{b}"
        if all(name in tensors for name in names):
            return tensors[names[0]], tensors[names[1]]
    return None


def _shapes(
    made: HfAdapter, config: Mapping[str, Any], pairs: Mapping[str, tuple[TensorInfo, TensorInfo]]
) -> Check:
    base = made.root().tensors()
    wrong = []
    for module, (a, b) in pairs.items():
        rank = rank_of(module, config)
        out, into = base[f"{module}.weight"].shape
        if config.get("fan_in_fan_out") or "embedding" in a.name:
            out, into = into, out
        if a.shape != (rank, into) or b.shape != (out, rank):
            wrong.append(f"{module}: A {a.shape}, B {b.shape}, rank {rank} for a weight of ({out}, {into})")
    return Check("adapter-shapes", not wrong, len(wrong), 0, "; ".join(wrong[:3]))


def rank_of(module: str, config: Mapping[str, Any]) -> int:
    """Return the rank the config gives a module: the first pattern that ends its name, or ``r``."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.search(rf"(^|\.)({pattern})$", module):
            return int(rank)
    return int(config.get("r", 0))


def _values(
    tensors: Mapping[str, TensorInfo], pairs: Mapping[str, tuple[TensorInfo, TensorInfo]], bench: Bench
) -> Iterator[Check]:
    not_finite, still = [], []
    smallest = float("inf")
    for module, (a, b) in pairs.items():
        factors = [weight_of(tensors, factor.name).double() for factor in (a, b)]
        if not all(bool(factor.isfinite().all()) for factor in factors):
            not_finite.append(module)
            continue
        moved = float(factors[1].abs().max())
        smallest = min(smallest, moved)
        if moved == 0.0:
            still.append(module)
    yield Check("adapter-finite", not not_finite, len(not_finite), 0, some(not_finite))
    detail = f"B is all zero in {some(still)}: training changed nothing there" if still else ""
    yield Check("adapter-moved", not still, smallest, 0, detail)
