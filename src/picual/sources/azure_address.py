"""What an address of something kept in Azure says. Text only: no network, nothing imported.

    azureml://registries/R/models/N/versions/V              or labels/latest; also data/N
    azureml://subscriptions/S/resourcegroups/G/workspaces/W/models/N/versions/V
    azureml://[subscriptions/.../]datastores/D/paths/P
    azureml://[subscriptions/.../]jobs/J/outputs/O/paths/P
    azureml:N:V   azureml:N@latest                          in the workspace of whoever resolves it
    abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/P        ADLS Gen2, read through its blob endpoint
    abfss://WORKSPACE@onelake.dfs.fabric.microsoft.com/P    OneLake (Fabric), the same
    https://ACCOUNT.blob.core.windows.net/CONTAINER/P

Source: Azure Machine Learning, "Data concepts" and "Core syntaxes in CLI v2"; OneLake, "Connect to OneLake".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picual.errors import BadValue

# What Azure sets on its own computes: the workspace that a job runs in.
_ON_A_NODE = ("AZUREML_ARM_SUBSCRIPTION", "AZUREML_ARM_RESOURCEGROUP", "AZUREML_ARM_WORKSPACE_NAME")
CONFIG = ("subscription_id", "resource_group", "workspace_name")


@dataclass(frozen=True)
class Workspace:
    """The three names that make up a workspace."""

    subscription: str
    group: str
    name: str

    @classmethod
    def of(cls, settings: Any) -> Workspace | None:
        """Return the workspace that fields named as in ``CONFIG`` say; None where one of them says nothing."""
        names = [getattr(settings, name) for name in CONFIG]
        return None if None in names else cls(*names)

    @classmethod
    def of_client(cls, client: Any) -> Workspace:
        """Return the workspace that an ``MLClient`` speaks to."""
        return cls(client.subscription_id, client.resource_group_name, client.workspace_name)

    @property
    def address(self) -> str:
        """The start of the long ``azureml://`` addresses in it."""
        return f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.name}"


@dataclass(frozen=True)
class Asset:
    """A model or data asset, in a registry or else in a workspace; without a version: the latest."""

    kind: Literal["models", "data"]
    name: str
    version: str | None
    registry: str | None = None
    workspace: Workspace | None = None


@dataclass(frozen=True)
class DatastorePath:
    """A path in a datastore."""

    datastore: str
    path: str
    workspace: Workspace | None = None


@dataclass(frozen=True)
class JobOutput:
    """A path in an output of a job."""

    job: str
    output: str
    path: str
    workspace: Workspace | None = None


@dataclass(frozen=True)
class BlobPath:
    """A path in a container of a storage account."""

    account_url: str
    container: str
    path: str


Address = Asset | DatastorePath | JobOutput | BlobPath

_WORKSPACE = (
    r"azureml://(?:subscriptions/(?P<s>[^/]+)/resourcegroups/(?P<g>[^/]+)/(?:providers/[^/]+/)?"
    r"workspaces/(?P<w>[^/]+)/)?"
)
_VERSION = r"(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?/?"
_ASSET = re.compile(_WORKSPACE + r"(?P<kind>models|data)/(?P<name>[^/]+)" + _VERSION, re.IGNORECASE)
_IN_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/(?P<kind>models|data)/(?P<name>[^/]+)" + _VERSION, re.IGNORECASE
)
_SHORT = re.compile(r"azureml:(?P<name>[^/:@]+)(?:[:@](?P<short>[^/]+)|" + _VERSION + ")")
_STORE = re.compile(_WORKSPACE + r"datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?", re.IGNORECASE)
_JOB = re.compile(
    _WORKSPACE + r"jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths)?(?:/(?P<path>.*))?", re.IGNORECASE
)
_ABFSS = re.compile(r"abfss?://(?P<container>[^@/]+)@(?P<host>[^/]+)/?(?P<path>.*)", re.IGNORECASE)
_HTTPS = re.compile(
    r"(?P<url>https://[^/?]+\.blob\.[^/?]+)/(?P<container>[^/?]+)/(?P<path>[^?]*).*", re.IGNORECASE
)


def is_address(text: str) -> bool:
    """Say whether a text means something kept in Azure."""
    return text.lower().startswith(("azureml:", "abfss://", "abfs://")) or _HTTPS.match(text) is not None


def parse(text: str) -> Address:
    """Return what an address says.

    Raises:
        BadValue: It has none of the known forms, or it holds a signature.
    """
    if "?" in text:
        raise BadValue(
            f"the address `{shown(text)}` holds a signature or a query, which recipes and reports would keep",
            hint="leave out what follows `?`: Picual asks as who is logged in (`az login`)",
        )
    for pattern, build in _FORMS:
        if match := pattern.fullmatch(text):
            return build(match)
    raise BadValue(
        f"`{shown(text)}` is not an address that Azure has",
        hint="azureml://registries/NAME/models/MODEL/versions/1 or azureml://datastores/NAME/paths/PATH",
    )


def workspace_of(address: Address) -> Workspace | None:
    """Return the workspace that an address names itself."""
    return None if isinstance(address, BlobPath) else address.workspace


def shown(text: str) -> str:
    """Return an address as it may be shown: what follows ``?`` is a signature."""
    return text.partition("?")[0]


def default_workspace(folder: Path, config: str | None = None) -> Workspace:
    """Return the workspace for addresses that name none.

    Args:
        folder: That a relative ``config`` is relative to, and where a ``config.json`` is looked for.
        config: Path of a workspace's own ``config.json``; left out: what Azure sets on its computes, else
            ``config.json`` or ``.azureml/config.json`` in ``folder``.

    Raises:
        BadValue: Nothing names a workspace, or the file does not.
    """
    if config is not None:
        return read_config(folder / Path(config).expanduser())
    given = [os.environ.get(name, "") for name in _ON_A_NODE]
    if all(given):
        return Workspace(*given)
    for name in ("config.json", ".azureml/config.json"):
        if (folder / name).is_file() and "workspace_name" in (folder / name).read_text(encoding="utf-8"):
            return read_config(folder / name)
    raise BadValue(
        "the address names no Azure Machine Learning workspace",
        hint="begin it with azureml://subscriptions/ID/resourcegroups/GROUP/workspaces/NAME/, or put the "
        "workspace's `config.json` beside the recipe",
    )


def read_config(file: Path) -> Workspace:
    """Return the workspace that a ``config.json`` of Azure Machine Learning names.

    Raises:
        BadValue: There is no such file, or a name is missing in it.
    """
    hint = "download it from the workspace's page: `Download config.json`"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Workspace(*(str(values[name]) for name in CONFIG))
    except FileNotFoundError as error:
        raise BadValue(f"there is no workspace file `{file.name}`", where=str(file), hint=hint) from error
    except ValueError as error:
        raise BadValue(f"the workspace file is not JSON ({error})", where=str(file), hint=hint) from error
    except (KeyError, TypeError) as error:
        needed = ", ".join(f"`{name}`" for name in CONFIG)
        raise BadValue(f"the workspace file must name {needed}", where=str(file), hint=hint) from error


def _asset(match: re.Match[str]) -> Asset:
    named = match.groupdict()
    kind: Literal["models", "data"] = "data" if named.get("kind", "").lower() == "data" else "models"
    short = named.get("short")
    version = named["version"] or (None if short == "latest" else short)
    if named["label"] not in {None, "latest"}:  # the one label that Azure resolves by itself
        raise BadValue(
            f"`{shown(match.string)}` has an unknown label `{named['label']}`",
            hint="it can be `latest`, or a version",
        )
    return Asset(kind, match["name"], version, named.get("registry"), _workspace(match))


def _datastore(match: re.Match[str]) -> DatastorePath:
    return DatastorePath(match["store"], _clean(match["path"]), _workspace(match))


def _job(match: re.Match[str]) -> JobOutput:
    return JobOutput(match["job"], match["output"], _clean(match["path"]), _workspace(match))


def _lake(match: re.Match[str]) -> BlobPath:
    host = re.sub(r"\.dfs\.", ".blob.", match["host"], flags=re.IGNORECASE)
    return BlobPath(f"https://{host}", match["container"], _clean(match["path"]))


def _blob(match: re.Match[str]) -> BlobPath:
    return BlobPath(match["url"], match["container"], _clean(match["path"]))


def _workspace(match: re.Match[str]) -> Workspace | None:
    named = match.groupdict()
    return Workspace(named["s"], named["g"], named["w"]) if named.get("s") else None


def _clean(path: str | None) -> str:
    return (path or "").strip("/")


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Address]], ...] = (
    (_IN_REGISTRY, _asset), (_ASSET, _asset), (_STORE, _datastore), (_JOB, _job), (_SHORT, _asset),
    (_ABFSS, _lake), (_HTTPS, _blob),
)  # fmt: skip
