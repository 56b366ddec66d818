"""Models that several rooms' tests share: made once a run, because each takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.models import GenaiModel, HfAdapter, HfCheckpoint, HfModel
from picual.testing.taught import taught_model

TONES = {
    "we won the cup at last": "joy",
    "the dog is gone for good": "sadness",
    "something moved under the bed": "fear",
    "what, you here of all people": "surprise",
    "cake for everyone today": "joy",
    "nobody called on my birthday": "sadness",
    "the rope is about to snap": "fear",
    "the box was empty, then not": "surprise",
}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
TEMPLATE = "<|user|>\n{phrase}<|end|>\n<|assistant|>\n{tone}<|end|>"


@pytest.fixture(scope="session")
def tones() -> dict[str, str]:
    """Eight phrases and their tones."""
    return TONES


@pytest.fixture(scope="session")
def tone_template() -> str:
    """The template through which the taught model saw them."""
    return TEMPLATE


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    """A tiny model that knows the tones of the eight phrases by heart."""
    texts = [TEMPLATE.format(phrase=phrase, tone=tone) for phrase, tone in TONES.items()]
    return taught_model(tmp_path_factory.mktemp("taught") / "hf", texts)


@pytest.fixture(scope="session")
def taught_genai(taught: HfModel, tmp_path_factory: pytest.TempPathFactory) -> GenaiModel:
    """The same model in float32 for ONNX Runtime GenAI, exported by the runtime's own builder: not our code."""
    folder = tmp_path_factory.mktemp("taught-genai")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    places = [
        "-m",
        str(taught.path),
        "-i",
        str(taught.path),
        "-o",
        str(folder / "out"),
        "-c",
        str(folder / "cache"),
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *places], capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return GenaiModel(folder / "out")


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., HfAdapter]:
    """Write an adapter of random factors on a checkpoint, floats or integers, in peft's form."""

    def write(
        base: HfCheckpoint, folder: Path, *, seed: int = 1, rank: int = 4, modules: tuple[str, ...] = LINEARS,
        strength: float = 0.1, **settings: Any,
    ) -> HfAdapter:  # fmt: skip
        import torch
        from safetensors.torch import save_file

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
