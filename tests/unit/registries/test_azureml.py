"""A model becomes a version in a workspace of the loopback Azure, by Azure's own client libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback import faults
from loopback.cloud import Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from picual import fingerprint
from picual.errors import BadValue, EnvironmentFault, PicualError, StepFailed
from picual.registries.azureml import KEY, AzureMlModels
from picual.registries.base import FinishedModel, Registered

Make = Callable[..., AzureMlModels]
LINEAGE = {"picual_source": "owner/name", "picual_verified": "true"}
WEIGHTS = bytes(range(256)) * 100


@pytest.fixture
def model(tmp_path: Path) -> FinishedModel:
    return finished(tmp_path / "out" / "model", "a" * 64, {"config.json": b"{}", "deep/weights.bin": WEIGHTS})


def finished(folder: Path, key: str, contents: dict[str, bytes]) -> FinishedModel:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    files = {
        name: {"size": len(content), "sha256": fingerprint.file_digest(folder / name)}
        for name, content in contents.items()
    }
    return FinishedModel(folder=folder, files=files, key=key, lineage=LINEAGE)


@pytest.fixture
def make(workspace: Workspace) -> Make:
    """Make a registry of the workspace; options replace its own."""

    def made(**options: Any) -> AzureMlModels:
        given = {
            "name": "phi3-tone", "subscription_id": SUBSCRIPTION, "resource_group": GROUP,
            "workspace_name": workspace.name, "max_operation_retries": 2, "operation_retry_interval": 0,
        }  # fmt: skip
        return AzureMlModels(**given | options)

    return made


def quietly(_done: int, _total: int) -> None:
    return


def written(azure: Azure) -> list[str]:
    return [one.path for one in azure.requests if one.method == "PUT"]


def test_a_model_becomes_a_version_that_azure_gives_back_whole(
    make: Make, model: FinishedModel, azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []

    found = make(description="small", tags={"team": "one"}).register(model, lambda *sent: told.append(sent))

    address = f"{workspace.address}/models/phi3-tone/versions/1"
    assert found == Registered(name="phi3-tone", version="1", address=address, new=True)
    client = azure.client(workspace)
    kept = client.models.get("phi3-tone", version="1")
    assert (kept.type, kept.description) == ("custom_model", "small")
    assert kept.tags == {"team": "one", KEY: model.key}
    assert kept.properties == {KEY: model.key, **LINEAGE}
    client.models.download("phi3-tone", "1", download_path=str(tmp_path / "back"))
    for name in model.files:
        (back,) = (tmp_path / "back").rglob(name)
        assert back.read_bytes() == (model.folder / name).read_bytes()
    assert told[-1] == (len(WEIGHTS) + 2, len(WEIGHTS) + 2)
    assert azure.server.errors == []


def test_the_same_model_is_found_and_not_registered_again(make: Make, model: FinishedModel, azure: Azure) -> None:
    first = make().register(model, quietly)
    azure.requests.clear()

    again = make(version="7").register(model, quietly)

    assert (again.version, again.new) == (first.version, False)
    assert written(azure) == []


def test_another_model_gets_the_next_version_and_sends_only_its_own_files(
    make: Make, model: FinishedModel, tmp_path: Path, azure: Azure
) -> None:
    make().register(model, quietly)
    other = finished(tmp_path / "other" / "model", "b" * 64, {"config.json": b"[]", "deep/weights.bin": WEIGHTS})

    assert make().register(other, quietly).version == "2"
    assert (
        make(version=9).register(finished(tmp_path / "c" / "model", "c" * 64, {"a": b"a"}), quietly).version == "9"
    )


def test_a_version_that_is_another_model_is_refused_with_one_that_is_free(
    make: Make, model: FinishedModel, workspace: Workspace, azure: Azure, tmp_path: Path
) -> None:
    workspace.put_model("phi3-tone", "3", model.folder)

    with pytest.raises(BadValue, match="has a version `3` already") as caught:
        make(version="3").register(model, quietly)

    assert "--set register.version=4" in caught.value.hint
    assert caught.value.where == f"{workspace.address}/models/phi3-tone"
    assert written(azure) == []


def test_a_version_that_somebody_else_makes_meanwhile_is_refused_too(
    make: Make, model: FinishedModel, workspace: Workspace, tmp_path: Path
) -> None:
    def meanwhile(done: int, total: int) -> None:
        if done == total:
            workspace.put_model("phi3-tone", "3", model.folder)

    with pytest.raises(BadValue, match="has a version `3` already"):
        make(version="3").register(model, meanwhile)


def test_an_mlflow_folder_is_registered_as_one(make: Make, workspace: Workspace, tmp_path: Path) -> None:
    model = finished(tmp_path / "out" / "model", "d" * 64, {"MLmodel": b"flavors: {}"})

    make().register(model, quietly)

    stored = workspace.assets.properties("models", "phi3-tone", "1")
    assert stored is not None
    assert stored["modelType"] == "mlflow_model"


@pytest.mark.parametrize(("method", "route", "fault", "said", "hint"), [
    ("GET", "models", faults.FORBIDDEN, "may not read it", "AzureML Data Scientist"),
    ("GET", "models", faults.EXPIRED, "does not accept the credential", "az login"),
    ("PUT", "models", faults.FORBIDDEN, "may not write it", "AzureML Data Scientist"),
    ("PUT", "blobs", faults.FORBIDDEN, "may not write it", "Storage Blob Data Contributor"),
    ("PUT", "blobs", faults.UNAVAILABLE, "3 times in a row", "run the same command again"),
])  # fmt: skip
def test_a_refusal_says_what_is_missing_and_the_next_attempt_goes_on(
    make: Make, model: FinishedModel, azure: Azure, workspace: Workspace,
    method: str, route: str, fault: faults.Status, said: str, hint: str,
) -> None:  # fmt: skip
    azure.faults.plant(method, route, *[fault] * 12, containing="weights.bin" if route == "blobs" else "")

    with pytest.raises(EnvironmentFault) as caught:
        make().register(model, quietly)

    assert said in caught.value.what
    assert hint in caught.value.hint
    assert workspace.name in caught.value.where
    assert workspace.assets.versions["models"] == {}
    azure.faults.clear()
    azure.requests.clear()
    assert make().register(model, quietly).version == "1"
    assert not [path for path in written(azure) if "config.json" in path and route == "blobs"]


def test_a_storm_that_passes_is_sat_out(
    make: Make, model: FinishedModel, azure: Azure, workspace: Workspace
) -> None:
    for method, route in (("GET", "models"), ("PUT", "models"), ("PUT", "blobs"), ("GET", "containers")):
        azure.faults.plant(method, route, faults.busy(), faults.UNAVAILABLE)

    assert make().register(model, quietly).version == "1"
    assert list(workspace.assets.versions["models"]["phi3-tone"]) == ["1"]


def test_a_signature_that_ran_out_is_renewed(make: Make, model: FinishedModel, azure: Azure) -> None:
    def revoke_once(done: int, total: int) -> None:
        if done < total:
            azure.blobs.revoke()

    assert make().register(model, revoke_once).new


@pytest.mark.parametrize(("options", "said", "hint"), [
    ({"workspace_name": "nobodys"}, "no such workspace", "az ml workspace list"),
    ({"subscription_id": "22222222-2222-2222-2222-222222222222"}, "SubscriptionNotFound", "az account list"),
    ({"datastore": "workspaceblob"}, "no datastore `workspaceblob`", "workspaceblobstore"),
])  # fmt: skip
def test_what_is_not_there_is_named(
    make: Make, model: FinishedModel, options: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(PicualError) as caught:
        make(**options).register(model, quietly)

    assert said in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", [b"?" * len(WEIGHTS), None])
def test_a_file_that_is_not_what_was_verified_is_not_registered(
    make: Make, model: FinishedModel, azure: Azure, content: bytes | None, workspace: Workspace
) -> None:
    file = model.folder / "deep" / "weights.bin"
    file.write_bytes(content) if content is not None else file.unlink()

    with pytest.raises(StepFailed, match=r"`deep/weights.bin` is not what was verified") as caught:
        make().register(model, quietly)

    assert str(model.folder) in caught.value.hint
    assert workspace.assets.versions["models"] == {}


@pytest.mark.parametrize(("options", "said"), [
    ({"name": "phi 3/tone"}, "`name` is `phi 3/tone`"),
    ({"version": "1:2"}, "`version` is `1:2`"),
    ({"tags": {KEY: "mine"}}, f"`tags` holds `{KEY}`"),
    ({"workspace_name": None}, "it needs `host`"),
])  # fmt: skip
def test_what_azure_would_refuse_is_refused_before(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValue) as caught:
        make(**options)

    assert said in caught.value.what
    assert caught.value.hint


def test_the_workspace_may_be_named_by_its_own_file(
    make: Make, model: FinishedModel, workspace: Workspace, tmp_path: Path
) -> None:
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    (tmp_path / "config.json").write_text(json.dumps(names))

    found = make(
        subscription_id=None,
        resource_group=None,
        workspace_name=None,
        aml_config_path=str(tmp_path / "config.json"),
    ).register(model, quietly)

    assert found.address.startswith(workspace.address)
