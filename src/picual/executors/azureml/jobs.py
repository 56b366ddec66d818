"""What is sent to Azure Machine Learning for one job, and what becomes of it there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from picual import fingerprint
from picual.errors import BadValue
from picual.executors.azureml.conda import adapted
from picual.executors.azureml.settings import AzureMlSettings
from picual.executors.wheel import requirements, write_wheel

ENDED = ("Completed", "Failed", "Canceled", "Cancelled")
BEGUN = ("Running", "Finalizing", *ENDED)
# The job's own steps: Picual out of its wheel, as what it requires is in the environment, then the job. ``exec``,
# so that a node which is taken back stops Picual itself.
COMMAND = (
    "python -m zipfile -e {wheel} picual-code && export PYTHONPATH=picual-code:$PYTHONPATH"
    " && exec python -m picual.executors.node ${{{{outputs.share}}}} {name} --cache ./node-cache"
)


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a job's environment is made from, and what was changed in the user's own file."""

    conda: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()


def environment_of(host: AzureMlSettings) -> Environment:
    """Return the conda specification of a host's jobs; None where an image or the workspace says it all.

    Raises:
        BadValue: The file is no conda specification.
    """
    if host.environment is not None or host.dockerfile is not None:
        return Environment(None)
    given: Mapping[str, Any] = {"name": "picual", "channels": ["conda-forge"], "dependencies": ["pip"]}
    if host.conda_file is not None:
        try:
            given = yaml.safe_load(Path(host.conda_file).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            told = " ".join(str(error).split())
            raise BadValue(f"the conda file is not YAML: {told}", where=host.conda_file) from error
        if not isinstance(given, Mapping):
            raise BadValue("the conda file is no mapping", where=host.conda_file, hint="`dependencies: [...]`")
    extras = ["gpu" if _has_gpu(host, given) else "cpu", "finetune", "qlora", "evaluate"]
    wanted = requirements(extras)
    if host.requirements is not None:
        lines = Path(host.requirements).read_text(encoding="utf-8").splitlines()
        wanted += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if host.keyvault_name is not None:
        wanted += ["azure-identity>=1.23", "azure-keyvault-secrets>=4.9"]
    specification, notes = adapted(given, wanted)
    return Environment(specification, tuple(notes))


def _has_gpu(host: AzureMlSettings, conda: Mapping[str, Any]) -> bool:
    text = f"{host.image} {yaml.safe_dump(dict(conda))}".lower()
    return "cuda" in text or "gpu" in text


def code_folder(state: Path) -> Path:
    """Return a folder with Picual's wheel in it, which is uploaded with every job and by its hash only once."""
    place = state / "azureml" / "code"
    wheel = write_wheel(place / "new")
    digest = fingerprint.file_digest(wheel)[:16]
    home = place / digest
    home.mkdir(exist_ok=True)
    wheel.replace(home / wheel.name)
    return home


def command_job(
    host: AzureMlSettings, environment: Environment, code: Path, name: str, title: str, folder: Path
) -> Any:
    """Return a command job as Azure's library takes it.

    Args:
        host: Its compute and all else that the recipe says.
        environment: See ``environment_of``.
        code: Folder with the wheel.
        name: Of the job in the share.
        title: As the studio shows it.
        folder: Of this machine, for the conda file.
    """
    from azure.ai.ml import Output, command
    from azure.ai.ml.constants import AssetTypes, InputOutputModes

    wheel = next(code.glob("*.whl")).name
    resources = dict(host.resources)
    kind = host.instance_type or resources.get("instance_type")
    share = f"azureml://datastores/{host.datastore}/paths/{host.folder}/"
    return command(
        code=str(code),
        command=COMMAND.format(wheel=wheel, name=name),
        environment=_environment(host, environment, folder),
        compute=host.compute,
        outputs={"share": Output(type=AssetTypes.URI_FOLDER, path=share, mode=InputOutputModes.RW_MOUNT)},
        environment_variables=_variables(host),
        display_name=title,
        experiment_name="picual",
        tags=dict(host.tags),
        instance_count=host.instance_count,
        instance_type=kind,
        identity=_identity(host),
    )


def _environment(host: AzureMlSettings, environment: Environment, folder: Path) -> Any:
    from azure.ai.ml.entities import BuildContext
    from azure.ai.ml.entities import Environment as AzureEnvironment

    if host.environment is not None:
        if host.environment_version is None:
            return f"{host.environment}@{host.environment_label or 'latest'}"
        return f"{host.environment}:{host.environment_version}"
    if host.dockerfile is not None:
        context = BuildContext(path=host.context, dockerfile_path=host.dockerfile)
        return AzureEnvironment(build=context)
    conda = folder / "conda.yaml"
    conda.write_text(yaml.safe_dump(dict(environment.conda or {}), sort_keys=False), encoding="utf-8")
    return AzureEnvironment(image=host.image, conda_file=str(conda))


def _variables(host: AzureMlSettings) -> dict[str, str]:
    """Return the job's environment variables: texts, as others go out unconverted; never a token."""
    variables = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    if host.hf_token and host.keyvault_name is not None:
        variables["PICUAL_KEYVAULT"] = host.keyvault_name
    return variables


def _identity(host: AzureMlSettings) -> Any:
    if not host.hf_token:
        return None
    from azure.ai.ml import ManagedIdentityConfiguration

    return ManagedIdentityConfiguration()
