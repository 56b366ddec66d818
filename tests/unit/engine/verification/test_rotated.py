"""Faults of a rotation: each is found, and by the check that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from picual.models import HfModel
from picual.passes.base import NetworkRotated, PassContext
from picual.passes.rotate.rotate import Rotate
from picual.testing.tiny import Layout, tiny_model

VALUES = NetworkRotated(values=True, residual=False)
BOTH = NetworkRotated(values=True, residual=True)
FILE = "model.safetensors"
O = "model.layers.1.self_attn.o_proj.weight"  # noqa: E741  # the projection's own letter
V = "model.layers.1.self_attn.v_proj.weight"
Tensors = dict[str, torch.Tensor]


def rotated(model: HfModel, root: Path, **fields: Any) -> HfModel:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True)
    return Rotate(**fields).run(model, PassContext(folder=root / "out", scratch=root / "scratch", threads=1))


@pytest.mark.parametrize("layout", ["llama", "phi3", "qwen2", "gemma"])
@pytest.mark.parametrize("residual", [False, True])
def test_honest_rotation_passes(failed: Any, layout: Layout, residual: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given", layout=layout, tied=not residual)
    promise = BOTH if residual else VALUES
    assert not failed(promise, model, rotated(model, tmp_path, residual=residual))


def test_honest_rotation_of_halves_passes(failed: Any, edit: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    edit(model.path / FILE, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    assert not failed(VALUES, model, rotated(model, tmp_path))


def one_head_not_back(given: Tensors, made: Tensors) -> None:
    made[O][:, 16:32] = given[O][:, 16:32]


def one_head_not_rotated(given: Tensors, made: Tensors) -> None:
    made[V][:16] = given[V][:16]


def heads_of_another_group(_: Tensors, made: Tensors) -> None:
    made[O] = made[O].unflatten(1, (4, 16))[:, [0, 2, 1, 3]].flatten(1)


def a_little_too_long(_: Tensors, made: Tensors) -> None:
    made[O] *= 1.001


def no_number(_: Tensors, made: Tensors) -> None:
    made[V][0, 0] = float("nan")


def layer_as_it_was(given: Tensors, made: Tensors) -> None:
    made[O], made[V] = given[O], given[V]


def another_weight(_: Tensors, made: Tensors) -> None:
    made["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-6


def one_less(_: Tensors, made: Tensors) -> None:
    del made[V]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (one_head_not_back, "rotated-logits"),
        (one_head_not_rotated, "rotated-logits"),
        (heads_of_another_group, "rotated-logits"),
        (a_little_too_long, "rotated-logits"),
        (no_number, "rotated-logits"),
        (layer_as_it_was, "rotated-turned"),
        (another_weight, "rotated-others"),
        (one_less, "rotated-tensors"),
    ],
)
def test_fault_is_found(
    failed: Any, edit: Any, fault: Callable[[Tensors, Tensors], None], check: str, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "given")
    made = rotated(model, tmp_path)
    given: Tensors = {}
    edit(model.path / FILE, given.update)
    edit(made.path / FILE, lambda tensors: fault(given, tensors))
    assert set(failed(VALUES, model, made)) == {check}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.norm.weight", lambda tensor: tensor * 1.01),  # the gain that went into its readers, once more
        ("model.layers.0.mlp.down_proj.weight", lambda tensor: tensor.flip(0)),
        ("lm_head.weight", lambda tensor: tensor.flip(1)),
    ],
)
def test_fault_in_the_stream_is_found(
    failed: Any, edit: Any, name: str, change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "given", tied=False)
    made = rotated(model, tmp_path, residual=True)
    edit(made.path / FILE, lambda tensors: tensors.update({name: change(tensors[name])}))
    assert set(failed(BOTH, model, made)) == {"rotated-logits"}


def test_bias_that_did_not_turn_along_is_found(failed: Any, edit: Any, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.v_proj.bias"
    model = tiny_model(tmp_path / "given", layout="qwen2")
    edit(model.path / FILE, lambda tensors: tensors.update({name: torch.linspace(-1, 1, 32)}))
    made = rotated(model, tmp_path)
    assert not failed(VALUES, model, made)
    edit(made.path / FILE, lambda tensors: tensors.update({name: torch.linspace(-1, 1, 32)}))
    assert set(failed(VALUES, model, made)) == {"rotated-logits"}


def test_other_config_is_found(failed: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    made = rotated(model, tmp_path)
    file = made.path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "rms_norm_eps": 1e-5}))
    assert set(failed(VALUES, model, made)) == {"rotated-config"}


def test_what_was_promised_to_turn_has_to(failed: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given", tied=False)
    assert set(failed(BOTH, model, rotated(model, tmp_path))) == {"rotated-turned"}
    assert set(failed(VALUES, model, rotated(model, tmp_path / "2", residual=True))) == {"rotated-others"}
