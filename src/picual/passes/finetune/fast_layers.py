"""Layers of a network in training, computed with less memory and time; each is tried before it is trusted."""

from __future__ import annotations

import types
from typing import Any

TOLERANCE = 1e-5
GATED = ("LlamaMLP", "MistralMLP", "Phi3MLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP")


def quicken(adapted: Any) -> int:
    """Give plain LoRA layers, frozen norms, gated activations and wide heads their faster forward on a CPU.

    Args:
        adapted: The network with its adapter, from ``peft``.

    Returns:
        How many layers have it now.
    """
    import torch
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in adapted.modules():
        if isinstance(module, Linear) and _is_plain(module):
            module.forward = types.MethodType(_low_rank, module)
            count += 1
        elif _is_norm(module) and _same(module, torch):
            module.forward = types.MethodType(_norm, module)
            count += 1
        elif _is_gated(module):
            module.forward = types.MethodType(_feed_forward, module)
            count += 1
        elif _is_wide(module):
            module.forward = types.MethodType(_wide, module)
            count += 1
    return count


def _is_plain(module: Any) -> bool:
    """Say whether a layer is one adapter on one dense matrix, with nothing more to it."""
    import torch

    names = list(module.lora_A)
    if type(module.base_layer) is not torch.nn.Linear or len(names) != 1 or module.lora_variant:
        return False
    (name,) = names
    if list(module.active_adapters) != names or module.fan_in_fan_out or module.lora_bias[name]:
        return False
    factors = (module.lora_A[name].weight, module.lora_B[name].weight)
    if not _computable(module.base_layer.weight) or any(weight.dtype != torch.float32 for weight in factors):
        return False
    return not any(weight.requires_grad for weight in module.base_layer.parameters())


def _low_rank(self: Any, x: Any, *_: Any, **__: Any) -> Any:
    """Stand in for the forward of peft's layer."""
    import torch

    from picual.numerics.dropout import kept
    from picual.numerics.low_rank_linear import low_rank_linear

    mixed = torch.is_autocast_enabled("cpu") or x.dtype != self.base_layer.weight.dtype
    if self.disable_adapters or self.merged or mixed:
        return type(self).forward(self, x)
    (name,) = self.lora_A
    p = float(getattr(self.lora_dropout[name], "p", 0.0)) if self.training else 0.0
    mask = kept((x.numel() // x.shape[-1], x.shape[-1]), p) if p else None
    return low_rank_linear(
        x, self.base_layer.weight, self.base_layer.bias, self.lora_A[name].weight, self.lora_B[name].weight,
        scale=float(self.scaling[name]), mask=mask, p=p,
    )  # fmt: skip


def _is_norm(module: Any) -> bool:

    if "rmsnorm" not in type(module).__name__.lower() or len(list(module.parameters())) != 1:
        return False
    weight = getattr(module, "weight", None)
    if weight is None or _epsilon(module) is None or weight.requires_grad:
        return False
    return weight.dim() == 1 and _computable(weight)


def _computable(weight: Any) -> bool:
    import torch

    return bool(weight.dtype in (torch.float32, torch.bfloat16) and weight.device.type == "cpu")


def _epsilon(module: Any) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(found) if isinstance(found, int | float) else None


def _same(module: Any, torch: Any) -> bool:
    """Say whether the faster norm gives what the module gives, on small and large numbers."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn((4, module.weight.numel()), generator=random) * torch.tensor([[1e-3], [1.0], [30.0], [1e3]])
    x = x.to(module.weight.dtype)
    with torch.no_grad():
        try:
            own = module(x)
        except (RuntimeError, TypeError):
            return False
        ours = _norm(module, x)
    return bool(own.shape == ours.shape and torch.allclose(own, ours, rtol=TOLERANCE, atol=TOLERANCE))


def _norm(self: Any, x: Any) -> Any:
    """Stand in for the forward of a norm."""
    import torch

    from picual.numerics.rms_norm import rms_norm

    epsilon = _epsilon(self)
    assert epsilon is not None
    if torch.is_autocast_enabled("cpu") or x.dtype != self.weight.dtype:
        return type(self).forward(self, x)
    return rms_norm(x, self.weight, epsilon)


def _is_gated(module: Any) -> bool:
    """Say whether a module is Llama's or Phi-3's feed-forward layer with SiLU, by its parts."""
    import torch

    act = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    if not isinstance(act, torch.nn.SiLU) and type(act).__name__ != "SiLUActivation":
        return False
    parts = {name for name, _ in module.named_children() if name.endswith("_proj")}
    return type(module).__name__ in GATED and parts in (
        {"gate_proj", "up_proj", "down_proj"},
        {"gate_up_proj", "down_proj"},
    )


def _feed_forward(self: Any, x: Any) -> Any:
    """Stand in for the forward of a gated feed-forward layer."""
    from picual.numerics.gated import gated

    if hasattr(self, "gate_up_proj"):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
    else:
        gate, up = self.gate_proj(x), self.up_proj(x)
    return self.down_proj(gated(gate, up))


def _is_wide(module: Any) -> bool:
    """Say whether a module is a frozen matrix of more outputs than are computed at a time, and nothing more."""
    import torch

    from picual.numerics.wide_linear import SLAB

    if type(module) is not torch.nn.Linear:
        return False
    weight: Any = module.weight
    is_plain = not weight.requires_grad and getattr(module, "bias", None) is None
    return is_plain and module.out_features > SLAB and _computable(weight)


def _wide(self: Any, x: Any) -> Any:
    """Stand in for the forward of a head."""
    import torch

    from picual.numerics.wide_linear import wide_linear

    if torch.is_autocast_enabled("cpu") or x.dtype != self.weight.dtype:
        return type(self).forward(self, x)
    return wide_linear(x, self.weight)
