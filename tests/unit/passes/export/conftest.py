from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from picual.models import HfAdapter, HfCheckpoint

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., HfAdapter]:
    """Write an adapter of random factors on a checkpoint, floats or integers, in peft's form."""

    def write(
        base: HfCheckpoint, folder: Path, *, seed: int = 1, rank: int = 4, modules: tuple[str, ...] = LINEARS,
        strength: float = 0.1, **settings: Any,
    ) -> HfAdapter:  # fmt: skip
        random = torch.Generator().manual_seed(seed)
        names = [name.removesuffix(".weight") for name in base.tensors()]
        adapted = [name for name in names if name.endswith(modules)]
        if "lm_head" in modules and "lm_head" not in adapted:  # tied: not stored
            adapted.append("lm_head")
        tensors = {}
        for module in adapted:
            stored = f"{module}.weight" if f"{module}.weight" in base.tensors() else "model.embed_tokens.weight"
            height, width = base.tensors()[stored].shape
            for part, shape in (("A", (rank, width)), ("B", (height, rank))):
                values = torch.randn(shape, generator=random) * strength
                tensors[f"base_model.model.{module}.lora_{part}.weight"] = values
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank,
            "target_modules": sorted({name.rpartition(".")[2] for name in adapted}), "base_model_name_or_path": "",
            **settings,
        }  # fmt: skip
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return HfAdapter(folder, base)

    return write
