"""What ``quantization_config`` in ``config.json`` says of packed weights, in the words of each format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from picual.models import Stored


def compressed_tensors(packed: Mapping[str, Stored], left: Iterable[str]) -> dict[str, Any]:
    """Return one group for each way of storing, with the exact names of its modules.

    Args:
        packed: How each packed weight is stored, by name.
        left: The modules whose weights are floats.
    """
    alike: dict[tuple[int, int, bool], list[str]] = {}
    for name, how in packed.items():
        alike.setdefault((how.bits, how.block, how.symmetric), []).append(module_of(name))
    groups = {
        f"group_{number}": {
            "targets": sorted(modules),
            "weights": {
                "num_bits": bits, "type": "int", "strategy": "group", "group_size": block, "symmetric": symmetric,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
        for number, ((bits, block, symmetric), modules) in enumerate(sorted(alike.items()))
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": groups, "ignore": sorted(left),
    }  # fmt: skip


def gptq(packed: Mapping[str, Stored], left: Iterable[str], *, second: bool) -> dict[str, Any]:
    """Return the commonest way of storing, and under ``dynamic`` the modules that differ from it.

    Args:
        packed: How each packed weight is stored, by name.
        left: The modules whose weights are floats.
        second: Whether zero points are stored as they are, not less one.
    """
    ways = Counter((how.bits, how.block, how.symmetric) for how in packed.values())
    common = min(ways, key=lambda way: (-ways[way], way))
    dynamic: dict[str, dict[str, Any]] = {f"-:^{re.escape(module)}$": {} for module in sorted(left)}
    for name, how in sorted(packed.items()):
        if (how.bits, how.block, how.symmetric) != common:
            said = {"bits": how.bits, "group_size": how.block, "sym": how.symmetric}
            dynamic[f"+:^{re.escape(module_of(name))}$"] = said
    bits, block, symmetric = common
    version = "gptq_v2" if second else "gptq"
    return {
        "quant_method": "gptq", "bits": bits, "group_size": block, "sym": symmetric, "desc_act": False,
        "checkpoint_format": version, "format": version, "pack_dtype": "int32", "lm_head": False,
        "dynamic": dynamic,
    }  # fmt: skip


def module_of(name: str) -> str:
    """Return the module that a weight belongs to."""
    return name.removesuffix(".weight")
