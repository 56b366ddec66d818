from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from picual.engine.verification import prompt
from picual.models import GenaiModel, HfAdapter, HfModel
from picual.models.genai_session import GenaiSession
from picual.passes.base import PromptContractKept
from picual.testing.tiny import tiny_model

PROMISE = PromptContractKept()


def change_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.unlink()
    file.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[HfModel, HfModel]:
    given = tiny_model(tmp_path / "given")
    shutil.copytree(given.path, tmp_path / "made")
    return given, HfModel(tmp_path / "made")


def test_an_honest_checkpoint_passes(failed: Any, checkpoints: tuple[HfModel, HfModel]) -> None:
    assert not failed(PROMISE, *checkpoints)


@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_an_honest_export_passes(failed: Any, exports: Any, layout: str) -> None:
    assert not failed(PROMISE, *exports(layout, precision="int4"))


@pytest.mark.parametrize(("beyond", "packed"), [(0, True), (-1, False)])
def test_only_a_small_export_is_loaded_with_its_weights_packed(
    failed: Any, exports: Any, monkeypatch: pytest.MonkeyPatch, beyond: int, packed: bool
) -> None:
    opened: list[bool] = []

    class Noted(GenaiSession):
        def __init__(self, model: GenaiModel, *, threads: int, packed: bool = True) -> None:
            opened.append(packed)
            super().__init__(model, threads=threads, packed=packed)

    source, model = exports(precision="int4")
    size = sum((model.path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    monkeypatch.setattr(prompt, "PACKED", size + beyond)
    monkeypatch.setattr(prompt, "GenaiSession", Noted)
    assert not failed(PROMISE, source, model)
    assert opened == [packed]


def test_an_adapters_own_tokenizer_is_the_one_to_keep(
    failed: Any, adapter_on: Any, checkpoints: tuple[HfModel, HfModel], tmp_path: Path
) -> None:
    given, made = checkpoints
    adapter: HfAdapter = adapter_on(given, tmp_path / "a")
    assert not failed(PROMISE, adapter, made)

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(given.path / name, adapter.path)
    (adapter.path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert list(failed(PROMISE, adapter, made)) == ["prompt-chat-template"]


def remove_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def change_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    text = file.read_text().replace("<|end|>", "<|end|> ")
    file.write_text(text)


def change_eos(folder: Path) -> None:
    for name in ("generation_config.json", "genai_config.json"):
        if (folder / name).exists():
            change_json(folder / name, lambda value: value.get("model", value).update(eos_token_id=258))


def change_eos_token(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", lambda value: value.update(eos_token="<|user|>"))


def change_vocabulary(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        words = value["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]

    change_json(folder / "tokenizer.json", change)


def cut_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    file.unlink()
    file.write_text(text[: len(text) // 2])


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "chat template removed": (remove_template, "prompt-chat-template"),
    "chat template changed": (change_template, "prompt-chat-template"),
    "EOS changed": (change_eos, "prompt-eos"),
    "EOS token changed": (change_eos_token, "prompt-special-tokens"),
    "two words exchanged": (change_vocabulary, "prompt-token-ids"),
    "tokenizer cut short": (cut_tokenizer, "readable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_checkpoint_is_caught(failed: Any, checkpoints: tuple[HfModel, HfModel], fault: str) -> None:
    given, made = checkpoints
    plant, check = FAULTS[fault]
    plant(made.path)
    assert list(failed(PROMISE, given, made)) == [check]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_export_is_caught(failed: Any, exports: Any, fault: str) -> None:
    source, model = exports(precision="int4")
    plant, check = FAULTS[fault]
    plant(model.path)
    assert check in failed(PROMISE, source, model)


def test_a_runtime_that_stops_at_more_is_fine_and_at_less_is_not(failed: Any, exports: Any) -> None:
    source, model = exports(precision="int4")
    config = model.path / "genai_config.json"
    change_json(config, lambda value: value["model"].update(eos_token_id=[256, 257]))
    assert not failed(PROMISE, source, model)
    change_json(config, lambda value: value["model"].update(eos_token_id=[256]))
    assert failed(PROMISE, source, model)["prompt-eos"] == "stopped at [257], now at [256]"


def test_an_export_that_does_not_load_is_a_failed_check(failed: Any, exports: Any) -> None:
    source, model = exports(precision="int4")
    (model.path / "model.onnx.data").unlink()
    assert "model.onnx.data" in failed(PROMISE, source, GenaiModel(model.path))["readable"]


def test_names_that_do_not_fit_the_network_are_caught(failed: Any, checkpoints: tuple[HfModel, HfModel]) -> None:
    given, made = checkpoints
    tensors = load_file(made.path / "model.safetensors")
    tensors["model.layers.0.self_attn.query.weight"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, made.path / "model.safetensors", {"format": "pt"})
    found = failed(PROMISE, given, made)["architecture"]
    assert "missing `model.layers.0.self_attn.q_proj.weight`" in found
    assert "unknown `model.layers.0.self_attn.query.weight`" in found
    assert "other shapes: `model.norm.weight`" in found


def test_a_config_that_names_no_known_network_is_caught(failed: Any, checkpoints: tuple[HfModel, HfModel]) -> None:
    given, made = checkpoints
    change_json(made.path / "config.json", lambda value: value.update(model_type="lama"))
    assert failed(PROMISE, given, made)
