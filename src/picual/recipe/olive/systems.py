"""`systems` and `host`: where steps run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from picual.errors import nearest
from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.resource import read_client
from picual.recipe.schema import HostSpec

LOCAL = "local"
HostType = Literal["local", "environment", "docker", "azureml"]
_TYPES: dict[str, HostType] = {
    "localsystem": "local",
    "pythonenvironment": "environment",
    "isolatedort": "environment",
    "docker": "docker",
    "azureml": "azureml",
    "amlsystem": "azureml",
}
_TITLES = ("LocalSystem", "PythonEnvironment", "IsolatedORT", "Docker", "AzureML")
# Option of a system -> option of a host, by the host's type; the mappings inside are flattened the same way.
_OPTIONS: dict[str, dict[str, str]] = {
    "local": {},
    "environment": {
        "python_environment_path": "path",
        "environment_variables": "environment_variables",
        "prepend_to_path": "prepend_to_path",
        "requirements_file": "requirements",
    },
    "docker": {
        "image_name": "image",
        "dockerfile": "dockerfile",
        "build_context_path": "context",
        "build_args": "build_args",
        "run_params": "run",
    },
    "azureml": {
        "aml_compute": "compute",
        "base_image": "image",
        "conda_file_path": "conda_file",
        "dockerfile": "dockerfile",
        "build_context_path": "context",
        "requirements_file": "requirements",
        "aml_config_path": "aml_config_path",
        "resources": "resources",
        "instance_count": "instance_count",
        "tags": "tags",
        "datastores": "datastores",
        "keyvault_name": "keyvault_name",
    },
}
_ENVIRONMENT = {"name": "environment", "version": "environment_version", "label": "environment_label"}
_MADE_FROM = ("base_image", "dockerfile", "build_context_path", "conda_file_path")
_NAMED: dict[str, Reason] = dict.fromkeys(
    ("name", "version", "label"), ("ignored", "an environment that is made is known by what it is made of")
)
_INSIDE = ("aml_docker_config", "local_docker_config", "aml_environment_config")
_UNUSED: dict[str, Reason] = {
    "is_dev": ("ignored", "the installed Picual is what runs on every host"),
    "hf_token": ("ignored", "the hub's token comes from the environment: `HF_TOKEN`"),
    "clean_image": ("ignored", "Picual removes no image that it did not build"),
    "olive_managed_env": ("ignored", "an environment is made where a file of requirements says what is in it"),
    "work_dir": ("ignored", "a job's folder is the same inside the container as outside"),
    "requirements_file": ("ignored", "what an image holds its own Dockerfile says"),
}


@dataclass
class System:
    """One system of a config: a host, and the hardware it has.

    Attributes:
        host: As the recipe has it.
        accelerators: What it says of its hardware, in order, not yet read.
    """

    host: HostSpec
    accelerators: list[Found] = field(default_factory=list)


@dataclass
class Systems:
    """The systems of a config, by name, and the one that the config calls local."""

    context: Context
    named: dict[str, System] = field(default_factory=dict)
    whole: str = LOCAL  # that the whole workflow runs on: what its local systems are

    def use(self, found: Found | None, inline: str, to: str) -> str | None:
        """Return the name of the system that `host` or `target` names; one that is written there gets a name.

        Args:
            found: The value of `host` or `target`.
            inline: Name for a system that is written in place.
            to: Where the name goes in the native form.
        """
        ledger = self.context.ledger
        if found is None:
            return None
        if isinstance(found.value, str):
            ledger.mapped(found.path, to)
            return self.name_of(found.value)
        if isinstance(found.value, Mapping):
            while inline in self.named:  # a system of the config has this name
                inline += "_"
            self.named[inline] = _system(self.context, inline, found)
            return inline
        ledger.problem(found.path, f"`{found.path[-1]}` must be the name of a system, or a system")
        return None

    def name_of(self, name: str) -> str:
        """Return the name of a system in the recipe, where `local` is always this machine."""
        if name != LOCAL or name not in self.named or self.named[name].host.type == LOCAL:
            return name
        name = f"{name}_{self.named[name].host.type}"
        while name in self.named:
            name += "_"
        return name

    def run_whole_on(self, found: Found | None) -> None:
        """Take `workflow_host`: what would run on this machine runs there; the driver stays here."""
        name = self.use(found, "workflow_host", "becomes `host`: each step is a job there, the driver stays here")
        if name is not None:
            self.whole = name

    def home_of(self, name: str | None) -> str:
        """Return the host of what names a system, or none; a local one is where the whole workflow is."""
        if name is None or self.whole == LOCAL:
            return name or self.whole
        system = next((one for own, one in self.named.items() if self.name_of(own) == name), None)
        return self.whole if system is not None and system.host.type == LOCAL else name

    def hosts(self) -> dict[str, HostSpec]:
        """Return the hosts of the recipe: this machine, then the config's own."""
        hosts = {LOCAL: HostSpec()}
        for name, system in self.named.items():
            ours = self.name_of(name)
            hosts[ours] = dataclasses.replace(system.host, name=ours)
        return hosts


def read_systems(context: Context, top: Reader) -> Systems:
    """Return the systems that a config defines.

    Raises:
        BadValue: `systems` is no mapping.
    """
    systems = Systems(context)
    found = top.given("systems")
    if found is None:
        return systems
    if not isinstance(found.value, dict):
        raise context.ledger.wrong_shape(found.path, "a mapping of names to systems")
    context.ledger.opened(found.path)
    for name, value in found.value.items():
        here = Found((*found.path, name), value)
        if isinstance(value, dict):
            systems.named[name] = _system(context, name, here)
        elif value is not None:
            context.ledger.problem(here.path, f"system `{name}` must be a mapping with `type`")
    return systems


def _system(context: Context, name: str, found: Found) -> System:
    reader = object_reader(context.ledger, found)
    kind = _type(context, name, reader)
    inside = [one for key in _INSIDE if (one := reader.child(key, nested=None)) is not None]
    everything = Reader(context.ledger, [*reader.layers, *(layer for one in inside for layer in one.layers)])
    options = _environment(name, reader, everything) if kind == "azureml" else {}
    for key, option in _OPTIONS[kind].items():
        if key in _MADE_FROM and "environment" in options:
            continue
        value = everything.take(key, to=f"hosts.{name}.{option}")
        if value is not None:
            options[option] = value
    if kind == "environment" and not {"path", "requirements"} & set(options):
        text = "it names no environment and nothing to make one from: this machine's own is used"
        context.ledger.note(found.path, "replaced", text)
        kind, options = "local", {}
    if kind == "azureml":
        options |= _azure(context, name, reader)
    everything.drop_all(_UNUSED)
    host = HostSpec(name=name, type=kind, options=options, place=context.ledger.place(found.path))
    return System(host, _accelerators(reader))


def _environment(name: str, reader: Reader, everything: Reader) -> dict[str, Any]:
    """Return the environment of the workspace that a system names; what one would be made from is left then."""
    options: dict[str, Any] = {}
    own = reader.child("aml_environment_config", nested=None)
    if own is not None:
        for key, option in _ENVIRONMENT.items():
            if (value := own.text(key, to=f"hosts.{name}.{option}")) is not None:
                options[option] = value
    if "environment" in options:
        told: Reason = ("ignored", "`aml_environment_config` names an environment, and that is used")
        everything.drop_all(dict.fromkeys(_MADE_FROM, told))
    everything.drop_all(_NAMED)
    return options


def _azure(context: Context, name: str, reader: Reader) -> dict[str, Any]:
    options: dict[str, Any] = {key: value for key, value in context.client.items() if key != "aml_config_path"}
    if "aml_config_path" in context.client:
        options["aml_config_path"] = context.client["aml_config_path"]
    if (own := reader.child("azureml_client_config", "azureml_client", nested=None)) is not None:
        options |= read_client(own)
    if (token := reader.flag("hf_token", to=f"hosts.{name}.hf_token")) is not None:
        options["hf_token"] = token
    return options


def _type(context: Context, name: str, reader: Reader) -> HostType:
    found = reader.find_type()
    if found is None:
        path = (*reader.layers[-1].path, "type")
        context.ledger.note(path, "defaulted", "left out: this machine, as LocalSystem is")
        return "local"
    kind = word(found.value)
    if kind in _TYPES:
        context.ledger.mapped(found.path, f"hosts.{name}.type")
        return _TYPES[kind]
    if kind.startswith("azurend"):
        context.ledger.note(found.path, "mapped", f"becomes `hosts.{name}.type`; its size is that of `compute`")
        return "azureml"
    if kind.startswith("surface"):
        context.ledger.note(found.path, "replaced", f"`{found.value}` names a ready-made machine; it is this one")
        return "local"
    hint = nearest(str(found.value), _TITLES)
    context.ledger.problem(found.path, f"`{found.value}` is no kind of system", hint)
    return "local"


def _accelerators(reader: Reader) -> list[Found]:
    """Return what a system says of its hardware: a list of mappings or names, one of them, or the oldest form."""
    found = reader.given("accelerators")
    if found is None:
        found = reader.given("device")
        return [] if found is None else [found]
    if isinstance(found.value, list):
        reader.ledger.opened(found.path)
        return [Found((*found.path, index), value) for index, value in enumerate(found.value)]
    return [found]
