"""The seed's two systems on an Azure of this machine: its own client library, jobs that run, the same gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loopback.cloud import GUARD, Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from picual import api
from picual.testing.tiny import tiny_model

SEED = Path(__file__).parents[1] / "unit" / "recipe" / "olive" / "configs" / "seed-local.json"
CONDA = """
name: project_environment
channels:
  - defaults
dependencies:
  - python=3.8.13
  - pip=22.3.1
  - pip:
      - einops
      - accelerate
      - azure-keyvault-secrets
      - azure-identity
      - bitsandbytes
      - datasets
      - peft
      - torch>=2.2.0
      - transformers
      - git+https://github.com/microsoft/Olive@jiapli/mlflow_loading_fix#egg=olive-ai[gpu]
      - --extra-index-url https://aiinfra.pkgs.visualstudio.com/PublicPackages/_packaging/ORT-Nightly/pypi/simple/
      - ort-nightly-gpu==1.18.0.dev20240307004
      - onnxruntime-genai-cuda
"""
DOCUMENTED = ("computes", "datastores", "codes", "environments", "jobs")  # requests, as the guide lists them
TOKEN = "hf_PlantedTokenThatNobodyMaySee0123456789"

EVERYTHING = bool(os.environ.get("PICUAL_EVERYTHING"))  # `make bench` sets it

Picual = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def picual(azure: Azure, tmp_path: Path) -> Picual:
    """Run the command as a user of this cloud would, in a folder of its own."""

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **azure.variables, "PYTHONPATH": str(GUARD)}
        command = [sys.executable, "-m", "picual.cli.main", *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert ended.returncode == code, ended.stderr[-4000:]
        return ended

    return run


def seed(azure: Azure, workspace: Workspace, folder: Path, system: str) -> Path:
    """Write the seed's config with its blocks for a model and data in Azure, its placeholders filled in."""
    model = folder / "mlflow_model_folder"
    tiny_model(model / "data" / "model", layout="phi3")
    (model / "MLmodel").write_text("flavors:\n  hftransformersv2:\n    model_data: data\n")
    azure.registries.put_model("azureml-msr", "Phi-3-mini-4k-instruct", "11", model, kind="mlflow_model")
    rows = [{"phrase": f"phrase {n} of joy", "tone": "joy"} for n in range(20)]
    workspace.put_data("tone/train.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    config = json.loads(SEED.read_text())
    client = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    config["azureml_client"] = {**client, "keyvault_name": azure.vaults.url("vault")}
    config["input_model"]["config"] = {
        "model_path": {
            "type": "azureml_registry_model",
            "config": {"name": "Phi-3-mini-4k-instruct", "registry_name": "azureml-msr", "version": "11"},
        },
        "model_file_format": "PyTorch.MLflow",
        "hf_config": {"model_name": "microsoft/Phi-3-mini-4k-instruct", "task": "text-generation"},
    }
    data = config["data_configs"][0]["load_dataset_config"]["params"]
    data["data_files"] = {
        "type": "azureml_datastore",
        "config": {"azureml_client": client, "datastore_name": "workspaceblobstore",
                   "relative_path": "tone/train.jsonl"},
    }  # fmt: skip
    (folder / "conda.yaml").write_text(CONDA)
    for name in ("aml", "azure_arc"):
        own = config["systems"][name]["config"]
        own["aml_compute"] = "cluster" if name == "aml" else "arc"
        own["aml_docker_config"] = {
            "base_image": "mcr.microsoft.com/azureml/curated:1",
            "conda_file_path": "conda.yaml",
        }
    config["engine"] |= {"host": system, "target": system}
    if system == "azure_arc" and not EVERYTHING:  # its training alone: what follows is the other system's, too
        config["passes"] = {"lora": config["passes"]["lora"]}
    workspace.attach_kubernetes("arc")
    azure.vaults.secrets["vault"] = {"hf-token": TOKEN}
    file = folder / "olive-config.json"
    file.write_text(json.dumps(config))
    return file


@pytest.mark.parametrize("system", ["aml", "azure_arc"])
def test_the_seeds_system_runs_from_end_to_end(
    azure: Azure,
    workspace: Workspace,
    tmp_path: Path,
    picual: Picual,
    system: str,
) -> None:
    config = seed(azure, workspace, tmp_path, system)
    short = ["--set", "passes.lora.training.max_steps=3", "--set", "data.dataset_default_train.max_length=64"]

    ended = picual(
        "run", "--config", config.name, "--target", "cpu", "--set", f"hosts.{system}.poll=0.1", *short,
        "-o", "out", "--store", "store",
    )  # fmt: skip

    report = api.report(tmp_path / "out")
    assert report["verdict"] == "verified"
    assert [step["made_in"]["host"] for step in report["steps"]] == [system] * len(report["steps"])
    jobs = list(workspace.jobs.by_name.values())
    assert len(jobs) == len(report["steps"]), "a step, what it prepares and its checks are one job"
    for job in jobs:
        assert (job.status, job.exit_code) == ("Completed", 0)
        assert job.properties["computeId"].endswith("cluster" if system == "aml" else "arc")
        assert job.environment["image"] == "mcr.microsoft.com/azureml/curated:1"
        assert "python=3.11" in job.environment["condaFile"]
        assert "ort-nightly" not in job.environment["condaFile"]
        assert any(name.endswith("/result.json") for name in job.files["share"])
        assert all(isinstance(value, str) for value in job.environment_variables.values())
    assert "python=3.8.13" in ended.stderr  # each change of the user's file is told
    assert any("/secrets/hf-token" in one.path for one in azure.requests) == (system == "aml")
    if len(jobs) == 3:
        assert api.generate(tmp_path / "out" / "model", "hello", max_new_tokens=2, raw=True)
    told = ended.stderr + ended.stdout + json.dumps([job.properties for job in jobs], default=str)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert TOKEN not in told + "".join(workspace.jobs.log(job.name) for job in jobs)
    assert not [file for file in kept if TOKEN.encode() in file.read_bytes()]


def test_the_guide_is_as_it_says(
    azure: Azure, workspace: Workspace, tmp_path: Path, follow: Callable[..., list[str]]
) -> None:
    azure.registries.put_model("azureml", "Phi-3-mini-4k-instruct", "11", tiny_model(tmp_path / "there").path)
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    (tmp_path / "config.json").write_text(json.dumps(names))
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.11, pip]\n")

    follow("azureml", {"    compute: cluster": "    compute: cluster\n    poll: 0.1"},
           {**azure.variables, "PYTHONPATH": str(GUARD)})  # fmt: skip

    report = api.report(tmp_path / "out")
    assert [step["made_in"]["host"] for step in report["steps"]] == ["aml", "local"]
    assert report["verdict"] == "verified"
    for kind in DOCUMENTED:
        assert any(f"/{kind}/" in one.path for one in azure.requests), kind
        assert f"{kind}/" in (Path(__file__).parents[2] / "docs" / "guides" / "azureml.md").read_text()
