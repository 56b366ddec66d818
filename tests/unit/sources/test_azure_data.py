"""Data files kept in Azure: fetched by a run, once, and never by a check or a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loopback.cloud import Azure
from loopback.control import Workspace
from picual import api
from picual.errors import BadValue, EnvironmentFault, RecipeProblems, UnknownName
from picual.models import HfModel
from picual.plan import make_plan
from picual.sources.azure_client import Access
from picual.sources.azure_data import bring
from picual.sources.azure_retries import Patience
from picual.store.local import Store

ROWS = "".join(json.dumps({"text": f"row {number} of a few more words"}) + "\n" for number in range(40)).encode()


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(folder=tmp_path, patience=Patience(1, 0))


def test_a_file_is_brought_once_and_again_when_it_changed(
    azure: Azure, workspace: Workspace, access: Access, tmp_path: Path
) -> None:
    uri = workspace.put_data("tone/rows.jsonl", ROWS)

    (first,) = bring(uri, tmp_path, access)
    (again,) = bring(uri, tmp_path, access)

    assert first == again
    assert (first.name, first.read_bytes()) == ("rows.jsonl", ROWS)
    assert [read.blob for read in azure.blobs.reads] == ["tone/rows.jsonl"]
    workspace.put_data("tone/rows.jsonl", b'{"text": "changed"}\n')
    (changed,) = bring(uri, tmp_path, access)
    assert changed != first
    assert b"changed" in changed.read_bytes()
    azure.requests.clear()
    assert bring(uri, tmp_path, access, offline=True) == [changed]
    assert not azure.requests


def test_a_folder_is_all_its_files_and_a_data_asset_is_its_path(
    azure: Azure, workspace: Workspace, access: Access, tmp_path: Path
) -> None:
    workspace.put_data("all/b.jsonl", b"{}\n")
    uri = workspace.put_data("all/a.jsonl", ROWS).rpartition("/")[0]
    workspace.assets.put("data", "rows", "1", {"dataUri": uri, "dataType": "uri_folder"})

    assert [path.name for path in bring(uri, tmp_path, access)] == ["a.jsonl", "b.jsonl"]
    asset = f"{workspace.address}/data/rows/versions/1"
    assert [path.read_bytes() for path in bring(asset, tmp_path, access)] == [ROWS, b"{}\n"]
    with pytest.raises(UnknownName, match="no data asset `row`") as caught:
        bring(f"{workspace.address}/data/row/versions/1", tmp_path, access)
    assert "`rows`" in caught.value.hint


def test_what_cannot_be_brought_is_refused(azure: Azure, access: Access, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="cannot be fetched"):
        bring("ftp://somewhere/rows.jsonl", tmp_path, access)
    with pytest.raises(EnvironmentFault, match="never fetched"):
        bring("azureml://datastores/D/paths/rows.jsonl", tmp_path, access, offline=True)


@pytest.fixture
def recipe(tiny: HfModel, workspace: Workspace, tmp_path: Path) -> dict[str, Any]:
    uri = workspace.put_data("tone/rows.jsonl", ROWS)
    return {
        "version": 1, "model": str(tiny.path), "data": {"rows": {"files": uri, "text": "text", "max_length": 32}},
        "passes": {"lora": {"data": "rows", "training": {"max_steps": 1}}, "merge-adapter": {}, "build-genai": {}},
        "output": str(tmp_path / "out"), "store": str(tmp_path / "store"),
    }  # fmt: skip


def test_check_and_plan_ask_nobody(azure: Azure, recipe: dict[str, Any], tmp_path: Path) -> None:
    assert api.check(recipe) == []
    steps = make_plan(api.load(recipe), Store(tmp_path / "store"), hash_source=True).steps
    assert (steps[0].key, steps[0].why) == (None, "data fetched at run")
    assert not azure.requests
    recipe["data"]["rows"]["files"] = "azureml://datastore/D/paths/x"
    (problem,) = api.check(recipe)
    assert "is not an address" in problem.what


def test_a_measurement_reads_the_rows_that_were_fetched(
    azure: Azure, recipe: dict[str, Any], tmp_path: Path
) -> None:
    def measure(files: str) -> dict[str, Any]:
        data = {"rows": {**recipe["data"]["rows"], "files": files}}
        asked = {"perplexity": {"windows": 2, "length": 16}}
        return api.evaluate(recipe["model"], asked, data=data, store=tmp_path / "store")["perplexity"]

    local = tmp_path / "rows.jsonl"
    local.write_bytes(ROWS)

    assert measure(recipe["data"]["rows"]["files"]) == measure(str(local))
    assert [read.blob for read in azure.blobs.reads] == ["tone/rows.jsonl"]


def test_a_column_that_the_fetched_rows_lack_stops_the_run_before_any_step(
    azure: Azure, recipe: dict[str, Any]
) -> None:
    recipe["data"]["rows"]["text"] = "txet"
    with pytest.raises(RecipeProblems, match="no column `txet`"):
        api.run(recipe)


def test_a_model_goes_through_a_worker_into_the_store(
    azure: Azure, workspace: Workspace, tiny: HfModel, tmp_path: Path
) -> None:
    workspace.put_model("mine", "1", tiny.path)
    uri = f"{workspace.address}/models/mine/labels/latest"

    first = api.fetch(uri, store=tmp_path / "store")
    reads = len(azure.blobs.reads)
    again = api.fetch(uri, store=tmp_path / "store")

    assert first == again
    assert len(azure.blobs.reads) == reads > 0
    for file in tiny.path.iterdir():
        assert (first / file.name).read_bytes() == file.read_bytes()
