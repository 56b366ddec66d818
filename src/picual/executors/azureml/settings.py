"""What a recipe says of a host on Azure Machine Learning, and what of it is part of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual import fingerprint
from picual.errors import BadValue, EnvironmentFault, PicualError
from picual.executors.host import Host
from picual.hardware import Machine
from picual.space import Settings, param

_MODULES = ("azure.ai.ml", "azure.identity", "azure.storage.blob")


@dataclass(frozen=True, kw_only=True)
class AzureMlSettings(Host):
    """A compute of a workspace, and the environment that jobs get there."""

    kind: ClassVar[str] = "azureml"
    imports: ClassVar[tuple[str, ...]] = _MODULES
    extra: ClassVar[str] = "azureml"
    elsewhere: ClassVar[bool] = True
    gathers: ClassVar[bool] = True

    compute: str | None = param(None, help="Name of a compute cluster, or of an attached Kubernetes (Arc) one.")
    subscription_id: str | None = param(None, help="Of the workspace.")
    resource_group: str | None = param(None, help="Of the workspace.")
    workspace_name: str | None = param(None, help="Of the workspace.")
    aml_config_path: str | None = param(
        None, help="The workspace's `config.json`, in place of these three.", role="path"
    )
    image: str | None = param(None, help="Image that the job's environment stands on.")
    conda_file: str | None = param(None, help="Conda specification of the environment.", role="path")
    dockerfile: str | None = param(None, help="File in `context` that the environment is built from.")
    context: str | None = param(None, help="Folder that it is built in.", role="path")
    requirements: str | None = param(None, help="Further packages, as `pip install -r` reads it.", role="path")
    environment: str | None = param(None, help="Name of an environment of the workspace, in place of an image.")
    environment_version: str | None = param(None, help="Its version.")
    environment_label: str | None = param(None, help="Its label, in place of a version.")
    datastore: str = param("workspaceblobstore", help="Blob datastore that models travel by.")
    folder: str = param("picual", help="Folder in it.")
    instance_type: str | None = param(None, help="Of a Kubernetes compute.")
    instance_count: int = param(1, help="Nodes of a job.")
    cores: int = param(0, help="Threads of a job; 0: all cores of the node.")
    parallel: int = param(1, help="Candidates of a search at a time.")
    hf_token: bool = param(False, help="Give the job the hub's token, which it reads from the key vault.")
    keyvault_name: str | None = param(None, help="Key vault that holds the secret `hf-token`.")
    max_operation_retries: int = param(3, help="How often a call to the service is tried again.")
    operation_retry_interval: float = param(5, help="Pause before that.", unit="s")
    poll: float = param(5, help="Pause between two looks at a job.", unit="s")
    start_minutes: float = param(60, help="A job that has not begun after that is cancelled.", unit="min")
    tags: Mapping[str, str] = param(Settings(), help="Tags of every job.")
    resources: Mapping[str, Any] = param(Settings(), help="`instance_type` and the like, in Olive's form.")
    datastores: Mapping[str, Any] | str | None = param(
        None, help="Read, and not needed: data is fetched by address."
    )

    def __post_init__(self) -> None:
        """Refuse what no job could be made of."""
        if not self.compute:
            raise BadValue("it needs `compute`", hint="the name of a compute of the workspace")
        workspace = (self.subscription_id, self.resource_group, self.workspace_name)
        if self.aml_config_path is None and None in workspace:
            raise BadValue(
                "it needs `subscription_id`, `resource_group` and `workspace_name`, or `aml_config_path`",
                hint="in an Olive config they stand under `azureml_client`",
            )
        if self.hf_token and self.keyvault_name is None:
            raise BadValue(
                "`hf_token` needs `keyvault_name`: tokens do not travel with a job",
                hint="the name of a key vault whose secret `hf-token` the compute may read; in an Olive config it"
                " stands under `azureml_client`",
            )
        if self.environment is not None and (self.image is not None or self.dockerfile is not None):
            raise BadValue(
                "it names an `environment` and says what another is made of", hint="leave out one of the two"
            )
        if self.instance_count < 1:
            raise BadValue(f"`instance_count` is {self.instance_count}; it must be at least 1")
        if self.environment is None and self.image is None and self.dockerfile is None:
            raise BadValue("it needs `image`, `dockerfile` or `environment`", hint="in Olive: `aml_docker_config`")

    def obstacles(self, state: Path) -> Sequence[PicualError]:
        """Say which package is missing, and which file."""
        files = [name for name in (self.conda_file, self.aml_config_path, self.requirements) if name is not None]
        absent = [
            EnvironmentFault("there is no such file", where=name) for name in files if not Path(name).is_file()
        ]
        return [*super().obstacles(state), *absent]

    def has(self, module: str, state: Path) -> bool:
        """Say yes: the job's environment holds what passes need."""
        del module, state
        return True

    def version_of(self, distribution: str, state: Path) -> str:
        """Return what tells the job's environment apart: its versions are chosen when Azure builds it."""
        del distribution, state
        return self.environment_digest()[:16]

    def environment_digest(self) -> str:
        """Return one digest of all that the environment is made from."""
        files = [self.conda_file, self.requirements]
        files += [None if self.dockerfile is None else str(Path(self.context or ".") / self.dockerfile)]
        content = [
            fingerprint.file_digest(Path(name)) if name and Path(name).is_file() else None for name in files
        ]
        named = [self.environment, self.environment_version, self.environment_label, self.image]
        return fingerprint.digest([*named, *content])

    def device_class(self, machine: Machine) -> str:
        """Name the compute: what its nodes are is the workspace's affair."""
        del machine
        return f"azureml-{self.workspace_name or self.aml_config_path}-{self.compute}-{self.instance_type or ''}"

    def threads_of(self, machine: Machine) -> int:
        """Return the threads of a job; 0 leaves them to the node."""
        del machine
        return self.cores

    def at_once(self, cores: int, memory: int) -> int:
        """Return how many candidates are tried at a time: as many as the recipe says the compute has nodes for."""
        del cores, memory
        return self.parallel
