from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfModel
from picual.passes.base import PassContext
from picual.passes.rotate.rotate import Rotate
from picual.testing import PassContract, tiny_model

IDS = torch.arange(3, 60)[None]


class TestRotateContract(PassContract):
    a_pass: ClassVar = Rotate()
    a_model = staticmethod(tiny_model)
    a_refusal = staticmethod(lambda folder: quantized(tiny_model(folder)))


class TestRotateTheStreamContract(PassContract):
    a_pass: ClassVar = Rotate(residual=True, seed=3)
    a_model = staticmethod(lambda folder: sharded(tiny_model(folder, tied=False)))
    a_refusal = staticmethod(tiny_model)


def quantized(model: HfModel) -> HfModel:
    change_config(model, quantization_config={"quant_method": "gptq"})
    return model


def sharded(model: HfModel) -> HfModel:
    network = AutoModelForCausalLM.from_pretrained(model.path)
    (model.path / "model.safetensors").unlink()
    network.save_pretrained(model.path, max_shard_size="100KB")
    assert len(model.weight_files()) > 2
    return model


def change_config(model: HfModel, **values: Any) -> None:
    file = model.path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def run(a_pass: Rotate, model: HfModel, root: Path, seed: int = 0) -> tuple[HfModel, PassContext]:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True)
    context = PassContext(folder=root / "out", scratch=root / "scratch", threads=1, seed=seed)
    a_pass.check(model, Target())
    return a_pass.run(model, context), context


def logits(model: HfModel) -> torch.Tensor:
    # In float64 only what the rotation itself loses is left: its float32 weights.
    network = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float64)
    with torch.inference_mode():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def with_lively_biases(model: HfModel) -> HfModel:
    tensors = load_file(model.path / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if name.endswith(".bias"):
            tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.3
    save_file(tensors, model.path / "model.safetensors", {"format": "pt"})
    return model


def made_of(config: dict[str, Any], folder: Path) -> HfModel:
    """Write a model with options that `tiny_model` has no argument for."""
    from transformers import AutoConfig

    model = tiny_model(folder, layout=config.pop("layout", "llama"), tied=False)
    change_config(model, **config)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.uniform_(0.7, 1.3) if "norm" in name else weight.normal_(0.0, 0.2)
    network.save_pretrained(folder)
    return model


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layout", ["llama", "phi3", "qwen2", "qwen3", "mistral", "gemma", "smollm3", "granite"])
def test_logits_stay_as_they_were(layout: Any, residual: bool, tmp_path: Path) -> None:
    model = with_lively_biases(tiny_model(tmp_path / "given", layout=layout, tied=not residual))

    made, context = run(Rotate(residual=residual), model, tmp_path)

    expected, found = logits(model), logits(made)
    assert float((found - expected).abs().max()) < 2e-5 * float(expected.abs().max())
    before, after = (load_file(one.path / "model.safetensors") for one in (model, made))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {entry["changed"] for entry in context.journal if "changed" in entry}
    assert len(changed) == context.metrics["rotated"]
    assert any("o_proj" in name for name in changed)
    assert any("embed" in name for name in changed) is residual


@pytest.mark.parametrize("layout", ["gemma2", "gemma3_text"])
def test_norms_behind_attention_do_not_matter_to_values(layout: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given", layout=layout)

    made, _ = run(Rotate(), model, tmp_path)

    assert float((logits(made) - logits(model)).abs().max()) < 2e-5 * float(logits(model).abs().max())


def test_biases_of_attention_and_mlp_turn_along(tmp_path: Path) -> None:
    model = with_lively_biases(made_of({"attention_bias": True, "mlp_bias": True}, tmp_path / "given"))
    assert float(load_file(model.path / "model.safetensors")["model.layers.0.mlp.down_proj.bias"].abs().max()) > 0

    made, _ = run(Rotate(residual=True), model, tmp_path)

    assert float((logits(made) - logits(model)).abs().max()) < 2e-5 * float(logits(model).abs().max())


def test_outliers_spread(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    file, name = model.path / "model.safetensors", "model.layers.0.self_attn.v_proj.weight"
    tensors = load_file(file)
    tensors[name][3] *= 20  # one channel of a head
    save_file(tensors, file, {"format": "pt"})

    made, _ = run(Rotate(), model, tmp_path)

    rows = load_file(made.path / "model.safetensors")[name].norm(dim=1)[:16]
    before = tensors[name].norm(dim=1)[:16]
    assert float(before.max() / before.median()) > 15
    assert float(rows.max() / rows.median()) < 1.5


def test_what_turns_is_float32_and_the_rest_keeps_its_bytes(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    file = model.path / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    change_config(model, dtype="bfloat16")

    made, _ = run(Rotate(), model, tmp_path)

    dtypes = {name: info.dtype for name, info in made.tensors().items()}
    wide = {name for name, dtype in dtypes.items() if dtype == "F32"}
    assert wide == {f"model.layers.{i}.self_attn.{part}_proj.weight" for i in (0, 1) for part in "vo"}
    assert set(dtypes.values()) == {"F32", "BF16"}
    assert made.config()["dtype"] == "float32"
    assert float((logits(made) - logits(model)).abs().max()) < 2e-5 * float(logits(model).abs().max())


def test_seed_is_the_recipes_unless_one_is_given(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    first, _ = run(Rotate(), model, tmp_path / "1", seed=5)
    same, _ = run(Rotate(seed=5), model, tmp_path / "2", seed=6)
    other, _ = run(Rotate(), model, tmp_path / "3", seed=6)

    content = [(one.path / "model.safetensors").read_bytes() for one in (first, same, other)]
    assert content[0] == content[1] != content[2]


def test_finished_shard_of_another_rotation_is_not_taken_for_ours(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given", tied=False)
    content = []
    (tmp_path / "scratch").mkdir()
    for number, fields in enumerate(({}, {"seed": 1}, {"residual": True}, {"values": False, "residual": True})):
        (tmp_path / str(number)).mkdir()
        made = Rotate(**fields).run(model, PassContext(tmp_path / str(number), tmp_path / "scratch"))
        content.append((made.path / "model.safetensors").read_bytes())
    assert len(set(content)) == 4


@pytest.mark.parametrize(
    ("config", "fields", "what"),
    [
        ({"tie_word_embeddings": True}, {"residual": True}, "head and embedding are one weight"),
        ({"model_type": "gemma2"}, {"residual": True}, "norms what attention and MLP give"),
        ({"model_type": "mixtral"}, {}, "how a `mixtral` network is put together"),
        ({"quantization_config": {}}, {}, "quantized already"),
        ({"num_key_value_heads": 4}, {}, r"`model\.layers\.0\.self_attn\.[ov]_proj\.weight` has shape"),
        ({"head_dim": 8}, {}, "has shape"),
        ({}, {"values": False}, "nothing is to be rotated"),
    ],
)
def test_what_would_not_compute_the_same_is_refused(
    config: dict[str, Any], fields: dict[str, Any], what: str, tmp_path: Path
) -> None:
    tied = bool(config.get("tie_word_embeddings"))
    model = tiny_model(tmp_path / "given", tied=tied)
    change_config(model, **config)

    with pytest.raises(Refused, match=what) as caught:
        Rotate(**fields).check(model, Target())
    assert caught.value.hint


def test_tensor_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given")
    file = model.path / "model.safetensors"
    name = "model.layers.0.self_attn.v_norm.weight"
    save_file({**load_file(file), name: torch.ones(16)}, file, {"format": "pt"})

    with pytest.raises(Refused, match=r"what `model\.layers\.0\.self_attn\.v_norm\.weight` does"):
        Rotate().check(model, Target())


def test_forecast_of_disk_is_what_is_written(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "given", tied=False)
    file = model.path / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    for fields in ({}, {"residual": True}):
        made, _ = run(Rotate(**fields), model, tmp_path / str(len(fields)))
        written = sum(info.nbytes for info in made.tensors().values())
        said = Rotate(**fields).profile_after(model.profile()).bytes
        assert written <= said <= 1.1 * written
