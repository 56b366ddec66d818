from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, HfModel, Model
from picual.passes.base import PassContext, Promise
from picual.passes.export.genai import BuildGenai
from picual.testing.tiny import tiny_model

Failed = Callable[[Promise, Model, Model], dict[str, str]]


@pytest.fixture(scope="session")
def failed() -> Failed:
    """The detail of each check that failed, by name."""

    def run(promise: Promise, given: Model, made: Model) -> dict[str, str]:
        found = verify(promise, given, made, Bench())
        assert found, "a promise without a single finding is not checked"
        return {check.name: check.detail for check in found if not check.passed}

    return run


@pytest.fixture(scope="session")
def adapter_on() -> Callable[..., HfAdapter]:
    """Write an adapter with a random B, without any training library."""

    def write(base: HfCheckpoint | HfAdapter, folder: Path, *, seed: int = 1, **settings: Any) -> HfAdapter:
        generator = torch.Generator().manual_seed(seed)
        root = base.root() if isinstance(base, HfAdapter) else base
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"], **settings}
        tensors = {}
        for name, info in root.tensors().items():
            module = name.removesuffix(".weight")
            if module.endswith(tuple(config["target_modules"])):
                prefix = f"base_model.model.{module}"
                tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, info.shape[1], generator=generator) * 0.1
                tensors[f"{prefix}.lora_B.weight"] = torch.randn(info.shape[0], 4, generator=generator) * 0.1
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return HfAdapter(folder, base)

    return write


@pytest.fixture(scope="session")
def edit() -> Callable[[Path, Callable[[dict[str, torch.Tensor]], None]], None]:
    """Change the tensors of a safetensors file."""

    def run(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        change(tensors)
        file.unlink()  # another file may be linked to it
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})

    return run


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[HfModel, GenaiModel]]:
    """Export a tiny model once for each choice, and hand out a copy that a test may break."""
    made: dict[str, tuple[HfModel, GenaiModel]] = {}

    def export(layout: Any = "llama", *, tied: bool = True, **fields: Any) -> tuple[HfModel, GenaiModel]:
        key = repr((layout, tied, sorted(fields.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("export")
            source = tiny_model(folder / "source", layout=layout, tied=tied)
            for name in ("out", "scratch"):
                (folder / name).mkdir()
            made[key] = source, BuildGenai(**fields).run(source, PassContext(folder / "out", folder / "scratch"))
        source, model = made[key]
        copy = tmp_path_factory.mktemp("copy") / "model"
        shutil.copytree(model.path, copy)
        return source, GenaiModel(copy)

    return export


@pytest.fixture(scope="session")
def edit_bytes() -> Callable[..., None]:
    """Change an initializer of an exported model where it lies in the data file, as an array."""

    def run(model: GenaiModel, name: str, change: Callable[[np.ndarray], None]) -> None:
        tensor = ir.load(model.decoder()).graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        shape = tuple(int(size) for size in tensor.shape)
        array = np.memmap(model.path / tensor.location, tensor.dtype.numpy(), "r+", tensor.offset or 0, shape)
        change(array)
        array.flush()

    return run


@pytest.fixture(scope="session")
def edit_graph() -> Callable[..., None]:
    """Change the graph of an exported model; its data file stays as it is."""

    def run(model: GenaiModel, change: Callable[[ir.Model], None]) -> None:
        graph = ir.load(model.decoder())
        change(graph)
        ir.save(graph, model.decoder())

    return run
