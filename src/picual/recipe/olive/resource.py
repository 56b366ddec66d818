"""Paths: a text, or a mapping that names a file, a folder, a hub id or something kept in Azure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from picual.errors import nearest
from picual.recipe.olive.context import WORKSPACE, Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word

RETRIES: Reason = ("ignored", "Picual retries a download by its own rules")


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
    reader.drop_all({"max_operation_retries": RETRIES, "operation_retry_interval": RETRIES})
    return address(context, reader, to)


def read_client(context: Context, reader: Reader) -> dict[str, str]:
    """Return what an `azureml_client` mapping says, by its own names."""
    names = (*WORKSPACE, "keyvault_name", "aml_config_path")
    client = {name: value for name in names if (value := reader.text(name, to=f"hosts.*.{name}")) is not None}
    reader.drop_all({
        "max_operation_retries": RETRIES,
        "operation_retry_interval": RETRIES,
        "read_timeout": ("ignored", "Picual has its own time limits"),
        "default_auth_params": ("later", "Azure credentials come from the environment in this version"),
    })  # fmt: skip
    return client


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
        inner.drop_all(
            dict.fromkeys(("max_operation_retries", "operation_retry_interval", "read_timeout"), RETRIES)
        )
        inner.drop("aml_config_path", "later", "the workspace's own file is not read in this version")
    elif given is not None:
        context.ledger.mapped(given.path, "names the config's own `azureml_client`")
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
