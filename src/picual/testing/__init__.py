"""What a plug-in author tests with: the contract kit and tiny models. Needs pytest; loads it when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picual.testing.contract import PassContract
    from picual.testing.taught import taught_model
    from picual.testing.tiny import tiny_model

__all__ = ["PassContract", "taught_model", "tiny_model"]

_HOMES = {
    "PassContract": "picual.testing.contract",
    "taught_model": "picual.testing.taught",
    "tiny_model": "picual.testing.tiny",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only that."""
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(_HOMES[name]), name)
