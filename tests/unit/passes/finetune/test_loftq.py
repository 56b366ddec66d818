from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.errors import BadValue
from picual.models import HfAdapter, HfModel
from picual.models.four_bit import dequantized
from picual.models.hf_loading import load_network
from picual.models.trained_on import TAKEN_OFF, read
from picual.numerics import loftq
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import AdapterMerged, PassContext
from picual.passes.finetune.qlora import Qlora
from picual.testing import tiny_model

Train = Callable[..., tuple[HfAdapter, PassContext]]
NAME = "model.layers.0.self_attn.q_proj.weight"
STILL = {"learning_rate": 0.0, "max_steps": 1}  # what is saved is where the training started
FIELDS: dict[str, Any] = {
    "kind": Qlora, "init": "loftq", "modules": ("q_proj", "down_proj"), "rank": 8, "alpha": 32.0,
    "compute_dtype": "float32", "dropout": 0.0,
}  # fmt: skip


def update(adapter: HfAdapter) -> torch.Tensor:
    parts = load_file(adapter.path / "adapter_model.safetensors")
    module = f"base_model.model.{NAME.removesuffix('.weight')}"
    return 4.0 * parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., HfModel]:
    def run(adapter: HfAdapter, **fields: Any) -> HfModel:
        for name in ("merged", "merging"):
            (tmp_path / name).mkdir()
        return MergeAdapter(**fields).run(adapter, PassContext(tmp_path / "merged", tmp_path / "merging"))

    return run


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_training_starts_nearer_to_the_base_than_4_bits_are(rounds: int, train: Train, llama: HfModel) -> None:
    made, context = train(training=STILL, loftq_iterations=rounds, **FIELDS)
    said = read(made.path)
    assert said is not None
    assert said.weights is not None
    weight = load_file(llama.path / "model.safetensors")[NAME]
    held = dequantized(weight, said.weights, NAME)

    _, expected = loftq.start(weight, 8, rounds, lambda matrix: dequantized(matrix, said.weights))

    assert (made.path / TAKEN_OFF).exists() == (rounds > 1)
    torch.testing.assert_close(update(made), expected.b @ expected.a, rtol=1e-4, atol=1e-6)
    plain = dequantized(weight, said.weights)
    assert torch.equal(held, plain) == (rounds == 1)
    assert (weight - held - update(made)).norm() < 0.9 * (weight - plain).norm()
    assert context.metrics["loftq_weights"] == 2  # down_proj is not held: its inputs are no whole blocks


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_gate_passes_an_honest_merge_and_evaluating_measures_the_same(
    rounds: int, train: Train, merge: Callable[..., HfModel]
) -> None:
    made, _ = train(training={"learning_rate": 1e-2}, loftq_iterations=rounds, double_quant=True, **FIELDS)
    merged = merge(made)
    found = verify(AdapterMerged(), made, merged, Bench())
    assert {check.name for check in found} >= {"merge-live", "merge-as-trained"}
    assert not [check for check in found if not check.passed]
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        left, right = (load_network(one, on_gpu=False).eval()(input_ids=ids).logits for one in (made, merged))
    assert (left - right).abs().max() < 1e-3


def test_a_merge_that_forgets_what_was_taken_off_fails(train: Train, merge: Callable[..., HfModel]) -> None:
    made, _ = train(loftq_iterations=2, **FIELDS)
    said = (made.path / "trained_on.json").read_text()
    (made.path / "trained_on.json").write_text(said.replace(f'"{TAKEN_OFF}"', "null"))
    merged = merge(made)
    (made.path / "trained_on.json").write_text(said)
    failed = {check.name for check in verify(AdapterMerged(), made, merged, Bench()) if not check.passed}
    assert "merge-delta" in failed


def test_the_network_that_is_trained_holds_what_the_last_round_left(
    train: Train, llama: HfModel, merge: Callable[..., HfModel]
) -> None:
    made, context = train(training=STILL, loftq_iterations=2, data={"holdout": 0.3}, **FIELDS)
    merged = merge(made)
    twin, other = train(training=STILL, data={"holdout": 0.3}, model=merged, modules=("q_proj",), dropout=0.0)
    assert twin.root() == merged
    assert context.metrics["eval_loss"] == pytest.approx(other.metrics["eval_loss"], rel=1e-5)


def test_rounds_below_one_are_refused() -> None:
    with pytest.raises(BadValue, match="`loftq_iterations` is 0"):
        Qlora(loftq_iterations=0)


def test_a_fused_layer_starts_so_too(train: Train, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "fused", layout="phi3")
    _, context = train(model=model, training=STILL, **{**FIELDS, "modules": ("qkv_proj",)})
    assert context.metrics["loftq_weights"] == 2
