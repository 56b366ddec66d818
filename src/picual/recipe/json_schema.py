"""The native recipe as JSON Schema, for editors: generated from the same declarations that read it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from picual.data.base import DataConfig
from picual.executors import registry as host_registry
from picual.hardware import PROVIDERS, Target
from picual.metrics import registry as metric_registry
from picual.passes import registry as pass_registry
from picual.recipe.fields import hints_of
from picual.recipe.native import MODEL_OPTIONS, VERSION
from picual.recipe.schema import ModelSource, Recipe
from picual.registries import kinds as registry_kinds
from picual.search import samplers

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_SIZE = {"type": ["integer", "string", "null"], "description": "Bytes, or a size such as `8GB`."}
_DOMAIN = {
    "anyOf": [
        {"type": "array", "minItems": 1},
        {
            "type": "object",
            "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
            "required": ["low", "high"],
            "additionalProperties": False,
        },
        {"const": "default"},
    ],
    "description": "Values to try: a list, a range, or `default` for what the pass suggests.",
}
_SEARCH = {
    "type": "object",
    "properties": {"search": _DOMAIN},
    "required": ["search"],
    "additionalProperties": False,
}
_MEASURED = {"description": "METRIC or METRIC.KEY, one or several.", "type": ["string", "array"]}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a native recipe; every known pass and metric is in it."""
    recipe = hints_of(Recipe)
    return {
        "$schema": DIALECT,
        "title": "Picual recipe",
        **_object(
            {
                "version": {"const": VERSION, "description": "Of the recipe's format."},
                "model": {"anyOf": [{"type": "string"}, _model()], "description": "What to start from."},
                "target": {**_target(), "description": "What the model is made for."},
                "host": {"type": "string", "description": "Where steps run: `local`, or one of `hosts`."},
                "hosts": {"type": "object", "additionalProperties": _host()},
                "data": {"type": "object", "additionalProperties": {"$ref": "#/$defs/data"}},
                "passes": _entries("passes", pass_registry.names()),
                "metrics": _entries("metrics", metric_registry.names()),
                "search": {
                    "anyOf": [_goals(), {"type": "null"}],
                    "description": "What is best, and within which limits.",
                },
                "seed": {**_type(recipe["seed"]), "description": "For every random choice."},
                "threads": {**_type(recipe["threads"]), "description": "For every thread pool."},
                "output": {**_type(recipe["output"]), "description": "Folder of the result."},
                "store": {**_type(recipe["store"]), "description": "Folder of the store."},
                "tracking": {**_type(recipe["tracking"]), "description": "MLflow server that gets the report."},
                "register": {
                    "anyOf": [*_registries(), {"type": "null"}],
                    "description": "Where the verified result is registered as a version of a model.",
                },
                "log": _type(recipe["log_level"]),
            },
            required=("version", "model"),
        ),
        "$defs": {
            "data": _data(),
            **{f"passes.{name}": _fields_of(pass_registry.load(name), "host") for name in pass_registry.names()},
            **{f"metrics.{name}": _fields_of(metric_registry.load(name)) for name in metric_registry.names()},
        },
    }


def _goals() -> dict[str, Any]:
    bound = {
        "type": ["string", "array"],
        "description": "`<= 110MB`, `>= 0.99 * unquantized`, `<= baseline - 20%`.",
    }
    return _object({
        "minimize": _MEASURED,
        "maximize": _MEASURED,
        "objectives": {"type": "array", "description": "`{minimize: NAME}` or `{maximize: NAME}`, in order."},
        "subject_to": {"type": "object", "additionalProperties": bound, "description": "Limits by measurement."},
        "sampler": {"enum": ["auto", *samplers.names()]},
        "trials": {"type": "integer", "minimum": 1, "description": "At most."},
        "timeout": {"type": ["string", "number"], "description": "After which no trial begins: `2h`, or seconds."},
        "stop_when_met": {"type": "boolean", "description": "End at the first candidate inside all limits."},
        "order": {"enum": ["joint", "pass-by-pass"]},
        "seed": {"type": ["integer", "null"], "description": "Of the sampler; left out: the recipe's."},
        "parallel": {"type": ["integer", "null"], "minimum": 1, "description": "Trials at a time."},
    })  # fmt: skip


def _object(properties: Mapping[str, Any], *, required: Iterable[str] = ()) -> dict[str, Any]:
    asked = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **asked}


def _model() -> dict[str, Any]:
    hints = hints_of(ModelSource)
    names = ("revision", "format", "adapter", "trust_remote_code")
    properties: dict[str, Any] = {name: {"type": "string"} for name in ("uri", "path", "name", *MODEL_OPTIONS)}
    properties |= {name: _type(hints[name]) for name in names}
    properties["options"] = {"type": "object"}
    one_of = [{"required": [name]} for name in ("uri", "path", "name")]
    return {**_object(properties), "oneOf": one_of}


def _target() -> dict[str, Any]:
    properties = {name: _type(hint) for name, hint in hints_of(Target).items()}
    properties["host"] = {
        "type": "string",
        "description": "Where models are checked and measured; left out: `host`.",
    }
    return _object({**properties, "provider": {"enum": list(PROVIDERS)}, "memory": _SIZE})


def _host() -> dict[str, Any]:
    kinds = [
        {**_object({"type": {"const": name}, **_fields(host_registry.load(name))}), "required": ["type"]}
        for name in host_registry.names()
    ]
    return {"type": "object", "oneOf": kinds}


def _registries() -> list[dict[str, Any]]:
    host = {"host": {"type": "string", "description": "One of `hosts`, whose workspace it is."}}
    kinds = {name: registry_kinds.load(name) for name in registry_kinds.names()}
    return [
        _object(
            {"type": {"const": name}, **(host if kind.host_type else {}), **_fields(kind)},
            required=["name"] if name == registry_kinds.DEFAULT else ["type", "name"],
        )
        for name, kind in kinds.items()
    ]


def _data() -> dict[str, Any]:
    described = _fields(DataConfig)
    files = {"anyOf": [{"type": "string"}, described["files"]], "description": described["files"]["description"]}
    return _object({**described, "files": files})


def _entries(section: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the schema of `passes:` or `metrics:`: the key names the pass, unless `type:` does."""
    known = list(names)
    references = {name: {"anyOf": [{"$ref": f"#/$defs/{section}.{name}"}, {"type": "null"}]} for name in known}
    typed = [
        {"allOf": [{"$ref": f"#/$defs/{section}.{name}"}], "properties": {"type": {"const": name}}}
        for name in known
    ]
    by_type = {"type": "object", "required": ["type"], "oneOf": typed}
    by_key = {
        name: {"if": {"type": "object", "required": ["type"]}, "then": by_type, "else": reference}
        for name, reference in references.items()
    }
    if section == "passes":  # a choice between whole passes
        among = {
            **_SEARCH,
            "properties": {"search": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
        }
        by_key = {name: {"anyOf": [one, among]} for name, one in by_key.items()}
        by_type = {"anyOf": [by_type, among]}
    return {"type": ["object", "null"], "properties": by_key, "additionalProperties": by_type}


def _fields_of(kind: type[Any], *reserved: str) -> dict[str, Any]:
    own = {name: {"type": "string"} for name in ("type", *reserved)}
    summary = (kind.__doc__ or "").strip().splitlines()[:1]
    required = [item.name for item in dataclasses.fields(kind) if _is_required(item)]
    found = _object({**own, **_fields(kind, search=True)}, required=required)
    return {"description": summary[0], **found} if summary else found


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _fields(kind: type[Any], *, search: bool = False) -> dict[str, Any]:
    hints = hints_of(kind)
    return {item.name: _field(item, hints[item.name], search=search) for item in dataclasses.fields(kind)}


def _field(item: dataclasses.Field[Any], hint: Any, *, search: bool) -> dict[str, Any]:
    unit = item.metadata.get("unit", "")
    found = dict(_SIZE) if unit == "byte" else _type(hint)
    if search:
        found = {"anyOf": [found, _SEARCH]}
    words = [item.metadata.get("help", ""), f"Unit: {unit}." if unit else ""]
    described = {**found, "description": " ".join(word for word in words if word)}
    if not _is_required(item) and item.default is not dataclasses.MISSING and item.default is not None:
        described["default"] = list(item.default) if isinstance(item.default, tuple) else item.default
    return described


def _type(hint: Any) -> dict[str, Any]:
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_type(one) for one in arguments]}
    if origin in {tuple, list}:
        return {"type": "array", "items": {} if arguments[0] is Any else _type(arguments[0])}
    return {} if hint is Any else {"type": "object"}
