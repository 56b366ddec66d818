"""A registry of models, as a recipe describes it under ``register:``. A frozen value, like a host."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual import _lazy
from picual.errors import PicualError


@dataclass(frozen=True, kw_only=True)
class FinishedModel:
    """A verified model in its place.

    Attributes:
        folder: With its files and nothing else.
        files: By name relative to the folder: ``{"size": bytes, "sha256": hex}``, as they were verified.
        key: Of the step that made it: equal keys are equal models.
        lineage: Where it came from, texts by name.
    """

    folder: Path
    files: Mapping[str, Mapping[str, Any]]
    key: str
    lineage: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version of a model in a registry; ``new`` says whether it was made just now."""

    name: str
    version: str
    address: str  # that `model:` of a recipe takes
    new: bool


@dataclass(frozen=True, kw_only=True)
class Registry(abc.ABC):
    """One kind of registry.

    Attributes:
        kind: Its ``type`` in a recipe.
        imports, extra: Packages that this machine needs to reach it, and what installs them.
        host_type: Type of the hosts that know where it is.
        place: Fields that say where it is; a host says them in their stead.
        borrowed: Fields that are the host's where the recipe does not give them.
    """

    kind: ClassVar[str]
    imports: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    host_type: ClassVar[str] = ""
    place: ClassVar[tuple[str, ...]] = ()
    borrowed: ClassVar[tuple[str, ...]] = ()

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What a model is registered as: its name, and where."""

    def obstacles(self) -> Sequence[PicualError]:
        """Return what on this machine stops the registry from being used; no network, no heavy import."""
        absent = [module for module in self.imports if not _lazy.is_installed(module)]
        return [_lazy.missing(module, extra=self.extra, by="register") for module in absent[:1]]

    @abc.abstractmethod
    def register(self, model: FinishedModel, told: Callable[[int, int], None]) -> Registered:
        """Register a model, or find the version that is this very model.

        Args:
            model: To register.
            told: Called with the bytes that are sent, and with how many there are.

        Raises:
            PicualError: It cannot be registered; what was sent is kept for the next attempt.
        """
