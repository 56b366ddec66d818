"""A recipe as native text: what `picual convert` prints and what `--set` assigns into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from picual.data.base import DataConfig
from picual.recipe import sizes
from picual.recipe.native import FILES_OF_METRICS, FOLDERS_OF_PASSES, MODEL_OPTIONS, VERSION
from picual.recipe.schema import MetricSpec, ModelSource, Recipe, StepSpec


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """Return the native form as plain data, defaults left out, paths relative to the recipe's folder."""
    hosts = {
        name: {"type": host.type, **_plain(host.options)} for name, host in recipe.hosts.items() if name != "local"
    }
    sections = {
        "version": VERSION,
        "model": _model(recipe.model),
        "target": _target(recipe),
        "host": recipe.host,
        "hosts": hosts,
        "data": {name: _data(config, Path(recipe.folder)) for name, config in recipe.data.items()},
        "passes": {step.name: _step(step, Path(recipe.folder)) for step in recipe.steps},
        "metrics": {metric.name: _metric(metric, Path(recipe.folder)) for metric in recipe.metrics},
        "search": _plain(recipe.search),
        "seed": recipe.seed,
        "threads": recipe.threads,
        "output": recipe.output,
        "store": recipe.store,
        "tracking": recipe.tracking,
        "register": _plain(recipe.register),
        "log": recipe.log_level,
    }
    defaults = {"host": "local", "seed": 0, "output": "out", "log": "info"}
    return {
        key: value
        for key, value in sections.items()
        if value is not None and value != {} and value != defaults.get(key)
    }


def to_yaml(recipe: Recipe) -> str:
    """Return the native form as YAML, what became of each field of an Olive config as comments at its end."""
    text = yaml.dump(
        to_mapping(recipe),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=False,
    )
    notes = [f"# {note.path}: {note.kind}: {' '.join(note.text.split())}" for note in recipe.notes]
    return text + ("\n# Notes\n" + "\n".join(notes) + "\n" if notes else "")


def _model(model: ModelSource) -> dict[str, Any] | str:
    mapping: dict[str, Any] = {"uri": model.uri, **_changed(model, ("revision", "format", "adapter"))}
    if model.trust_remote_code:
        mapping["trust_remote_code"] = True
    mapping |= {name: model.options[name] for name in MODEL_OPTIONS if name in model.options}
    if rest := {name: _plain(value) for name, value in model.options.items() if name not in MODEL_OPTIONS}:
        mapping["options"] = rest
    return model.uri if set(mapping) == {"uri"} else mapping


def _target(recipe: Recipe) -> dict[str, Any]:
    mapping = _changed(recipe.target, tuple(item.name for item in dataclasses.fields(recipe.target)))
    if recipe.target_host is not None:
        mapping["host"] = recipe.target_host
    if "memory" in mapping:
        mapping["memory"] = sizes.text_of(mapping["memory"])
    return mapping


def _data(config: DataConfig, folder: Path) -> dict[str, Any]:
    mapping: dict[str, Any] = _changed(config, tuple(item.name for item in dataclasses.fields(config)))
    if "files" in mapping:
        files = [file if "://" in file else _relative(Path(file), folder) for file in config.files]
        mapping["files"] = files[0] if len(files) == 1 else files
    return mapping


def _relative(file: Path, folder: Path) -> str:
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def _entry(entry: StepSpec | MetricSpec) -> dict[str, Any]:
    mapping: dict[str, Any] = {} if entry.type in {entry.name, ""} else {"type": entry.type}
    if isinstance(entry, StepSpec) and entry.host is not None:
        mapping["host"] = entry.host
    return {**mapping, **_plain(entry.fields)}


def _step(step: StepSpec, folder: Path) -> dict[str, Any]:
    mapping = _entry(step)
    for key in FOLDERS_OF_PASSES:
        if isinstance(mapping.get(key), Mapping):
            mapping[key] = {name: _relative(Path(str(at)), folder) for name, at in mapping[key].items()}
    return mapping


def _metric(metric: MetricSpec, folder: Path) -> dict[str, Any]:
    mapping = _entry(metric)
    for key in FILES_OF_METRICS:
        if isinstance(mapping.get(key), str):
            mapping[key] = _relative(Path(mapping[key]), folder)
    return mapping


def _changed(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    defaults = {item.name: item.default for item in dataclasses.fields(value)}
    return {name: getattr(value, name) for name in names if getattr(value, name) != defaults[name]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Short lists on one line; texts with line breaks in quotes, so that they read back exactly."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # lists stay indented below their key


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if value.isprintable() else '"'
    node = dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)
    if style is None and _reads_otherwise(value):
        node.style = "'"
    return node


def _real(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    special = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
    return dumper.represent_scalar("tag:yaml.org,2002:float", special.get(repr(value), repr(value)))


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    flat = all(not isinstance(item, list | dict) for item in value) and len(str(value)) <= 80
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


def _reads_otherwise(value: str) -> bool:
    """Say whether our reader would take the bare text for a number, a boolean or null."""
    from picual.errors import BadValue
    from picual.recipe.yaml_text import value_of

    try:
        return bool(value_of(value) != value)
    except BadValue:
        return False  # YAML's own writer quotes what cannot stand bare


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _real)
_Dumper.add_representer(list, _list)
