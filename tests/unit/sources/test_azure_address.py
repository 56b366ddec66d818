from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.errors import BadValue
from picual.sources.azure_address import (
    Asset,
    BlobPath,
    DatastorePath,
    JobOutput,
    Workspace,
    default_workspace,
    is_address,
    parse,
)

HERE = Workspace("s", "g", "w")
LONG = "azureml://subscriptions/s/resourceGroups/g/workspaces/w"


@pytest.mark.parametrize(("text", "means"), [
    ("azureml://registries/R/models/m/versions/7", Asset("models", "m", "7", registry="R")),
    ("azureml://registries/R/models/m/labels/latest", Asset("models", "m", None, registry="R")),
    (f"{LONG}/models/m/versions/7", Asset("models", "m", "7", workspace=HERE)),
    (f"{LONG}/data/rows/versions/2", Asset("data", "rows", "2", workspace=HERE)),
    ("azureml:m:7", Asset("models", "m", "7")),
    ("azureml:m@latest", Asset("models", "m", None)),
    ("azureml:m/versions/7", Asset("models", "m", "7")),
    ("azureml:m/labels/latest", Asset("models", "m", None)),
    (f"{LONG}/datastores/D/paths/a/b.json", DatastorePath("D", "a/b.json", HERE)),
    ("azureml://datastores/D/paths/a/", DatastorePath("D", "a")),
    ("azureml://datastores/D/ExperimentRun/dcid.x", DatastorePath("D", "ExperimentRun/dcid.x")),
    ("azureml://jobs/J/outputs/o/paths/p/q", JobOutput("J", "o", "p/q")),
    ("azureml://jobs/J/outputs/default", JobOutput("J", "default", "")),
    ("abfss://c@lake.dfs.core.windows.net/a/b", BlobPath("https://lake.blob.core.windows.net", "c", "a/b")),
    ("abfss://Team@onelake.dfs.fabric.microsoft.com/it.Lakehouse/Files/x",
     BlobPath("https://onelake.blob.fabric.microsoft.com", "Team", "it.Lakehouse/Files/x")),
    ("https://acc.blob.core.windows.net/c/a/b", BlobPath("https://acc.blob.core.windows.net", "c", "a/b")),
])  # fmt: skip
def test_an_address_is_read(text: str, means: object) -> None:
    assert is_address(text)
    assert parse(text) == means


@pytest.mark.parametrize("text", ["azureml://", "azureml://registries/r/models/m/labels/best", "azureml:a/b/c"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match=r"not an address|unknown label"):
        parse(text)


def test_a_signature_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(BadValue, match="holds a signature") as caught:
        parse("https://acc.blob.core.windows.net/c/a/b?sig=secret")
    assert "secret" not in str(caught.value)


def test_no_other_text_is_an_address() -> None:
    assert not any(
        map(is_address, ["owner/name", "rows.jsonl", "https://huggingface.co/x", "s3://bucket/x", "/a"])
    )


def test_the_workspace_comes_from_the_file_that_is_named_or_from_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    (tmp_path / "mine.json").write_text(json.dumps(names))
    assert default_workspace(tmp_path, "mine.json") == HERE
    with pytest.raises(BadValue, match="names no Azure Machine Learning workspace"):
        default_workspace(tmp_path)
    (tmp_path / ".azureml").mkdir()
    (tmp_path / ".azureml" / "config.json").write_text(json.dumps(names))
    assert default_workspace(tmp_path) == HERE
    for name, value in (("SUBSCRIPTION", "S"), ("RESOURCEGROUP", "G"), ("WORKSPACE_NAME", "W")):
        monkeypatch.setenv(f"AZUREML_ARM_{name}", value)
    assert default_workspace(tmp_path) == Workspace("S", "G", "W")


@pytest.mark.parametrize(
    ("text", "what"), [(None, "there is no workspace file"), ("{}", "must name"), ("[", "is not JSON")]
)
def test_a_workspace_file_that_says_nothing_is_named(text: str | None, what: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(BadValue, match=what) as caught:
        default_workspace(tmp_path, "c.json")
    assert caught.value.where == str(tmp_path / "c.json")
