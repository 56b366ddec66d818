"""Jobs on the loopback Azure, by Azure's own client library; and everything that goes wrong there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from loopback import faults
from loopback.cloud import Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from loopback.jobs import JobFate
from picual import fingerprint
from picual.errors import EnvironmentFault, JobLost, PicualError
from picual.executors import registry
from picual.executors.azureml.executor import REMOTE, AzureMlExecutor
from picual.executors.base import Executor
from picual.executors.host import Files, Surroundings
from picual.executors.job import Job
from picual.models import HfModel
from picual.testing.tiny import tiny_model

Start = Callable[..., Executor]


def files(path: Path) -> Files:
    return {
        file.relative_to(path).as_posix(): {"size": file.stat().st_size, "sha256": fingerprint.file_digest(file)}
        for file in fingerprint.files_under(path)
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job(tmp_path: Path, model: HfModel) -> Path:
    folder = tmp_path / "0123456789abcdef0123"
    payload = {"metric": "size", "fields": {}, "model": model.to_wire(), "target": {}, "data": {}}
    Job(kind="evaluate", label="size", payload=payload, reads=(str(model.path),)).write(folder)
    return folder


@pytest.fixture
def start(workspace: Workspace, tmp_path: Path) -> Start:
    """Make an executor on the loopback; options replace those of the host."""

    def make(**options: Any) -> Executor:
        given = {
            "compute": "cluster", "subscription_id": SUBSCRIPTION, "resource_group": GROUP,
            "workspace_name": workspace.name, "image": "an/image", "poll": 0.05, "max_operation_retries": 2,
            "operation_retry_interval": 0,
        }  # fmt: skip
        told: list[dict[str, Any]] = []
        around = Surroundings(
            state=tmp_path / "state",
            files=files,
            emit=lambda name, **values: told.append({"event": name, **values}),
        )
        return registry.build("azureml", given | options).executor(around)

    return make


def silent(_event: Mapping[str, Any]) -> None:
    return


def size_of(executor: Executor, job: Path) -> float:
    return float(executor.run(job, silent).value["values"]["size_mb"])


def test_a_job_does_there_what_it_does_here(
    start: Start, job: Path, workspace: Workspace, model: HfModel, azure: Azure
) -> None:
    size = size_of(start(), job)

    ran = workspace.jobs.last()
    assert size == pytest.approx(sum(f.stat().st_size for f in model.path.glob("*.safetensors")) / 1e6, rel=0.2)
    assert ran.exit_code == 0
    assert "jobs/0123456789abcdef0123/result.json" in ran.files["share"]
    assert "python=3.11" in ran.environment["condaFile"]
    assert str(model.path) not in ran.command
    assert not workspace.blobs.under(workspace.container("workspaceblobstore"), "picual/jobs")


def test_what_is_there_is_not_sent_again(start: Start, job: Path, azure: Azure, model: HfModel) -> None:
    executor = start()
    size_of(executor, job)
    azure.requests.clear()
    Job.read(job).write(job)

    size_of(start(), job)

    sent = [one.path for one in azure.requests if one.method == "PUT" and "/blobs/" in one.path]
    assert sent == []


def test_options_reach_the_job(start: Start, job: Path, workspace: Workspace) -> None:
    workspace.attach_kubernetes("arc", instance_types=("large",))

    size_of(start(compute="arc", instance_type="large", instance_count=2, tags={"team": "one"}), job)

    properties = workspace.jobs.last().properties
    assert properties["resources"]["instanceType"] == "large"
    assert properties["resources"]["instanceCount"] == 2
    assert properties["tags"]["team"] == "one"


@pytest.mark.parametrize(("options", "said", "hint"), [
    ({"compute": "clustre"}, "no compute `clustre`", "`cluster`"),
    ({"subscription_id": "22222222-2222-2222-2222-222222222222"}, "SubscriptionNotFound", "az account list"),
    ({"workspace_name": "nobodys"}, "no such workspace", "az ml workspace list"),
    ({"datastore": "workspaceblob"}, "no datastore `workspaceblob`", "workspaceblobstore"),
])  # fmt: skip
def test_what_is_not_there_is_named_before_anything_is_sent(
    start: Start, options: dict[str, Any], said: str, hint: str, workspace: Workspace
) -> None:
    with pytest.raises(PicualError) as caught:
        start(**options)

    assert said in caught.value.what
    assert hint in caught.value.hint
    assert workspace.jobs.by_name == {}


@pytest.mark.parametrize(("fault", "said"), [
    (faults.QUOTA, "quota"), (faults.FORBIDDEN, "may not write"),
    (faults.EXPIRED, "does not accept the credential"),
])  # fmt: skip
def test_a_job_that_is_refused_is_refused_with_its_reason(
    start: Start, job: Path, azure: Azure, fault: faults.Status, said: str
) -> None:
    executor = start()
    azure.faults.plant("PUT", "jobs", *[fault] * 3)

    with pytest.raises(EnvironmentFault) as caught:
        executor.run(job, silent)

    assert said in caught.value.what
    assert caught.value.hint != "check the address"
    azure.faults.clear()
    assert size_of(executor, job) > 0  # the run can go on


def test_a_storm_that_passes_is_sat_out_and_one_that_does_not_is_named(
    start: Start, job: Path, azure: Azure, workspace: Workspace
) -> None:
    executor = start()
    azure.faults.plant("PUT", "jobs", faults.busy(), faults.UNAVAILABLE)
    azure.faults.plant("GET", "jobs", faults.UNAVAILABLE, faults.busy())

    assert size_of(executor, job) > 0
    assert len(workspace.jobs.by_name) == 1  # a repeated request is still one job

    Job.read(job).write(job)
    azure.faults.plant("PUT", "jobs", *[faults.UNAVAILABLE] * 3)
    with pytest.raises(EnvironmentFault, match="3 times in a row"):
        executor.run(job, silent)


def test_a_job_that_never_begins_is_cancelled_and_named(start: Start, job: Path, workspace: Workspace) -> None:
    workspace.jobs.fates.append(JobFate(stuck=True))

    with pytest.raises(EnvironmentFault, match="has not begun after") as caught:
        start(start_minutes=0.002).run(job, silent)

    assert workspace.jobs.last().cancelled.is_set()
    assert "quota" in caught.value.hint


def test_a_blob_that_is_cut_is_fetched_on(start: Start, job: Path, azure: Azure) -> None:
    executor = start()
    azure.faults.plant("GET", "blobs", faults.Cut(5), containing="result.json")

    assert size_of(executor, job) > 0


def test_a_node_that_is_taken_back_goes_on_with_the_same_job(
    start: Start, job: Path, workspace: Workspace
) -> None:
    workspace.jobs.fates.append(JobFate(preempt_when=lambda outputs: any(outputs.rglob("parcel.json"))))

    size = size_of(start(), job)

    assert size > 0
    assert workspace.jobs.last().exit_codes[-1] == 0
    assert len(workspace.jobs.last().exit_codes) == 2


def test_a_driver_that_comes_back_waits_for_the_job_it_left(start: Start, job: Path, workspace: Workspace) -> None:
    workspace.jobs.fates.append(JobFate(queued=1.0))
    first = start(poll=3600)  # looks once, as one that is killed then: two at once would fetch into one file
    threading.Thread(target=lambda: first.run(job, silent), daemon=True).start()
    while not (job / REMOTE).exists():
        time.sleep(0.02)
    left = (job / REMOTE).read_text()

    again = start()
    assert isinstance(again, AzureMlExecutor)

    assert size_of(again, job) > 0
    assert list(workspace.jobs.by_name) == [json.loads(left)["job"]]


def test_a_result_that_came_while_nobody_waited_is_fetched_without_a_job(
    start: Start, job: Path, workspace: Workspace, azure: Azure
) -> None:
    executor = start()
    azure.faults.plant("GET", "jobs", *[faults.UNAVAILABLE] * 3)
    with pytest.raises(EnvironmentFault):
        executor.run(job, silent)
    (job / REMOTE).unlink()
    while workspace.jobs.last().status != "Completed":
        time.sleep(0.05)

    assert size_of(executor, job) > 0
    assert len(workspace.jobs.by_name) == 1


def test_a_job_that_breaks_says_what_it_printed_last(start: Start, job: Path, workspace: Workspace) -> None:
    workspace.jobs.compute.prepare = lambda environment: {"PATH": "/nowhere"}  # type: ignore[union-attr]
    executor = start()
    try:
        with pytest.raises(JobLost, match="ended as Failed without a result") as caught:
            executor.run(job, silent)
    finally:
        from loopback.environments import shared_python

        workspace.jobs.compute.prepare = shared_python  # type: ignore[union-attr]

    assert "command not found" in caught.value.what or "No such file" in caught.value.what


def test_the_hubs_token_goes_from_the_vault_to_the_worker_and_nowhere_else(
    start: Start, job: Path, workspace: Workspace, azure: Azure, tmp_path: Path
) -> None:
    token = "hf_PlantedTokenThatNobodyMaySee0123456789"
    azure.vaults.secrets["vault"] = {"hf-token": token}

    size_of(start(hf_token=True, keyvault_name=azure.vaults.url("vault")), job)

    assert any("/secrets/hf-token" in one.path for one in azure.requests)
    ran = workspace.jobs.last()
    assert token not in json.dumps(ran.properties, default=str)
    assert token not in ran.command + str(ran.variables) + workspace.jobs.log(ran.name)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in kept if token.encode() in file.read_bytes()]


def test_a_vault_without_the_secret_is_named_with_the_command_that_puts_it_there(
    start: Start, job: Path, azure: Azure
) -> None:
    azure.vaults.secrets["vault"] = {}

    result = start(hf_token=True, keyvault_name=azure.vaults.url("vault")).run(job, silent)

    assert result.error is not None
    assert "does not give the secret `hf-token`" in result.error["what"]
    assert "az keyvault secret set" in result.error["hint"]
