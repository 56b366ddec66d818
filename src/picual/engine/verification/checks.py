"""What the gate answers with, and which function answers for which promise."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from picual.models import Model
from picual.passes.base import Promise

# Class name of a promise -> the function that checks it. Strings: listing them loads no library.
CHECKERS: dict[str, str] = {
    "AdapterTrained": "picual.engine.verification.adapter:check",
    "AdapterMerged": "picual.engine.verification.merge:check",
    "NetworkTrained": "picual.engine.verification.trained:check",
    "NetworkRotated": "picual.engine.verification.rotated:check",
    "WeightsQuantized": "picual.engine.verification.quantized:check",
    "WeightsScaled": "picual.engine.verification.scaled:check",
    "IntegersKept": "picual.engine.verification.packed:check",
    "MlflowFolderWritten": "picual.engine.verification.mlflow_folder:check",
    "WeightsExported": "picual.engine.verification.weights:check",
    "RuntimeAgrees": "picual.engine.verification.fidelity:check",
    "PromptContractKept": "picual.engine.verification.prompt:check",
}


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it held, and how far from the bound it was."""

    name: str
    passed: bool
    measured: float | None = None
    bound: float | None = None
    detail: str = ""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form; JSON has no infinity and no NaN, so such a number becomes null."""
        wire = asdict(self)
        for key in ("measured", "bound"):
            if wire[key] is not None and not math.isfinite(wire[key]):
                wire[key] = None
        return wire


@dataclass(frozen=True)
class Bench:
    """What a check may use."""

    threads: int = 1
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _name, _values: None

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Say how far the check is."""
        self.on_event("progress", {"done": done, "total": total, "note": note})


class Checker(Protocol):
    """Compares what a step was given with what it made. A bad model is a failed check, not an error."""

    def __call__(self, promise: Any, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
        """Yield the findings."""
        ...


def promise_kinds() -> tuple[str, ...]:
    """Return the class names of the promises that the gate can check."""
    return tuple(CHECKERS)


def checker_of(promise: Promise) -> Checker:
    """Return the function that checks this class of promise."""
    module, _, function = CHECKERS[type(promise).__name__].partition(":")
    loaded: Checker = getattr(importlib.import_module(module), function)
    return loaded


def some(names: list[str], *, of: int = 3) -> str:
    """Return the first names in backquotes, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:of])
    return shown + (f" and {len(names) - of} more" if len(names) > of else "")
