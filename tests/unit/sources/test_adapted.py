from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback.cloud import Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from picual import api
from picual.errors import BadValue, UnreadableModel
from picual.models import HfAdapter, HfModel
from picual.sources.adapted import AdaptedSource
from picual.sources.base import needs_network
from picual.sources.digests import DigestMemory
from picual.sources.folder import FolderSource
from picual.sources.mlflow import MlflowSource
from picual.sources.resolve import resolve


@pytest.fixture
def adapter(tiny: HfModel, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": "/where/it/was"}))
    shutil.copyfile(tiny.path / "model.safetensors", folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("a model card")
    return folder


def test_two_local_folders_are_located_without_a_copy(tiny: HfModel, adapter: Path, tmp_path: Path) -> None:
    source = resolve("tiny", adapter="adapter", folder=tmp_path)
    found = source.locate()
    assert not source.fetches
    assert found is not None
    assert found.model == HfAdapter(adapter, tiny)
    assert found.digest is None  # of two folders that nobody has hashed yet


def test_an_adapter_on_a_base_that_is_fetched_is_brought_with_it(
    tiny: HfModel, adapter: Path, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    logged = tmp_path / "logged"
    shutil.copytree(tiny.path, logged / "model")
    (logged / "MLmodel").write_text("flavors: {transformers: {model_binary: model}}")
    source = resolve("logged", adapter="adapter", folder=tmp_path)
    assert isinstance(source, AdaptedSource)
    assert isinstance(source.base, MlflowSource)
    assert source.fetches
    assert source.locate() is None

    model, told = fetch("logged", adapter="adapter")

    assert told["model"] == {"kind": "hf-adapter", "path": "adapter", "base": {"kind": "hf", "path": "base"}}
    assert sorted(file.name for file in model.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (model.path / "adapter_config.json").read_bytes() == (adapter / "adapter_config.json").read_bytes()
    assert (model.base.path / "config.json").read_bytes() == (tiny.path / "config.json").read_bytes()
    assert list(model.tensors()) == list(tiny.tensors())


def test_the_key_changes_with_either_of_the_two(tiny: HfModel, adapter: Path, tmp_path: Path) -> None:
    def key() -> Any:
        return resolve("tiny", adapter="adapter", folder=tmp_path, digests=DigestMemory(None)).key_parts()

    first = key()
    assert key() == first
    for file in (adapter / "adapter_config.json", tiny.path / "config.json"):
        text = file.read_text()
        file.write_text(text + "\n")
        assert key() != first
        file.write_text(text)
    assert key() == first


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tiny", "has no `adapter_config.json`"),
        ("./adaptor", "no adapter at `./adaptor`"),
        ("adaptor", "no adapter at `adaptor`"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_what_is_no_adapter_is_a_mistake_of_the_recipe(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=what):
        resolve("tiny", adapter=name, folder=tmp_path)


def test_an_adapter_does_not_go_on_another_kind_of_model(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "genai").mkdir()
    (tmp_path / "genai" / "genai_config.json").write_text("{}")
    with pytest.raises(UnreadableModel, match="this is an ONNX Runtime GenAI model"):
        resolve("genai", adapter="adapter", folder=tmp_path).locate()


def test_a_chain_of_adapters_is_copied_whole(tiny: HfModel, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny.path)}))
    copy = FolderSource(path=adapter, digests=DigestMemory(None)).fetch(tmp_path / "copy")
    assert copy == HfAdapter(tmp_path / "copy" / "adapter", HfModel(tmp_path / "copy" / "base"))
    assert (copy.path / "adapter_model.safetensors").is_file()


AZURE = {"max_operation_retries": 2, "operation_retry_interval": 0}


def test_an_adapter_in_azure_is_brought_onto_a_base_on_this_machine(
    azure: Azure, workspace: Workspace, tiny: HfModel, adapter: Path, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    workspace.put_model("tone-lora", "3", adapter)
    uri = f"{workspace.address}/models/tone-lora/versions/3"
    source = resolve("tiny", adapter=uri, options=AZURE, folder=tmp_path)
    recipe = {"version": 1, "model": {"uri": str(tiny.path), "adapter": uri, "options": AZURE}}
    assert api.check({**recipe, "passes": {"merge-adapter": {}}}) == []
    assert source.fetches
    assert not needs_network(source)  # a version never changes
    assert source.locate() is None
    assert source.key_parts() == resolve("tiny", adapter=uri, options=AZURE, folder=tmp_path).key_parts()
    other = resolve("tiny", adapter=uri.replace("/3", "/4"), options=AZURE, folder=tmp_path)
    assert source.key_parts() != other.key_parts()
    assert azure.requests == []

    model, _ = fetch("tiny", adapter=uri, options=AZURE)

    assert sorted(file.name for file in model.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (model.path / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert list(model.tensors()) == list(tiny.tensors())
    assert not (model.path.parent / "download").exists()


def test_both_may_be_in_azure_and_what_moves_is_asked_for(
    azure: Azure, workspace: Workspace, tiny: HfModel, adapter: Path, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    workspace.put_model("base", "1", tiny.path)
    workspace.put_model("lora", "1", adapter)
    base, top = f"{workspace.address}/models/base/versions/1", f"{workspace.address}/models/lora/labels/latest"
    source = resolve(base, adapter=top, options=AZURE, folder=tmp_path)
    assert needs_network(source)
    before = source.key_parts()

    model, _ = fetch(base, adapter=top, options=AZURE)

    assert (model.base.path / "config.json").read_bytes() == (tiny.path / "config.json").read_bytes()
    workspace.put_model("lora", "2", adapter)
    moved = {**AZURE, "max_operation_retries": 1}
    assert resolve(base, adapter=top, options=moved, folder=tmp_path).key_parts() != before


def test_the_workspace_of_an_adapter_may_be_named_by_its_file(
    workspace: Workspace, tiny: HfModel, adapter: Path, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    workspace.put_model("lora", "1", adapter)
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    (tmp_path / "ws.json").write_text(json.dumps(names))

    model, _ = fetch("tiny", adapter="azureml:lora:1", options={**AZURE, "aml_config_path": "ws.json"})

    assert isinstance(model, HfAdapter)
    with pytest.raises(BadValue, match="no option `aml_config_path`"):
        resolve("tiny", adapter="adapter", options={"aml_config_path": "ws.json"}, folder=tmp_path)


def test_what_is_kept_there_and_is_no_adapter_is_named(
    workspace: Workspace, tiny: HfModel, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    workspace.put_model("whole", "1", tiny.path)

    with pytest.raises(UnreadableModel, match="is no adapter"):
        fetch("tiny", adapter=f"{workspace.address}/models/whole/versions/1", options=AZURE)


def test_offline_an_adapter_in_azure_is_an_obstacle(tiny: HfModel, tmp_path: Path) -> None:
    source = resolve(str(tiny.path), adapter="azureml:lora:1", folder=tmp_path, offline=True)

    assert ["--offline" in one.what for one in source.obstacles()] == [True]
    with pytest.raises(BadValue, match="is not an address"):
        resolve(str(tiny.path), adapter="azureml://nothing", folder=tmp_path)
