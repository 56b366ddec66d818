"""The seed's two systems on an Azure of this machine: its own client library, jobs that run, the same gate."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from loopback.cloud import GUARD, Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from loopback.server import Recorded
from picual import api
from picual.testing.tiny import tiny_model

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "azureml.md"
MODEL = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/11"  # as the guide has them
IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04:latest"
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
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
DOCUMENTED = (
    "computes",
    "datastores",
    "codes",
    "environments",
    "jobs",
    "models",
)  # requests, as the guide lists them
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
    config["packaging_config"] = {
        "type": "AzureMLModels", "name": "phi3-tone", "config": {"version": 7, "description": "tones"},
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
    assert len(jobs) == 1, "steps, what they prepare and their checks are one job"
    for job in jobs:
        assert (job.status, job.exit_code) == ("Completed", 0)
        assert job.properties["computeId"].endswith("cluster" if system == "aml" else "arc")
        assert job.environment["image"] == "mcr.microsoft.com/azureml/curated:1"
        assert "python=3.11" in job.environment["condaFile"]
        assert "ort-nightly" not in job.environment["condaFile"]
        assert any(name.endswith("/result.json") for name in job.files["share"])
        assert all(isinstance(value, str) for value in job.environment_variables.values())
    version = azure.client(workspace).models.get("phi3-tone", version="7")
    assert version.properties["picual_step_1"].startswith("lora (lora) ")
    assert report["registered"]["address"] == f"{workspace.address}/models/phi3-tone/versions/7"
    assert "python=3.8.13" in ended.stderr  # each change of the user's file is told
    assert any("/secrets/hf-token" in one.path for one in azure.requests) == (system == "aml")
    if system == "aml":
        assert api.generate(tmp_path / "out" / "model", "hello", max_new_tokens=2, raw=True)
    told = ended.stderr + ended.stdout + json.dumps([job.properties for job in jobs], default=str)
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert TOKEN not in told + "".join(workspace.jobs.log(job.name) for job in jobs)
    assert not [file for file in kept if TOKEN.encode() in file.read_bytes()]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A workspace in which the guide is followed: of the loopback, or of whoever runs ``make live-azure``."""

    config: str  # the workspace's own `config.json`
    words: Mapping[str, str]  # of the guide's recipes, and what stands for them
    variables: Mapping[str, str]  # of the commands' environment
    requests: Sequence[Recorded] | None  # None: nobody can tell


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return live() if os.environ.get("PICUAL_AZURE_LIVE") else loopback(request, tmp_path)


def live() -> Place:
    """The workspace that the environment names."""
    compute = os.environ["PICUAL_AZURE_COMPUTE"]
    words = {
        MODEL: os.environ.get("PICUAL_AZURE_MODEL") or SMALL, "compute: cluster": f"compute: {compute}",
        IMAGE: os.environ.get("PICUAL_AZURE_IMAGE") or IMAGE, "name: phi3-int4": "name: picual-live-test",
    }  # fmt: skip
    return Place(
        config=Path(os.environ["PICUAL_AZURE_CONFIG"]).read_text(), words=words, variables={}, requests=None
    )


def loopback(request: pytest.FixtureRequest, folder: Path) -> Place:
    """A workspace of the Azure on this machine."""
    azure: Azure = request.getfixturevalue("azure")
    workspace: Workspace = request.getfixturevalue("workspace")
    azure.registries.put_model("azureml", "Phi-3-mini-4k-instruct", "11", tiny_model(folder / "there").path)
    return Place(
        config=config_of(workspace), words={"compute: cluster": "compute: cluster\n    poll: 0.1"},
        variables={**azure.variables, "PYTHONPATH": str(GUARD)}, requests=azure.requests,
    )  # fmt: skip


def config_of(workspace: Workspace) -> str:
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    return json.dumps(names)


def test_the_guide_is_as_it_says(place: Place, tmp_path: Path, follow: Callable[..., list[str]]) -> None:
    (tmp_path / "config.json").write_text(place.config)
    (tmp_path / "conda.yaml").write_text("channels: [conda-forge]\ndependencies: [python=3.11, pip]\n")
    text = GUIDE.read_text()
    (registering,) = re.findall(r"```yaml\n(register:.*?)```", text, re.DOTALL)

    follow("azureml", {"output: out\n": f"output: out\n{registering}", **place.words}, place.variables)

    report = api.report(tmp_path / "out")
    assert [step["made_in"]["host"] for step in report["steps"]] == ["aml", "local"]
    assert report["verdict"] == "verified"
    registered = report["registered"]
    back = api.fetch(registered["address"], store=tmp_path / "back")
    model = tmp_path / "out" / "model"
    assert {file.name: file.read_bytes() for file in back.iterdir()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }
    if place.requests is not None:
        assert (registered["name"], registered["version"], registered["new"]) == ("phi3-int4", "1", True)
        for kind in DOCUMENTED:
            assert any(f"/{kind}/" in one.path for one in place.requests), kind
            assert f"{kind}/" in text


def test_live_azure_says_what_to_set_before_it_does_anything(tmp_path: Path) -> None:
    unset = {name: value for name, value in os.environ.items() if not name.startswith("PICUAL_AZURE")}
    config = tmp_path / "config.json"
    config.write_text("{}")

    for given, said in (({}, "set PICUAL_AZURE_CONFIG to"),
                        ({"PICUAL_AZURE_CONFIG": str(config)}, "set PICUAL_AZURE_COMPUTE to")):  # fmt: skip
        ended = subprocess.run(
            ["make", "live-azure"], capture_output=True, text=True, check=False, cwd=ROOT, env=unset | given
        )
        assert ended.returncode != 0
        assert said in ended.stderr


def test_live_azure_runs_in_the_workspace_that_it_is_given(
    azure: Azure, workspace: Workspace, tmp_path: Path
) -> None:
    """The loopback stands for the service; the process that is started knows only what a user would set."""
    (tmp_path / "config.json").write_text(config_of(workspace))
    live = {
        "PICUAL_AZURE_LIVE": "1", "PICUAL_AZURE_CONFIG": str(tmp_path / "config.json"),
        "PICUAL_AZURE_COMPUTE": "cluster", "PICUAL_AZURE_MODEL": str(tiny_model(tmp_path / "tiny").path),
    }  # fmt: skip
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "guide"]
    environment = {**os.environ, **azure.variables, "PYTHONPATH": str(GUARD), **live}

    ended = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)

    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "1 passed" in ended.stdout
    assert list(workspace.assets.versions["models"]) == ["picual-live-test"]
