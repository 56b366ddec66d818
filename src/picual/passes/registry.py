"""Which passes there are: a table of strings and the entry points of other packages. Listing imports none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from picual.errors import UnknownName, nearest
from picual.passes.base import Pass
from picual.space import Settings

BUILT_IN: dict[str, str] = {
    "lora": "picual.passes.finetune.lora:Lora",
    "full-finetune": "picual.passes.finetune.full_finetune:FullFinetune",
    "qlora": "picual.passes.finetune.qlora:Qlora",
    "merge-adapter": "picual.passes.adapters.merge:MergeAdapter",
    "rotate": "picual.passes.rotate.rotate:Rotate",
    "quantize": "picual.passes.quantize.quantize:Quantize",
    "rtn": "picual.passes.quantize.rtn:Rtn",
    "hqq": "picual.passes.quantize.hqq:Hqq",
    "gptq": "picual.passes.quantize.gptq:Gptq",
    "awq": "picual.passes.quantize.awq:Awq",
    "autoround": "picual.passes.quantize.autoround:AutoRound",
    "build-genai": "picual.passes.export.genai:BuildGenai",
    "export-transformers": "picual.passes.export.transformers_folder:ExportTransformers",
    "export-mlflow": "picual.passes.export.mlflow_folder:ExportMlflow",
}
GROUP = "picual.passes"


def names() -> list[str]:
    """Return every known pass name, our own first."""
    return [*BUILT_IN, *(name for name in _plugged_in() if name not in BUILT_IN)]


def load(name: str) -> type[Pass[Any, Any]]:
    """Import and return one pass class.

    Raises:
        UnknownName: No pass has that name; the nearest are in the hint.
    """
    location = BUILT_IN.get(name) or _plugged_in().get(name)
    if location is None:
        raise UnknownName(f"unknown pass `{name}`", hint=nearest(name, names()))
    module, _, attribute = location.partition(":")
    loaded: type[Pass[Any, Any]] = getattr(importlib.import_module(module), attribute)
    assert issubclass(loaded, Pass)
    return loaded


def page(name: str) -> str:
    """Return what a pass says about itself: the docstring of its module."""
    return (sys.modules[load(name).__module__].__doc__ or "").strip()


def build(name: str, values: Mapping[str, Any]) -> Pass[Any, Any]:
    """Return a pass from its JSON form; lists become tuples, so that the value is hashable."""
    return from_values(load(name), values)


def from_values(kind: type[Pass[Any, Any]], values: Mapping[str, Any]) -> Pass[Any, Any]:
    """Return a pass of a class from its JSON form, registered or not."""
    return kind(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return Settings({key: _frozen(item) for key, item in value.items()})
    return value


def _plugged_in() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}
