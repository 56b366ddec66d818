from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from picual.models import HfAdapter, HfModel
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import AdapterMerged, PassContext
from picual.testing.tiny import Layout, tiny_model

PROMISE = AdapterMerged()
FILE = "model.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"
OUTPUT = "model.layers.{}.self_attn.o_proj.weight"
K = "model.layers.1.self_attn.k_proj.weight"
MODULES = {"llama": ["q_proj", "o_proj"], "phi3": ["qkv_proj", "o_proj"]}


def merge(adapter: HfAdapter, folder: Path, **fields: Any) -> HfModel:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return MergeAdapter(**fields).run(adapter, PassContext(folder / "out", folder / "scratch"))


@pytest.fixture
def merged(adapter_on: Any, tmp_path: Path) -> tuple[HfAdapter, HfModel]:
    adapter = adapter_on(tiny_model(tmp_path / "base"), tmp_path / "a")
    return adapter, merge(adapter, tmp_path / "merge")


@pytest.mark.parametrize("layout", ["llama", "phi3"])
@pytest.mark.parametrize("dtype", ["keep", "float16", "bfloat16"])
def test_an_honest_merge_passes(failed: Any, adapter_on: Any, layout: Layout, dtype: str, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", layout=layout)
    first = adapter_on(base, tmp_path / "a", target_modules=MODULES[layout], use_rslora=True)
    second = adapter_on(first, tmp_path / "b", seed=2, target_modules=["o_proj"], alpha_pattern={"o_proj": 3})
    assert not failed(PROMISE, second, merge(second, tmp_path / "merge", dtype=dtype))


def test_a_merge_in_bfloat16_throughout_passes_although_rounding_eats_part_of_the_delta(
    failed: Any, adapter_on: Any, edit: Any, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    edit(base.path / FILE, halve)
    adapter = adapter_on(base, tmp_path / "a", lora_alpha=0.02)
    made = merge(adapter, tmp_path / "merge")
    assert not failed(PROMISE, adapter, made)

    # Without the adapter the same model fails: the delta is small and still not nothing.
    (made.path / FILE).unlink()
    (made.path / FILE).write_bytes((base.path / FILE).read_bytes())
    assert "merge-delta" in failed(PROMISE, adapter, made)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_an_adapted_half_of_a_tied_pair_passes_untied_and_fails_tied(
    failed: Any, adapter_on: Any, module: str, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = adapter_on(base, tmp_path / "a")
    file = adapter.path / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    name = "lm_head.weight" if module == "lm_head" else "model.embed_tokens.weight"
    own = torch.randn(320, 64, generator=torch.Generator().manual_seed(3))
    save_file({**load_file(file), f"base_model.model.{name}": own}, file)
    made = merge(adapter, tmp_path / "merge")
    assert not failed(PROMISE, adapter, made)

    (made.path / "config.json").write_text(json.dumps(made.config() | {"tie_word_embeddings": True}))
    assert "merge-others-unchanged" in failed(PROMISE, adapter, made)


Break = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], Any]


def swap_projections(tensors: dict[str, torch.Tensor], _base: dict[str, torch.Tensor]) -> None:
    first, second = OUTPUT.format(0), OUTPUT.format(1)
    tensors[first], tensors[second] = tensors[second], tensors[first]


ALL = {"merge-adapter-present", "merge-delta", "merge-strength"}
FAULTS: dict[str, tuple[Break, set[str]]] = {
    "adapter left out": (lambda made, base: made.update(base), ALL),
    "adapter left out of one weight": (lambda made, base: made.update({Q: base[Q]}), ALL),
    "adapter merged twice": (
        lambda made, base: made.update({name: 2 * made[name] - base[name] for name in made}),
        {"merge-delta", "merge-strength"},
    ),
    "two o_proj swapped": (swap_projections, {"merge-delta", "merge-strength"}),
    "one weight of an adapted matrix off": (lambda made, _: made[Q][5, 7].add_(1e-5), {"merge-delta"}),
    "one weight of another matrix off": (lambda made, _: made[K][0, 0].add_(1e-6), {"merge-others-unchanged"}),
    "a weight missing": (lambda made, _: made.pop(K), {"merge-tensors"}),
    "a weight too many": (lambda made, _: made.update(stray=torch.zeros(2)), {"merge-tensors"}),
    "a NaN": (lambda made, _: made[Q][0, 0].fill_(float("nan")), {"merge-finite", "merge-strength"}),
    "another shape": (lambda made, _: made.update({Q: made[Q][:32]}), {"merge-shapes"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(failed: Any, edit: Any, merged: tuple[HfAdapter, HfModel], fault: str) -> None:
    from safetensors.torch import load_file

    adapter, made = merged
    base = load_file(adapter.root().path / FILE)
    change, expected = FAULTS[fault]
    edit(made.path / FILE, lambda tensors: change(tensors, base))
    found = set(failed(PROMISE, adapter, made))
    assert found & expected
    assert found <= expected


def test_a_truncated_file_is_a_failed_check_that_names_it(failed: Any, merged: tuple[HfAdapter, HfModel]) -> None:
    adapter, made = merged
    whole = (made.path / FILE).read_bytes()
    (made.path / FILE).unlink()
    (made.path / FILE).write_bytes(whole[:-1000])
    assert "`model.safetensors` is cut short" in failed(PROMISE, adapter, made)["readable"]


def test_the_detail_says_how_often_the_adapter_counts(
    failed: Any, edit: Any, merged: tuple[HfAdapter, HfModel]
) -> None:
    from safetensors.torch import load_file

    adapter, made = merged
    base = load_file(adapter.root().path / FILE)
    edit(made.path / FILE, lambda tensors: FAULTS["adapter merged twice"][0](tensors, base))
    assert failed(PROMISE, adapter, made)["merge-strength"] == "the adapter counts 2 times, 1 expected"
