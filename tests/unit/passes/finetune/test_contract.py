from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from picual.data.base import DataConfig
from picual.models import HfModel
from picual.passes.finetune.lora import Lora
from picual.passes.finetune.qlora import Qlora
from picual.space import Settings
from picual.testing import PassContract, tiny_model

PHRASES = "".join(f'{{"phrase": "phrase {i} {"so " * (i % 4)}", "tone": "joy"}}\n' for i in range(12))


def phrases(folder: Path) -> Mapping[str, DataConfig]:
    path = folder / "phrases.jsonl"
    path.write_text(PHRASES)
    return {"phrases": DataConfig(files=(str(path),), template="{phrase}: {tone}", holdout=0.3)}


def fused(folder: Path) -> HfModel:
    return tiny_model(folder, layout="phi3")


class TestContract(PassContract):
    a_pass = Lora(
        data="phrases", rank=4, dropout=0.2, modules=("qkv_proj", "o_proj"),
        training=Settings({
            "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "group_by_length": True, "learning_rate": 1e-3,
        }),
    )  # fmt: skip
    a_model = staticmethod(fused)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(tiny_model)


class TestContractInFourBits(PassContract):
    a_pass = Qlora(
        data="phrases", rank=4, dropout=0.2, modules=("qkv_proj", "down_proj"), double_quant=True, dtype="float32",
        compute_dtype="float32", init="loftq", loftq_iterations=2,
        training=Settings({"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3}),
    )  # fmt: skip
    a_model = staticmethod(fused)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(tiny_model)
