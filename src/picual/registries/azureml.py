"""Models of an Azure Machine Learning workspace.

The files are sent to a datastore, under the digest of all of them: what is there is not sent again, so an attempt
that was cut goes on where it was. Then azure-ai-ml makes a version of the model that points there. It would send
the files itself, but where one is refused it waits without end (1.35, ``BlobStorageClient.upload``), and it asks a
busy service no second time.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from picual import fingerprint
from picual.errors import BadValue, EnvironmentFault, StepFailed
from picual.registries.base import FinishedModel, Registered, Registry
from picual.sources.azure_address import CONFIG, Workspace
from picual.sources.azure_client import EXTRA, PACKAGES, Access
from picual.sources.azure_container import OpenContainer
from picual.sources.azure_errors import explained
from picual.sources.azure_lookup import is_not_found, locate
from picual.sources.azure_retries import Patience
from picual.space import Settings, param

KEY = "picual_key"  # the tag by which a model is known again
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,254}", re.ASCII)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AzureMlModels(Registry):
    """The models of a workspace."""

    kind: ClassVar[str] = "azureml"
    imports: ClassVar[tuple[str, ...]] = PACKAGES
    extra: ClassVar[str] = EXTRA
    host_type: ClassVar[str] = "azureml"
    place: ClassVar[tuple[str, ...]] = (*CONFIG, "aml_config_path")
    borrowed: ClassVar[tuple[str, ...]] = (
        "datastore", "folder", "max_operation_retries", "operation_retry_interval",
    )  # fmt: skip

    name: str = field(metadata={"help": "Of the model in the workspace."})
    version: str | int | None = param(None, help="Of the model; left out, Azure counts.")
    description: str | None = param(None, help="Of this version.")
    tags: Mapping[str, str] = param(Settings(), help="Tags of this version, beside our own.")
    subscription_id: str | None = param(None, help="Of the workspace, in place of a host.")
    resource_group: str | None = param(None, help="Of the workspace.")
    workspace_name: str | None = param(None, help="Of the workspace.")
    aml_config_path: str | None = param(
        None, help="The workspace's `config.json`, in place of these three.", role="path"
    )
    datastore: str = param("workspaceblobstore", help="Blob datastore that keeps the files.")
    folder: str = param("picual", help="Folder in it.")
    max_operation_retries: int = param(3, help="How often a call to the service is tried again.")
    operation_retry_interval: float = param(5, help="Pause before that.", unit="s")

    def __post_init__(self) -> None:
        """Refuse what Azure would."""
        for what, value in (("name", self.name), ("version", self.version)):
            if value is not None and _NAME.fullmatch(str(value)) is None:
                raise BadValue(
                    f"`{what}` is `{value}`; Azure takes letters, digits, `-`, `_` and `.`, up to 255 of them",
                    hint=f"`{what}: {re.sub(r'[^A-Za-z0-9_.-]+', '-', str(value)).strip('-_.') or 'model'}`",
                )
        if KEY in self.tags:
            raise BadValue(f"`tags` holds `{KEY}`, by which Picual knows its models again", hint="rename the tag")
        if self.aml_config_path is None and Workspace.of(self) is None:
            raise BadValue(
                "it needs `host`, `aml_config_path`, or `subscription_id`, `resource_group` and `workspace_name`",
                hint="`host:` names a host of type `azureml`",
            )

    @property
    def title(self) -> str:
        """Return name, version if it is given, and workspace."""
        version = "" if self.version is None else f":{self.version}"
        where = self.workspace_name or f"that {Path(str(self.aml_config_path)).name} names"
        return f"{self.name}{version} in the workspace {where}"

    def register(self, model: FinishedModel, told: Callable[[int, int], None]) -> Registered:
        """Find the version with the model's key, or send the files and make one.

        Raises:
            BadValue: The version is there, and is another model.
            UnknownName: There is no such workspace or datastore.
            EnvironmentFault: No credential, no access, no network, or a refusal.
        """
        patience = Patience(self.max_operation_retries, self.operation_retry_interval)
        access = Access(folder=Path(), config=self.aml_config_path, patience=patience)
        asking = _Asking(access, Workspace.of(self), self.name)
        known = asking.versions()
        if (same := _same(known, model)) is not None:
            return self._registered(asking, same, new=False)
        wanted = None if self.version is None else str(self.version)
        if wanted in known:
            raise _taken(asking.address, self.name, wanted, known)
        uri = self._sent(asking, access, model, told)
        return self._made(asking, model, uri, wanted)

    def _made(self, asking: _Asking, model: FinishedModel, uri: str, wanted: str | None) -> Registered:
        from azure.ai.ml.entities import Model

        version = Model(path=uri, **self._described(model, wanted))
        try:
            return self._registered(asking, str(asking.make(version).version), new=True)
        except EnvironmentFault as error:
            if not _refuses_what_is_there(error):
                raise
            known = asking.versions()  # somebody else may have made one meanwhile
            if (same := _same(known, model)) is not None:
                return self._registered(asking, same, new=False)
            if str(version.version) not in known:
                raise
            raise _taken(asking.address, self.name, str(version.version), known) from error

    def _registered(self, asking: _Asking, version: str, *, new: bool) -> Registered:
        address = f"{asking.address}/versions/{version}"
        return Registered(name=self.name, version=version, address=address, new=new)

    def _sent(
        self, asking: _Asking, access: Access, model: FinishedModel, told: Callable[[int, int], None]
    ) -> str:
        """Send what the datastore lacks; return the address of the folder there."""
        content = fingerprint.digest({name: facts["sha256"] for name, facts in model.files.items()})
        path = f"{self.folder.strip('/')}/models/{content}/{model.folder.name}"
        uri = f"{asking.workspace.address}/datastores/{self.datastore}/paths/{path}"
        container = OpenContainer(locate(uri, access).open, access, uri)
        there = container.sizes(f"{path}/")
        total, done = sum(int(facts["size"]) for facts in model.files.values()), 0
        for name, facts in model.files.items():
            if there.get(f"{path}/{name}") != facts["size"]:
                _require_verified(model, name)
                before = done
                container.send(model.folder / name, f"{path}/{name}", lambda sent: told(before + sent, total))  # noqa: B023
            done += int(facts["size"])
            told(done, total)
        return uri

    def _described(self, model: FinishedModel, version: str | None) -> dict[str, Any]:
        return {
            "name": self.name, "version": version, "description": self.description,
            "type": "mlflow_model" if "MLmodel" in model.files else "custom_model",
            "tags": {**self.tags, KEY: model.key}, "properties": {KEY: model.key, **model.lineage},
        }  # fmt: skip


class _Asking:
    """The calls to a workspace that are about one model, with patience, and their errors explained."""

    def __init__(self, access: Access, workspace: Workspace | None, name: str) -> None:
        self._access, self._name = access, name
        self.address = f"model {name}"  # until it is known where
        self._client = self._ask(lambda: access.workspace(workspace))
        self.workspace = Workspace.of_client(self._client)
        self.address = f"{self.workspace.address}/models/{name}"

    def versions(self) -> dict[str, Mapping[str, str]]:
        """Return the tags of every version by its name, of those that are put away as well."""
        from azure.ai.ml.constants import ListViewType
        from azure.core.exceptions import ResourceNotFoundError

        def listed() -> dict[str, Mapping[str, str]]:
            try:
                found = self._client.models.list(name=self._name, list_view_type=ListViewType.ALL)
                return {str(one.version): dict(one.tags or {}) for one in found}
            except ResourceNotFoundError as error:
                if not is_not_found(error):
                    raise
                return {}  # no model of this name yet

        return self._ask(listed)

    def make(self, model: Any) -> Any:
        """Make a version; return it as the workspace has it."""
        return self._ask(lambda: self._client.models.create_or_update(model), writes=True)

    def _ask(self, call: Callable[[], T], *, writes: bool = False) -> T:
        with explained(self.address, self._access.patience, writes=writes):
            return self._access.patience.ask(call)


def _refuses_what_is_there(error: BaseException) -> bool:
    """Say whether Azure found the version taken; its client wraps that answer in errors of its own."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    return any(getattr(one, "status_code", None) in {400, 409} for one in causes)


def _same(known: Mapping[str, Mapping[str, str]], model: FinishedModel) -> str | None:
    """Return the version that is this very model."""
    return next((version for version, tags in known.items() if tags.get(KEY) == model.key), None)


def _taken(address: str, name: str, version: str, known: Iterable[str]) -> BadValue:
    free = 1 + max((int(one) for one in [*known, version] if one.isdecimal()), default=0)
    return BadValue(
        f"`{name}` has a version `{version}` already, and it is another model", where=address,
        hint=f"`--set register.version={free}`, or leave `version` out: then Azure counts",
    )  # fmt: skip


def _require_verified(model: FinishedModel, name: str) -> None:
    """Raise unless a file is what was verified.

    Raises:
        StepFailed: It was changed, or is gone.
    """
    file = model.folder / name
    if not file.is_file() or fingerprint.file_digest(file) != model.files[name]["sha256"]:
        raise StepFailed(
            f"`{name}` is not what was verified", where=str(file),
            hint=f"`rm -r {shlex.quote(str(model.folder))}`, and run the same command again: it is put there anew",
        )  # fmt: skip
