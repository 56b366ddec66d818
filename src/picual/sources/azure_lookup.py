"""From an address to the blobs behind it: who knows is asked, and the files are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from picual.errors import UnknownName, nearest
from picual.sources.azure_address import Address, Asset, BlobPath, DatastorePath, JobOutput, parse, shown
from picual.sources.azure_client import Access
from picual.sources.azure_errors import code_of, explained

_DEFAULT_STORE, _LOG_STORE = "workspaceblobstore", "workspaceartifactstore"


@dataclass(frozen=True)
class Entry:
    """One blob: its name relative to the address, and what a listing says of it."""

    name: str
    blob: str
    size: int
    etag: str
    md5: bytes | None  # of the content, where the service knows it


@dataclass(frozen=True)
class Place:
    """A path in a container.

    Attributes:
        uri: The address it was found by.
        path: In the container, of a blob or of a folder.
        version: Of the asset that the address names.
        open: Makes a client of the container; again, when a signature has run out.
    """

    uri: str
    path: str
    version: str | None
    open: Callable[[], Any]


def locate(uri: str, access: Access) -> Place:
    """Return the place that an address means.

    Raises:
        BadValue, UnknownName: The address, or something that it names, does not exist.
        EnvironmentFault: No credential, no access, no network.
    """
    with explained(uri, access.patience):
        return access.patience.ask(lambda: _place(uri, parse(uri), access))


def entries(place: Place, access: Access) -> list[Entry]:
    """Return the blobs at a place, by name; folders' own markers are left out.

    Raises:
        UnknownName: There are none.
        EnvironmentFault: No access, no network.
    """
    with explained(place.uri, access.patience):
        found = access.patience.ask(lambda: _listed(place))
        if not found:
            raise UnknownName("there are no files at this address", hint=_near(place, access))
        return sorted(found, key=lambda entry: entry.name)


def pinned_version(uri: str, access: Access) -> str | None:
    """Return the version that an asset's address means now; None for what is no asset."""
    address = parse(uri)
    if not isinstance(address, Asset):
        return None
    return address.version or locate(uri, access).version


def _place(uri: str, address: Address, access: Access) -> Place:
    if isinstance(address, BlobPath):
        return Place(uri, address.path, None, lambda: access.container(address.account_url, address.container))
    if isinstance(address, DatastorePath):
        return _in_datastore(uri, address, access)
    if isinstance(address, JobOutput):
        return _in_job(uri, address, access)
    found = _asset(address, access)
    version = str(found.version)
    if address.registry is None:
        inner = parse(str(found.path))
        inner = replace(inner, workspace=address.workspace) if isinstance(inner, DatastorePath) else inner
        return replace(_place(uri, inner, access), version=version)
    registry = address.registry
    files = parse(str(found.path))
    path = files.path if isinstance(files, BlobPath) else ""
    return Place(uri, path, version, lambda: _registry_container(registry, found, access))


def _asset(address: Asset, access: Access) -> Any:
    """Return the asset; where it is not there, say which are."""
    where = f"the registry `{address.registry}`" if address.registry else "the workspace"
    client = access.workspace(address.workspace) if address.registry is None else access.registry(address.registry)
    assets = client.models if address.kind == "models" else client.data
    try:
        if address.version is None:
            return assets.get(name=address.name, label="latest")
        return assets.get(name=address.name, version=address.version)
    except Exception as error:
        if not is_not_found(error):
            raise
        kind = "model" if address.kind == "models" else "data asset"
        versions = _names(lambda: assets.list(name=address.name), "version")
        if versions:
            what = f"{where} has no version `{address.version}` of the {kind} `{address.name}`"
            raise UnknownName(what, hint=nearest(str(address.version), versions) or _latest(versions)) from error
        names = _names(assets.list, "name")
        what = f"{where} has no {kind} `{address.name}`"
        raise UnknownName(what, hint=nearest(address.name, names) or "check the spelling") from error


def _latest(versions: list[str]) -> str:
    return "it has " + ", ".join(f"`{version}`" for version in versions[:5])


def is_not_found(error: BaseException) -> bool:
    """Say whether an asset or datastore is missing, and not the workspace around it."""
    missing = error if getattr(error, "status_code", None) == 404 else error.__cause__
    if getattr(missing, "status_code", None) == 404 and missing is not None:
        return code_of(missing) not in {"SubscriptionNotFound", "ResourceGroupNotFound", "ResourceNotFound"}
    kind = str(getattr(error, "error_type", ""))
    return "not found" in kind.lower() or "not_found" in kind.lower()


def _names(listing: Callable[[], Iterable[Any]], attribute: str) -> list[str]:
    """Return names for a hint; none where the list itself is refused, since the first error is the news."""
    from azure.core.exceptions import AzureError

    try:
        return [str(getattr(each, attribute)) for each, _ in zip(listing(), range(200), strict=False)]
    except AzureError:
        return []


def _registry_container(registry: str, found: Any, access: Access) -> Any:
    # `models.download` of azure-ai-ml holds every file in memory; this is the call it makes to be let in.
    from azure.ai.ml._utils._registry_utils import get_storage_details_for_registry_assets

    client = access.registry(registry)
    models = client.models
    address, _ = get_storage_details_for_registry_assets(
        service_client=models._registry_service_client, asset_type="models", asset_name=found.name,
        asset_version=found.version, rg_name=models._resource_group_name, reg_name=registry, uri=found.path,
    )  # fmt: skip
    return access.signed_container(str(address))


def _in_datastore(uri: str, address: DatastorePath, access: Access) -> Place:
    client = access.workspace(address.workspace)
    _datastore(client, address.datastore)  # so that a wrong name is known before anything is read

    def opened() -> Any:
        store = _datastore(client, address.datastore)
        url = f"https://{store.account_name}.blob.{store.endpoint}"
        container = getattr(store, "container_name", None) or getattr(store, "filesystem", None)
        return access.container(url, str(container), _secret(store.credentials))

    return Place(uri, address.path, None, opened)


def _datastore(client: Any, name: str) -> Any:
    from azure.core.exceptions import HttpResponseError

    try:
        return client.datastores.get(name, include_secrets=True)
    except HttpResponseError as error:
        if is_not_found(error):
            known = _names(client.datastores.list, "name")
            what = f"the workspace has no datastore `{name}`"
            raise UnknownName(what, hint=nearest(name, known) or "check the spelling") from error
        if error.status_code != 403:
            raise
        return client.datastores.get(name)  # it may be seen and not its secrets: then by identity


def _secret(credentials: Any) -> Any:
    """Return a signature, a key or an identity of the datastore's own; None: who asks is who reads."""
    given = getattr(credentials, "sas_token", None) or getattr(credentials, "account_key", None)
    if given or getattr(credentials, "client_secret", None) is None:
        return given
    from azure.identity import ClientSecretCredential

    return ClientSecretCredential(credentials.tenant_id, credentials.client_id, credentials.client_secret)


def _in_job(uri: str, address: JobOutput, access: Access) -> Place:
    from azure.core.exceptions import ResourceNotFoundError

    client = access.workspace(address.workspace)
    try:
        outputs = client.jobs.get(address.job).outputs
    except ResourceNotFoundError as error:
        if not is_not_found(error):
            raise
        raise UnknownName(
            f"the workspace has no job `{address.job}`", hint="az ml job list --output table"
        ) from error
    if address.output not in outputs:
        what = f"the job `{address.job}` has no output `{address.output}`"
        raise UnknownName(what, hint=nearest(address.output, list(outputs)))
    named = getattr(outputs[address.output], "path", None)
    inner = parse(str(named)) if named else DatastorePath(*_usual_output(address))
    assert isinstance(inner, DatastorePath)
    path = "/".join(part for part in (inner.path, address.path) if part)
    return _in_datastore(uri, replace(inner, path=path, workspace=address.workspace), access)


def _usual_output(address: JobOutput) -> tuple[str, str]:
    """Return where a job's outputs go when nobody says otherwise."""
    if address.output == "default":
        return _LOG_STORE, f"ExperimentRun/dcid.{address.job}"
    return _DEFAULT_STORE, f"azureml/{address.job}/{address.output}"


def _listed(place: Place) -> list[Entry]:
    found = []
    with place.open() as container:
        for blob in container.list_blobs(name_starts_with=place.path or None, include=["metadata"]):
            name = _relative(str(blob.name), place.path)
            if name is None or (blob.metadata or {}).get("hdi_isfolder"):
                continue
            md5 = blob.content_settings.content_md5
            found.append(Entry(name, str(blob.name), int(blob.size), str(blob.etag), bytes(md5) if md5 else None))
    return found


def _relative(blob: str, path: str) -> str | None:
    """Return a blob's name relative to a path; its own last part where it is the path; None beside it."""
    if not path or blob == path:
        return blob if not path else blob.rpartition("/")[2]
    return blob.removeprefix(f"{path}/") if blob.startswith(f"{path}/") else None


def _near(place: Place, access: Access) -> str:
    """Return a hint with the names that lie where the address points to."""
    parent, _, last = place.path.rpartition("/")
    beside = replace(place, path=parent)
    names = list(
        dict.fromkeys(entry.name.partition("/")[0] for entry in access.patience.ask(lambda: _listed(beside)))
    )
    return nearest(last, names) or f"check the address: {shown(place.uri)}"
