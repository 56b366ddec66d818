from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from picual.models.trained_on import FourBit, TrainedOn, base_digest
from picual.passes.base import AdapterTrained
from picual.testing.tiny import tiny_model

PROMISE = AdapterTrained(modules=("q_proj", "o_proj"))
FILE = "adapter_model.safetensors"
B = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"


def test_a_whole_adapter_passes(failed: Any, adapter_on: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    assert not failed(PROMISE, base, adapter_on(base, tmp_path / "a"))


def test_layers_the_config_leaves_out_are_not_missed(
    failed: Any, adapter_on: Any, edit: Any, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a", layers_to_transform=[0])

    def drop_the_second_layer(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    edit(made.path / FILE, drop_the_second_layer)
    assert not failed(PROMISE, base, made)


def test_a_zero_b_fails_and_names_its_module(failed: Any, adapter_on: Any, edit: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    edit(made.path / FILE, lambda tensors: tensors[B].zero_())
    assert list(found := failed(PROMISE, base, made)) == ["adapter-moved"]
    assert "`model.layers.1.self_attn.o_proj`" in found["adapter-moved"]


def test_a_missing_layer_fails(failed: Any, adapter_on: Any, edit: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    edit(made.path / FILE, lambda tensors: tensors.pop(B))
    assert "`model.layers.1.self_attn.o_proj`" in failed(PROMISE, base, made)["adapter-complete"]


def test_a_nan_fails(failed: Any, adapter_on: Any, edit: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    edit(made.path / FILE, lambda tensors: tensors[B][3, 1].fill_(float("nan")))
    assert list(failed(PROMISE, base, made)) == ["adapter-finite"]


def test_a_rank_other_than_the_configs_fails(failed: Any, adapter_on: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    config = made.adapter_config() | {"rank_pattern": {"layers.0.self_attn.q_proj": 3}}
    (made.path / "adapter_config.json").write_text(json.dumps(config))
    assert "model.layers.0.self_attn.q_proj: A (4, 64)" in failed(PROMISE, base, made)["adapter-shapes"]


def test_a_module_the_base_does_not_have_fails(failed: Any, adapter_on: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    promise = AdapterTrained(modules=("q_proj", "o_proj", "qkv_proj"))
    assert "`qkv_proj`" in failed(promise, base, adapter_on(base, tmp_path / "a"))["adapter-targets"]


def test_a_truncated_file_is_a_failed_check(failed: Any, adapter_on: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    whole = (made.path / FILE).read_bytes()
    (made.path / FILE).write_bytes(whole[: len(whole) // 2])
    assert "`adapter_model.safetensors` is cut short" in failed(PROMISE, base, made)["readable"]


def test_what_it_says_of_its_base_is_held_to_the_base(failed: Any, adapter_on: Any, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    made = adapter_on(base, tmp_path / "a")
    held = FourBit(format="nf4", double_quant=False, names=("model.layers.0.self_attn.q_proj.weight",))
    TrainedOn(base_digest(base), held).write(made.path)
    assert not failed(PROMISE, base, made)
    TrainedOn("0" * 64, held).write(made.path)
    assert failed(PROMISE, base, made) == {"adapter-base": "another digest"}
    TrainedOn(base_digest(base), replace(held, names=("model.norm.eight",))).write(made.path)
    assert failed(PROMISE, base, made) == {"adapter-base": "the base has no `model.norm.eight`"}
