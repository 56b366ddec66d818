from __future__ import annotations

import socket
from pathlib import Path

import pytest

from loopback import faults
from loopback.cloud import Azure
from loopback.control import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 100)
    return tmp_path / "model"


def same(folder: Path, other: Path) -> bool:
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return bool(files) and all((folder / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_a_registry_model_is_downloaded(azure: Azure, folder: Path, tmp_path: Path) -> None:
    azure.registries.put_model("shared", "phi", "3", folder)
    azure.registries.put_model("shared", "phi", "4", folder)

    client = azure.client(registry="shared")

    assert client.models.get("phi", label="latest").version == "4"
    client.models.download("phi", "3", download_path=str(tmp_path / "out"))
    assert same(folder, tmp_path / "out" / "phi" / "model")


def test_a_workspace_model_is_registered_found_and_downloaded(
    azure: Azure, workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    client = azure.client(workspace)
    client.models.create_or_update(Model(path=str(folder), name="mine", version="1", type="custom_model"))

    assert [each.name for each in client.models.list()] == ["mine"]
    client.models.download("mine", "1", download_path=str(tmp_path / "out"))
    (found,) = (tmp_path / "out").rglob("config.json")
    assert same(folder, found.parent)


def test_a_gen2_datastore_is_served_by_the_same_blobs(azure: Azure, workspace: Workspace) -> None:
    from azure.storage.filedatalake import DataLakeServiceClient

    workspace.add_datastore("lake", kind="AzureDataLakeGen2", credentials="None")
    workspace.put_data("raw/rows.jsonl", b"{}\n", datastore="lake")
    lake = azure.client(workspace).datastores.get("lake")
    url = f"{lake.protocol}://{lake.account_name}.dfs.{lake.endpoint}"

    with DataLakeServiceClient(url, azure.credential()) as service:
        system = service.get_file_system_client(lake.filesystem)
        assert [path.name for path in system.get_paths("raw")] == ["raw/rows.jsonl"]
        assert system.get_file_client("raw/rows.jsonl").download_file().readall() == b"{}\n"


def test_a_secret_comes_by_managed_identity(azure: Azure) -> None:
    from azure.core.exceptions import ResourceNotFoundError
    from azure.identity import ManagedIdentityCredential
    from azure.keyvault.secrets import SecretClient

    azure.vaults.secrets["mine"] = {"hf-token": "hf_secret"}
    with ManagedIdentityCredential() as identity, SecretClient(azure.vaults.url("mine"), identity) as client:
        assert client.get_secret("hf-token").value == "hf_secret"
        with pytest.raises(ResourceNotFoundError, match="other"):
            client.get_secret("other")
    assert azure.identity.asked == [f"https://vault.localhost:{azure.server.port}"]


def test_planted_faults_are_answered_in_order_and_then_the_truth(azure: Azure, workspace: Workspace) -> None:
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    client = azure.client(workspace)
    azure.faults.plant("GET", "datastores", faults.busy(0), faults.UNAVAILABLE)
    assert client.datastores.get("workspaceblobstore").account_name
    assert len([each for each in azure.requests if each.path.endswith("/datastores/workspaceblobstore")]) == 3

    azure.faults.plant("GET", "datastores", faults.FORBIDDEN)
    with pytest.raises(HttpResponseError, match="authorization"):
        client.datastores.get("workspaceblobstore")
    azure.faults.plant("GET", "datastores", faults.EXPIRED)
    with pytest.raises(ClientAuthenticationError, match="expiry"):
        client.datastores.get("workspaceblobstore")


def test_no_other_name_is_looked_up(azure: Azure) -> None:
    with pytest.raises(OSError, match=r"refuses to look up management\.azure\.com"):
        socket.create_connection(("management.azure.com", 443))
