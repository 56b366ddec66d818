"""Which modules of a checkpoint get an adapter, read from the headers of its weights alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from picual.errors import Refused, nearest
from picual.models import HfCheckpoint
from picual.models.layout import EMBEDDINGS
from picual.models.safetensors_file import TensorInfo

ALL = "all-linear"
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)$")
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
FAN_IN_FIRST = ("gpt2", "openai-gpt")  # their linear layers are Conv1D of transformers
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def targets_of(model: HfCheckpoint, modules: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the modules that get an adapter, by the name that asked for them.

    Args:
        model: The checkpoint.
        modules: Last parts of names (``q_proj``) or longer ones; empty for all linear layers but the head.

    Raises:
        Refused: A name that no linear layer has, or experts, which need names.
    """
    linear = linear_modules(model.tensors())
    if modules and ALL not in modules:
        found = {name: [module for module in linear if f".{module}".endswith(f".{name}")] for name in modules}
        for name, hits in found.items():
            if not hits:
                raise _no_such(name, linear, model)
        return found
    _refuse_experts(model)
    inner = [module for module in linear if not HEAD.search(module)]
    if not inner:
        raise Refused(
            "the model has no linear layers to adapt",
            where=str(model.path),
            hint="name them: `modules: [q_proj, v_proj]`",
        )
    names = dict.fromkeys(last_part(module) for module in inner)
    return {name: [module for module in inner if last_part(module) == name] for name in names}


def check_saved(model: HfCheckpoint, modules: tuple[str, ...]) -> None:
    """Raise ``Refused`` for a module of ``modules_to_save`` that the checkpoint does not have."""
    modules_here = {name.removesuffix(".weight") for name in model.tensors() if name.endswith(".weight")}
    modules_here.add("lm_head")  # a tied one has no weight of its own
    for name in modules:
        if not any(f".{module}".endswith(f".{name}") for module in modules_here):
            raise _no_such(name, sorted(modules_here), model)


def check_layers(model: HfCheckpoint, method: str, targets: Mapping[str, list[str]]) -> None:
    """Raise ``Refused`` where the layers to adapt are of a kind for which a method is not made."""
    kind = str(model.config().get("model_type"))
    if kind in FAN_IN_FIRST and method in {"loha", "lokr"}:
        raise Refused(
            f"`{next(iter(targets))}` of `{kind}` is stored inputs first, for which `{method}` is not made",
            where=str(model.path),
            hint="method: lora",
        )


def linear_modules(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Return the modules that hold a matrix, embeddings left out, in the order of the file."""
    return [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name.endswith(".weight") and not name.endswith((*EMBEDDINGS, "wpe.weight"))
    ]


def last_part(module: str) -> str:
    """Return ``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return module.rpartition(".")[2]


def _no_such(name: str, modules: Iterable[str], model: HfCheckpoint) -> Refused:
    known = list(dict.fromkeys(last_part(module) for module in modules))
    parts = FUSED.get(name, ())
    if parts and set(parts) <= set(known):
        hint = f"this model has it in parts: `modules: [{', '.join(parts)}]`"
        return Refused(f"the model has no linear layer `{name}`", where=str(model.path), hint=hint)
    hint = nearest(last_part(name), known) or "it can be " + ", ".join(f"`{one}`" for one in known)
    return Refused(f"the model has no linear layer `{name}`", where=str(model.path), hint=hint)


def _refuse_experts(model: HfCheckpoint) -> None:
    config: Mapping[str, Any] = model.config()
    config = config.get("text_config", config)
    if any(int(config.get(key) or 0) > 1 for key in EXPERTS):
        raise Refused(
            "the model has experts, and an adapter on each of them is seldom meant",
            where=str(model.path),
            hint="name the layers: `modules: [q_proj, k_proj, v_proj, o_proj]`",
        )
