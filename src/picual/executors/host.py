"""A host: where jobs run, as a recipe describes it under ``hosts:``. A frozen value, like a pass.

Each field is declared once, with ``picual.space.param``; the check of a recipe, the JSON Schema and the
reference page are derived from it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual import _lazy
from picual.errors import PicualError
from picual.executors.base import Executor
from picual.hardware import Machine

Files = Mapping[str, Mapping[str, Any]]  # name relative to a root -> {"size": bytes, "sha256": hex}

PIP = "pip install"  # into the Python that is running


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the engine lends to a host.

    Attributes:
        state: Folder of this machine that outlives runs: environments, what nodes share.
        files: Tells size and digest of every file below a folder, or of one file.
        offline: Whether the network may be used.
        emit: Says what happens, as an event.
    """

    state: Path
    files: Callable[[Path], Files] = lambda _: {}
    offline: bool = False
    emit: Callable[..., None] = lambda name, **values: None


@dataclass(frozen=True, kw_only=True)
class Host(abc.ABC):
    """One kind of host.

    Attributes:
        kind: Its ``type`` in a recipe.
        imports, extra: Packages that this machine needs to reach it, and what installs them.
        elsewhere: Whether jobs run on other machines, whose memory, packages and devices are not this one's.
        gathers: Whether a job takes so long to begin that a step and its checks are one.
        exact: Whether a job there is refused unless versions and kind of machine are those of its key.
    """

    kind: ClassVar[str]
    imports: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    elsewhere: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    gathers: ClassVar[bool] = False

    def obstacles(self, state: Path) -> Sequence[PicualError]:
        """Return what on this machine stops the host from being used; no network, no heavy import."""
        del state
        absent = [module for module in self.imports if not _lazy.is_installed(module)]
        return [_lazy.missing(module, extra=self.extra, by=f"host type {self.kind}") for module in absent[:1]]

    def prepare(self, around: Surroundings) -> None:
        """Make what the plan must know of before it gives keys: an environment and its versions."""
        del around

    def version_of(self, distribution: str, state: Path) -> str:
        """Return the version of a library there: it is part of a step's key."""
        del state
        return _lazy.version_of(distribution)

    def has(self, module: str, state: Path) -> bool:
        """Say whether a module can be imported there."""
        del state
        return _lazy.is_installed(module)

    def pip(self, state: Path) -> str:
        """Return the command that installs packages there."""
        del state
        return PIP

    def device_class(self, machine: Machine) -> str:
        """Name the kind of machine it is, given this one: equal names promise equal bytes."""
        return machine.device_class

    def threads_of(self, machine: Machine) -> int:
        """Return how many threads a job gets there if the recipe does not say."""
        return machine.cores

    def at_once(self, cores: int, memory: int) -> int:
        """Return how many jobs may run at a time on other machines, each of so many cores and bytes."""
        del cores, memory
        return 1

    @abc.abstractmethod
    def executor(self, around: Surroundings) -> Executor:
        """Return what runs jobs there, one at a time."""
