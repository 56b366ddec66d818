from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue, EnvironmentFault, RecipeError, UnknownName
from picual.models import HfModel
from picual.sources.azureml import AzureMlSource
from picual.sources.folder import FolderSource
from picual.sources.gguf import GgufSource
from picual.sources.hub import HubSource
from picual.sources.mlflow import MlflowSource
from picual.sources.resolve import resolve
from picual.sources.wheel import WheelSource


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "config.json").write_text("{}")
    (tmp_path / "owner" / "local").mkdir(parents=True)
    (tmp_path / "owner" / "local" / "config.json").write_text("{}")
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text("flavors: {transformers: {}}")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "MLmodel").write_text("flavors: {transformers: {}}")
    (tmp_path / "both" / "config.json").write_text("{}")
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    (tmp_path / "notes.txt").write_text("no model")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "given", "kind"),
    [
        ("models/llama", {}, FolderSource),
        ("./models/llama/", {}, FolderSource),
        ("owner/local", {}, FolderSource),  # what exists here is not looked for on the hub
        ("owner/remote", {}, HubSource),
        ("gpt2", {}, HubSource),
        ("file.gguf", {}, GgufSource),
        ("notes.txt", {"format": "gguf"}, GgufSource),
        ("logged", {}, MlflowSource),
        ("both", {}, FolderSource),
        ("both", {"format": "mlflow"}, MlflowSource),
        ("smollm2-135m", {}, WheelSource),
        ("azureml://registries/r/models/m/versions/7", {}, AzureMlSource),
        ("azureml:m:1", {}, AzureMlSource),
    ],
)
def test_an_address_means_one_source(uri: str, given: dict[str, Any], kind: type, here: Path) -> None:
    assert isinstance(resolve(uri, folder=here, **given), kind)


def test_what_the_recipe_says_reaches_the_source(here: Path) -> None:
    hub = resolve("owner/remote", revision="v2", trust_remote_code=True, offline=True, folder=here)
    assert hub == HubSource(repo="owner/remote", revision="v2", trust_remote_code=True, offline=True)
    folder = resolve("models/llama", trust_remote_code=True, folder=here).locate()
    assert folder is not None
    assert folder.model == HfModel(here / "models" / "llama", True)


@pytest.mark.parametrize(
    ("uri", "given", "kind", "what", "hint"),
    [
        ("./models/lama", {}, BadValue, "no model at `./models/lama`", "`./models/llama`"),
        ("/nowhere/at/all", {}, BadValue, "no model at", "owner/name"),
        ("ftp://somewhere", {}, BadValue, "no model at", "owner/name"),
        ("smollm-135m", {}, UnknownName, "unknown model `smollm-135m`", "`smollm2-135m`"),
        ("notes.txt", {}, BadValue, "is a file", "--model ."),
        ("models/llama", {"format": "gguf"}, BadValue, "0 GGUF files", "FILE.gguf"),
        ("models/llama", {"format": "onxx"}, UnknownName, "format `onxx`", "`gguf`"),
    ],
)
def test_an_address_that_means_nothing_is_a_mistake_of_the_recipe(
    uri: str, given: dict[str, Any], kind: type[RecipeError], what: str, hint: str, here: Path
) -> None:
    with pytest.raises(kind) as caught:
        resolve(uri, folder=here, **given)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_a_model_on_azure_is_planned_without_the_network_and_not_fetched_offline(
    here: Path, fetch: Callable[..., Any]
) -> None:
    uri = "azureml://registries/r/models/m/versions/7"
    source = resolve(uri, folder=here)
    assert source.fetches
    assert source.locate() is None
    assert source.key_parts()["azureml"] == uri
    with pytest.raises(EnvironmentFault) as caught:
        fetch(uri, offline=True)
    assert "`--model PATH`" in caught.value.hint


@pytest.mark.parametrize(("uri", "given", "what"), [
    ("smollm2-135m", {"revision": "main"}, "`revision` is of a hub id"),
    ("smollm2-135m", {"options": {"layout": "phi3", "foo": 1}}, "has no option `foo`"),
    ("owner/name", {"options": {"layout": "phi3"}}, "has no option `layout`"),
])  # fmt: skip
def test_what_a_source_cannot_honour_is_refused(
    uri: str, given: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(BadValue, match=what):
        resolve(uri, folder=tmp_path, **given)
