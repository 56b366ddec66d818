"""Which passes there are: a table of strings and the entry points of other packages. Listing imports none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from picual import _plugins
from picual.passes.base import Pass
from picual.space import frozen

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
    return _plugins.names(BUILT_IN, GROUP)


def load(name: str) -> type[Pass[Any, Any]]:
    """Import and return one pass class.

    Raises:
        UnknownName: No pass has that name; the nearest are in the hint.
    """
    loaded: type[Pass[Any, Any]] = _plugins.load(name, BUILT_IN, GROUP, "pass")
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
    return kind(**{key: frozen(value) for key, value in values.items()})
