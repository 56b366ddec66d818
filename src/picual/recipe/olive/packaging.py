"""`packaging_config`: a model of an Azure workspace becomes `register`; other packages are not made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.errors import did_you_mean
from picual.recipe.olive.context import WORKSPACE, Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.resource import RETRIES
from picual.recipe.olive.systems import Systems

KEY = "packaging_config"
DEFAULT_NAME = "OutputModels"  # Olive's
_MODELS = "azuremlmodels"
_KINDS = {
    name.lower(): name for name in ("AzureMLModels", "AzureMLData", "AzureMLDeployment", "Zipfile", "Dockerfile")
}
_PACKAGES: Reason = ("later", "packages are not made in this version: the model's folder is complete as it is")
_WHOLE: Reason = ("ignored", "the model's folder is complete as it is; `report.json` is beside it")
_UNUSED: dict[str, Reason] = {
    "include_sample_code": _WHOLE,
    "include_runtime_packages": _WHOLE,
    "export_in_mlflow_format": (
        "later", "put `export-mlflow` after the last pass: an MLflow folder is registered as one"
    ),
}  # fmt: skip


def read_packaging(
    context: Context, reader: Reader, systems: Systems, *, makes_a_model: bool
) -> Mapping[str, Any] | None:
    """Return `register` of the recipe; None where the config registers nothing.

    Args:
        context: Of the import.
        reader: Of the engine's keys.
        systems: Of the config: one of them may name the workspace.
        makes_a_model: Whether it has passes.
    """
    found = reader.given(KEY)
    if found is None:
        return None
    several = isinstance(found.value, list)
    if several:
        context.ledger.opened(found.path, _PACKAGES)
    entries = [Found((*found.path, index), one) for index, one in enumerate(found.value)] if several else [found]
    register = None
    for entry in entries:
        if not _is_of_models(context, entry):
            context.ledger.note(entry.path, *_PACKAGES)
        elif register is not None:
            context.ledger.note(entry.path, "later", "the result is registered once: as the entry before says")
        elif not makes_a_model:
            context.ledger.note(entry.path, "ignored", "there is no pass whose result could be registered")
        else:
            register = _registered(context, entry, systems)
    return register


def _is_of_models(context: Context, entry: Found) -> bool:
    if not isinstance(entry.value, Mapping):
        return False
    kind = object_reader(context.ledger, entry).find_type()
    if kind is None or word(kind.value) in _KINDS:
        return kind is not None and word(kind.value) == _MODELS
    if hint := did_you_mean(str(kind.value), list(_KINDS.values())):
        context.ledger.problem(kind.path, f"there is no type of package `{kind.value}`", hint)
    return False


def _registered(context: Context, entry: Found, systems: Systems) -> dict[str, Any] | None:
    reader = object_reader(context.ledger, entry)
    where = _workspace(context, systems)
    if where is None:
        what = f"`{KEY}` registers a model, and nothing names the workspace"
        context.ledger.problem(entry.path, what, "name it under `azureml_client`")
        return None
    kind = reader.find_type()
    assert kind is not None
    context.ledger.mapped(kind.path, "register")
    register: dict[str, Any] = {"name": reader.text("name", to="register.name"), **where}
    if register["name"] is None:
        register["name"] = DEFAULT_NAME
        context.ledger.note((*entry.path, "name"), "defaulted", f"left out: `{DEFAULT_NAME}`, as in Olive")
    for name in ("version", "description"):
        if (value := reader.text(name, to=f"register.{name}")) is not None:
            register[name] = value
    reader.drop_all(_UNUSED)
    return register


def _workspace(context: Context, systems: Systems) -> dict[str, Any] | None:
    """Return what says where the models are: the config's own client, else the first system that has one."""
    own = {name: context.client[name] for name in WORKSPACE if name in context.client}
    file = context.client.get("aml_config_path")
    retries = {name: context.azure[name] for name in RETRIES if name in context.azure}
    if len(own) == len(WORKSPACE):
        context.addressed = True
        return {**own, **retries}
    if file is not None:
        context.addressed = True
        return {"aml_config_path": file, **retries}
    host = next((name for name, spec in systems.hosts().items() if spec.type == "azureml"), None)
    return None if host is None else {"host": host}
