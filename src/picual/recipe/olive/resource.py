"""Paths: a text, or a mapping that names a file, a folder, a hub id or something kept in Azure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from picual.errors import BadValue, nearest
from picual.recipe.olive.context import WORKSPACE, Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.sources.azure_address import read_config

RETRIES = ("max_operation_retries", "operation_retry_interval")
READ_TIMEOUT: Reason = ("ignored", "Picual has its own time limits")


def resource(context: Context, found: Found, *, to: str) -> str | None:
    """Return the path or `azureml://` address that a value stands for; None when it stands for none.

    Args:
        context: Of the import.
        found: A text, or a mapping `{type, config}` or its flat form.
        to: Where the address goes in the native form.
    """
    if isinstance(found.value, str):
        context.ledger.mapped(found.path, to)
        return found.value
    if not isinstance(found.value, Mapping):
        context.ledger.problem(found.path, f"`{found.path[-1]}` must be text or a mapping with `type`")
        return None
    reader = object_reader(context.ledger, found)
    kind = reader.find_type()
    if kind is None or (address := _ADDRESSES.get(word(kind.value))) is None:
        named = "" if kind is None else word(kind.value)
        what = f"`{named}` is no kind of path" if named else f"`{found.path[-1]}` has no `type`"
        context.ledger.problem(found.path, what, nearest(named, list(_ADDRESSES)))
        return None
    context.ledger.mapped(kind.path, to)
    context.azure |= retries(reader, "model")
    return address(context, reader, to)


def read_client(reader: Reader) -> dict[str, Any]:
    """Return what an `azureml_client` mapping says, by its own names."""
    names = (*WORKSPACE, "keyvault_name", "aml_config_path")
    client: dict[str, Any] = {
        name: value for name in names if (value := reader.text(name, to=f"hosts.*.{name}")) is not None
    }
    client |= retries(reader, "hosts.*")
    reader.drop_all({
        "read_timeout": READ_TIMEOUT,
        "default_auth_params": ("later", "Azure credentials come from the environment in this version"),
    })  # fmt: skip
    return client


def retries(reader: Reader, to: str) -> dict[str, int]:
    """Return how often a call to Azure is repeated, and after how many seconds; ``to``: what they are said of."""
    return {name: value for name in RETRIES if (value := reader.whole(name, to=f"{to}.{name}")) is not None}


def _from_file(context: Context, name: str) -> dict[str, str]:
    """Return the workspace that its own file names; nothing where the file is on another machine."""
    file = context.folder / Path(name).expanduser()
    context.azure["aml_config_path"] = name
    if not file.is_file():
        return {}
    try:
        found = read_config(file)
    except BadValue:  # told when somebody asks for what is there
        return {}
    return {"subscription_id": found.subscription, "resource_group": found.group, "workspace_name": found.name}


def _named(context: Context, reader: Reader, to: str) -> str | None:
    return reader.text("path", "name", to=to)


def _registry_model(context: Context, reader: Reader, to: str) -> str | None:
    registry = reader.text("registry_name", to=to) or "azureml"
    return _model_address(reader, f"azureml://registries/{registry}", to)


def _workspace_model(context: Context, reader: Reader, to: str) -> str | None:
    return _model_address(reader, _workspace(context, reader, to).rstrip("/"), to)


def _model_address(reader: Reader, start: str, to: str) -> str | None:
    name = reader.text("name", to=to)
    if name is None:
        return None
    version = reader.text("version", to=to)
    address = f"{start}/models/{name}" if start != "azureml:" else f"azureml:{name}"
    return f"{address}/versions/{version}" if version else f"{address}/labels/latest"


def _datastore(context: Context, reader: Reader, to: str) -> str | None:
    url = reader.text("datastore_url", to=to)
    store = reader.text("datastore_name", to=to)
    relative = reader.text("relative_path", to=to)
    if url is not None:
        return url
    if store is None:
        return None
    return f"{_workspace(context, reader, to)}datastores/{store}/paths/{(relative or '').lstrip('/')}"


def _job_output(context: Context, reader: Reader, to: str) -> str | None:
    job = reader.text("job_name", to=to)
    output = reader.text("output_name", to=to)
    relative = reader.text("relative_path", to=to)
    if job is None:
        return None
    return f"{_workspace(context, reader, to)}jobs/{job}/outputs/{output or 'default'}/paths/{relative or ''}"


def _workspace(context: Context, reader: Reader, to: str) -> str:
    """Return the start of an address in the workspace that the resource or the config names."""
    given = reader.find("azureml_client")
    client = dict(context.client)
    context.addressed = context.addressed or bool(client)
    if given is not None and isinstance(given.value, Mapping):
        inner = object_reader(context.ledger, given, nested=None)
        client |= {name: value for name in WORKSPACE if (value := inner.text(name, to=to)) is not None}
        context.azure |= retries(inner, "model")
        inner.drop("read_timeout", *READ_TIMEOUT)
        if (file := inner.text("aml_config_path", to=to)) is not None:
            client["aml_config_path"] = file
    elif given is not None:
        context.ledger.mapped(given.path, "names the config's own `azureml_client`")
    if any(name not in client for name in WORKSPACE) and "aml_config_path" in client:
        client |= _from_file(context, client["aml_config_path"])
    if any(name not in client for name in WORKSPACE):
        return "azureml://"  # the workspace of whoever resolves it
    subscription, group, workspace = (client[name] for name in WORKSPACE)
    return f"azureml://subscriptions/{subscription}/resourcegroups/{group}/workspaces/{workspace}/"


_ADDRESSES: dict[str, Callable[[Context, Reader, str], str | None]] = {
    "file": _named,
    "folder": _named,
    "string_name": _named,
    "azureml_registry_model": _registry_model,
    "azureml_model": _workspace_model,
    "azureml_datastore": _datastore,
    "azureml_job_output": _job_output,
}
