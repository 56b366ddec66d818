from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from loopback import faults
from loopback.cloud import Azure
from loopback.control import Workspace
from loopback.jobs import FINISHED, JobFate

CONDA = {"name": "job", "channels": [], "dependencies": ["python=3.11", {"pip": ["pyyaml"]}]}


def submitted(azure: Azure, workspace: Workspace, folder: Path, line: str, **given: Any) -> tuple[Any, str]:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment

    client = azure.client(workspace)
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "main.py").write_text("import os, sys\nprint('said', os.environ['WORD'], sys.argv[1:])\n")
    job = command(
        code=str(folder / "code"), command=line, compute="cluster",
        environment=Environment(image="loopback/image", conda_file=CONDA),
        environment_variables={"WORD": "hello"}, **given,
    )  # fmt: skip
    return client, str(client.jobs.create_or_update(job).name)


def finished(client: Any, name: str) -> str:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        status = client.jobs.get(name).status
        if status in FINISHED:
            return str(getattr(status, "value", status))
        time.sleep(0.1)
    raise AssertionError(f"{name} does not end: {status}")


def test_a_job_runs_its_command_and_its_output_comes_back(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    from azure.ai.ml import Input, Output

    (tmp_path / "rows.txt").write_text("one row\n")
    there = workspace.put_data("in/model/weights.bin", b"\0" * 1000)
    client, name = submitted(
        azure, workspace, tmp_path,
        "python main.py --flag && cat ${{inputs.rows}} > ${{outputs.result}}/copy.txt"
        " && ls -l ${{inputs.model}} > ${{outputs.result}}/list.txt",
        inputs={"rows": Input(type="uri_file", path=str(tmp_path / "rows.txt")),
                "model": Input(type="uri_folder", path=there.rpartition("/")[0])},
        outputs={"result": Output(type="uri_folder")},
    )  # fmt: skip

    assert finished(client, name) == "Completed", (workspace.jobs.last(), azure.server.errors)
    client.jobs.download(name, output_name="result", download_path=str(tmp_path / "home"))
    client.jobs.download(name, download_path=str(tmp_path / "home"))

    home = tmp_path / "home"
    assert (home / "named-outputs" / "result" / "copy.txt").read_text() == "one row\n"
    assert " 1000 " in (home / "named-outputs" / "result" / "list.txt").read_text()
    assert "said hello ['--flag']" in (home / "artifacts" / "user_logs" / "std_log.txt").read_text()
    job = workspace.jobs.last()
    assert job.statuses == ["Queued", "Preparing", "Running", "Completed"]
    assert (job.exit_code, job.files) == (0, {"result": ["copy.txt", "list.txt"]})
    assert job.environment_variables == {"WORD": "hello"}
    assert job.environment["image"] == "loopback/image"
    assert "pyyaml" in job.environment["condaFile"]
    assert not azure.server.errors
    recorded = [(each.method, each.path.rpartition("/workspaces/W")[2]) for each in azure.requests]
    assert ("PUT", f"/jobs/{name}") in recorded
    assert all(each.api_version for each in azure.requests if "/workspaces/W/jobs/" in each.path)


def test_a_failing_job_says_its_exit_code_and_keeps_its_log(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    client, name = submitted(azure, workspace, tmp_path, "echo about to fail; exit 7")

    assert finished(client, name) == "Failed"
    assert workspace.jobs.last().exit_code == 7
    assert workspace.jobs.log(name) == "about to fail\n"


def test_a_cancelled_job_ends_its_process(azure: Azure, workspace: Workspace, tmp_path: Path) -> None:
    client, name = submitted(azure, workspace, tmp_path, "echo $$ ; sleep 60")
    job = workspace.jobs.last()
    while "Running" not in job.statuses:
        time.sleep(0.02)

    client.jobs.begin_cancel(name).result()

    assert finished(client, name) == "Canceled"
    assert job.exit_code == -9


def test_a_preempted_job_starts_anew_on_the_outputs_it_had(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    from azure.ai.ml import Output

    workspace.jobs.fates.append(JobFate(preempt_when=lambda outputs: (outputs / "result" / "first").exists()))
    line = "cd ${{outputs.result}} && if [ -e first ]; then touch second; else touch first; sleep 60; fi"
    client, name = submitted(azure, workspace, tmp_path, line, outputs={"result": Output(type="uri_folder")})

    assert finished(client, name) == "Completed"
    assert workspace.jobs.last().exit_codes == [-9, 0]
    assert workspace.jobs.last().files == {"result": ["first", "second"]}


def test_a_job_stuck_in_its_queue_stays_there_until_it_is_cancelled(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    workspace.jobs.fates.append(JobFate(stuck=True))
    client, name = submitted(azure, workspace, tmp_path, "true")

    assert client.jobs.get(name).status == "Queued"
    client.jobs.begin_cancel(name).result()
    assert finished(client, name) == "Canceled"


def test_an_unknown_compute_and_no_quota_are_refused_at_submission(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="nowhere"):
        azure.client(workspace).compute.get("nowhere")
    workspace.attach_kubernetes("arc", instance_types=("gpu",))
    assert azure.client(workspace).compute.get("arc").type == "kubernetes"
    assert azure.client(workspace).compute.get("cluster").size == "STANDARD_NC6S_V3"
    azure.faults.plant("PUT", "jobs", faults.QUOTA)
    with pytest.raises(HttpResponseError, match="vCPU quota"):
        submitted(azure, workspace, tmp_path, "true")
