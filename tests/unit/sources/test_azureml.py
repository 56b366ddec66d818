"""Models fetched from the Azure on this machine, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback import faults
from loopback.cloud import Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from picual.errors import EnvironmentFault, PicualError, Refused, UnknownName, UnreadableModel
from picual.models import HfModel, Model
from picual.sources import azure_client
from picual.sources.azure_client import Access, Cloud
from picual.sources.azureml import AzureMlSource
from picual.sources.base import needs_network
from picual.sources.resolve import resolve

NOW = {"operation_retry_interval": 0, "max_operation_retries": 2}
Fetch = Callable[..., tuple[Model, dict[str, Any]]]


@pytest.fixture
def mlflow_folder(tiny: HfModel, tmp_path: Path) -> Path:
    """A model as Azure's catalogue keeps it: MLflow's folder with another around it."""
    root = tmp_path / "kept" / "mlflow_model_folder"
    for part in ("model", "config", "tokenizer"):
        (root / "data" / part).mkdir(parents=True)
    for file in tiny.path.iterdir():
        part = "tokenizer" if "token" in file.name else "config" if file.name == "config.json" else "model"
        (root / "data" / part / file.name).write_bytes(file.read_bytes())
    (root / "MLmodel").write_text("flavors:\n  hftransformersv2:\n    model_data: data\n")
    return tmp_path / "kept"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def same_model(model: Model, tiny: HfModel) -> bool:
    return isinstance(model, HfModel) and contents(model.path).items() >= contents(tiny.path).items()


def test_a_registry_model_in_an_mlflow_folder_is_put_together(
    azure: Azure, mlflow_folder: Path, tiny: HfModel, fetch: Fetch
) -> None:
    azure.registries.put_model("shared", "phi", "11", mlflow_folder, kind="mlflow_model")

    model, _ = fetch("azureml://registries/shared/models/phi/versions/11", options=NOW, format="mlflow")

    assert same_model(model, tiny)
    assert not list(model.path.parent.glob("download"))


def test_a_registry_model_pinned_or_latest(azure: Azure, tiny: HfModel, tmp_path: Path, fetch: Fetch) -> None:
    azure.registries.put_model("shared", "small", "1", tiny.path)
    start = "azureml://registries/shared/models/small"
    pinned = resolve(f"{start}/versions/1", folder=tmp_path)
    moving = resolve(f"{start}/labels/latest", folder=tmp_path, options=NOW)

    assert (needs_network(pinned), needs_network(moving)) == (False, True)
    assert pinned.key_parts() == {"azureml": f"{start}/versions/1"}
    assert not azure.requests
    assert moving.key_parts() == {"azureml": f"{start}/labels/latest", "version": "1"}
    assert not needs_network(moving)
    assert same_model(fetch(f"{start}/labels/latest", options=NOW)[0], tiny)


def test_a_workspace_model_and_a_job_output(
    azure: Azure, workspace: Workspace, tiny: HfModel, tmp_path: Path, fetch: Fetch
) -> None:
    workspace.put_model("mine", "2", tiny.path)
    assert same_model(fetch(f"{workspace.address}/models/mine/labels/latest", options=NOW)[0], tiny)

    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    (tmp_path / "ws.json").write_text(json.dumps(names))
    assert same_model(fetch("azureml:mine:2", options={**NOW, "aml_config_path": "ws.json"})[0], tiny)

    from azure.ai.ml import Output, command
    from azure.ai.ml.entities import Environment

    job = azure.client(workspace).jobs.create_or_update(command(
        command=f"cp -r {tiny.path} ${{{{outputs.model}}}}/deep", compute="cluster",
        environment=Environment(image="any"), outputs={"model": Output(type="uri_folder")},
    ))  # fmt: skip
    while workspace.jobs.by_name[job.name].status not in {"Completed", "Failed"}:
        pass
    assert same_model(fetch(f"{workspace.address}/jobs/{job.name}/outputs/model/paths/deep", options=NOW)[0], tiny)


@pytest.mark.parametrize("kind", ["AzureBlob", "AzureDataLakeGen2"])
@pytest.mark.parametrize("credentials", ["AccountKey", "None"])
def test_a_datastore_path_of_each_kind_and_its_key_follows_the_content(
    azure: Azure, workspace: Workspace, tiny: HfModel, tmp_path: Path, fetch: Fetch, kind: str, credentials: str
) -> None:
    workspace.add_datastore("store", kind=kind, credentials=credentials)
    azure.blobs.put_folder(workspace.container("store"), "in/model", tiny.path)
    azure.blobs.put(workspace.container("store"), "in/model2/config.json", b"another model's")
    uri = f"{workspace.address}/datastores/store/paths/in/model"

    model, _ = fetch(uri, options=NOW)
    assert same_model(model, tiny)
    assert not any(item.is_dir() for item in model.path.iterdir())  # nothing of what lies beside it

    def key(interval: float) -> Any:  # another interval, so that what was asked before is not remembered
        options = {"operation_retry_interval": interval}
        return resolve(uri, folder=tmp_path, options=options).key_parts()["content"]

    before = key(0.25)
    assert key(0.5) == before
    other = bytes(len((tiny.path / "config.json").read_bytes()))  # as long as before
    azure.blobs.put(workspace.container("store"), "in/model/config.json", other)
    assert key(0.75) != before


def test_adls_gen2_is_read_through_its_blob_endpoint(azure: Azure, tiny: HfModel, fetch: Fetch) -> None:
    azure.blobs.put_folder("lake", "models/tiny", tiny.path)
    uri = f"abfss://lake@loopbackaccount.dfs.{azure.blobs.endpoint()}/models/tiny"
    assert same_model(fetch(uri, options=NOW)[0], tiny)
    fabric = f"abfss://lake@onelake.dfs.fabric.localhost:{azure.server.port}/models/tiny"
    assert same_model(fetch(fabric, options=NOW)[0], tiny)


def test_a_cut_costs_only_the_piece_it_fell_into(
    azure: Azure, tiny: HfModel, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = 1 << 16
    monkeypatch.setattr("picual.sources.azure_download.PIECE", piece)
    azure.blobs.put_folder("cut", "model", tiny.path)
    size = (tiny.path / "model.safetensors").stat().st_size
    assert size > 3 * piece
    uri = f"https://loopbackaccount.blob.{azure.blobs.endpoint()}/cut/model"
    azure.faults.plant("GET", "blobs", *([faults.UNAVAILABLE, faults.busy()]), containing="model.safetensors")
    fetch(uri, options=NOW)  # the faults are before the first byte
    azure.blobs.reads.clear()
    azure.faults.plant("GET", "blobs", faults.Cut(1000), containing="model.safetensors")

    model, _ = fetch(uri, options=NOW)

    assert same_model(model, tiny)
    starts = [read.start for read in azure.blobs.reads if read.blob == "model/model.safetensors"]
    assert starts.count(0) == 2  # cut, and again
    assert sorted(starts)[1:] == list(range(0, size, piece))


def test_a_signature_that_runs_out_is_renewed(
    azure: Azure, workspace: Workspace, tiny: HfModel, fetch: Fetch
) -> None:
    workspace.put_model("mine", "1", tiny.path)
    azure.faults.plant("GET", "blobs", faults.FORBIDDEN, containing="model.safetensors")
    assert same_model(fetch(f"{workspace.address}/models/mine/versions/1", options=NOW)[0], tiny)


def failure(fetch: Fetch, uri: str) -> PicualError:
    with pytest.raises(PicualError, match=r".") as caught:
        fetch(uri, options=NOW)
    said = str(caught.value) + json.dumps(caught.value.to_wire())
    assert "sig=" not in said
    assert "loopback-" not in said  # how its tokens begin
    assert caught.value.where
    assert caught.value.hint
    return caught.value


def test_names_that_do_not_exist_are_told_with_the_nearest(
    azure: Azure, workspace: Workspace, tiny: HfModel, fetch: Fetch
) -> None:
    azure.registries.put_model("shared", "phi-3-mini", "11", tiny.path)
    workspace.put_model("mine", "2", tiny.path)
    azure.blobs.put_folder(workspace.container("workspaceblobstore"), "models/tiny", tiny.path)
    nobody = "99999999-0000-0000-0000-000000000000"
    for uri, what, hint in (
        ("azureml://registries/shared/models/phi-3-mni/versions/11", "no model `phi-3-mni`", "`phi-3-mini`"),
        ("azureml://registries/shared/models/phi-3-mni/labels/latest", "no model `phi-3-mni`", "`phi-3-mini`"),
        ("azureml://registries/shared/models/phi-3-mini/versions/1", "no version `1`", "`11`"),
        ("azureml://registries/nowhere/models/x/versions/1", "no such registry", "registry list"),
        (f"{workspace.address}/models/mien/versions/2", "no model `mien`", "`mine`"),
        (f"{workspace.address}/datastores/workspaceblobstor/paths/x", "no datastore", "`workspaceblobstore`"),
        (f"{workspace.address}/datastores/workspaceblobstore/paths/models/tny", "no files", "`tiny`"),
        (f"{workspace.address}/jobs/none/outputs/o/paths/", "no job `none`", "job list"),
        (
            workspace.address.replace(workspace.name, "nobody") + "/models/m/versions/1",
            "no such workspace",
            "list",
        ),
        (workspace.address.replace(SUBSCRIPTION, nobody) + "/models/m/versions/1", "no such subscription", "list"),
    ):
        told = failure(fetch, uri)
        assert isinstance(told, UnknownName), uri
        assert what in told.what, (uri, told.what)
        assert hint in told.hint, (uri, told.hint)


def test_what_azure_refuses_is_told_with_what_to_do(
    azure: Azure, workspace: Workspace, tiny: HfModel, fetch: Fetch
) -> None:
    workspace.put_model("mine", "1", tiny.path)
    uri = f"{workspace.address}/models/mine/versions/1"
    for route, planted, what, hint in (
        ("models", [faults.FORBIDDEN], "may not read it (AuthorizationFailed)", "AzureML Data Scientist"),
        ("models", [faults.EXPIRED], "does not accept the credential (ExpiredAuthenticationToken)", "az login"),
        ("models", [faults.busy()] * 3, "asks for fewer requests, 3 times", "max_operation_retries"),
        ("models", [faults.UNAVAILABLE] * 3, "answers 503, 3 times", "run the same command again"),
        ("blobs", [faults.FORBIDDEN] * 2, "may not read it", "Storage Blob Data Reader"),
    ):
        azure.faults.plant("GET", route, *planted)
        told = failure(fetch, uri)
        assert isinstance(told, EnvironmentFault), route
        assert what in told.what, told.what
        assert hint in told.hint
        azure.faults.clear()
    azure.faults.plant("GET", "models", faults.busy(), faults.UNAVAILABLE)
    assert same_model(fetch(uri, options=NOW)[0], tiny)  # as many as it is patient


def test_a_blob_cut_for_good_and_one_that_is_damaged(azure: Azure, tiny: HfModel, fetch: Fetch) -> None:
    azure.blobs.put_folder("bad", "model", tiny.path)
    uri = f"https://loopbackaccount.blob.{azure.blobs.endpoint()}/bad/model"
    within = 3  # tries that azure-storage-blob makes by itself, a second apart
    azure.faults.plant("GET", "blobs", *[faults.Cut(100)] * 3 * within, containing="model.safetensors")
    assert "cuts the connection, 3 times" in failure(fetch, uri).what
    azure.blobs.put("bad", "model/config.json", b"{}", md5=b"0" * 16)
    assert "`config.json` did not arrive as it is stored" in failure(fetch, uri).what


def test_no_credential_is_told(azure: Azure, workspace: Workspace, fetch: Fetch) -> None:
    azure.identity.available = False
    azure_client._default_credential.cache_clear()
    told = failure(fetch, f"{workspace.address}/models/mine/versions/1")
    azure_client._default_credential.cache_clear()
    assert "no Azure credential" in told.what
    assert "az login" in told.hint


def test_what_is_no_model_and_a_pickle_are_refused(azure: Azure, mlflow_folder: Path, fetch: Fetch) -> None:
    azure.blobs.put("other", "folder/readme.txt", b"hello")
    uri = f"https://loopbackaccount.blob.{azure.blobs.endpoint()}/other/folder"
    assert isinstance(failure(fetch, uri), UnreadableModel)
    (mlflow_folder / "mlflow_model_folder" / "MLmodel").write_text("flavors: {pytorch: {model_data: data}}\n")
    azure.registries.put_model("shared", "pickled", "1", mlflow_folder)
    assert isinstance(failure(fetch, "azureml://registries/shared/models/pickled/versions/1"), Refused)


def test_a_name_that_leads_out_of_the_folder_is_refused(azure: Azure, fetch: Fetch) -> None:
    azure.blobs.put("evil", "model/../../../out.txt", b"gotcha")
    told = failure(fetch, f"https://loopbackaccount.blob.{azure.blobs.endpoint()}/evil/model")
    assert "has a name that is no file's" in told.what


def test_the_cloud_and_the_credential_can_be_given(
    azure: Azure, workspace: Workspace, tiny: HfModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in azure.variables.keys() - {"REQUESTS_CA_BUNDLE"}:
        monkeypatch.delenv(name)
    workspace.put_model("mine", "1", tiny.path)
    cloud = Cloud(str(azure.control.cloud()["name"]), azure.metadata)
    access = Access(folder=tmp_path, cloud=cloud, credential=azure.credential())
    source = AzureMlSource(uri=f"{workspace.address}/models/mine/versions/1", access=access)

    assert same_model(source.fetch(tmp_path / "out"), tiny)
    assert not azure.identity.asked


def test_offline_nothing_is_asked(azure: Azure, fetch: Fetch) -> None:
    with pytest.raises(EnvironmentFault, match="`--offline` forbids"):
        fetch("azureml://registries/shared/models/m/versions/1", offline=True)
    assert not azure.requests
