"""This machine, in the interpreter that is running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from picual.executors.base import Executor
from picual.executors.host import Host, Surroundings
from picual.executors.process import ProcessExecutor


@dataclass(frozen=True, kw_only=True)
class Local(Host):
    """A warm worker process on this machine."""

    kind: ClassVar[str] = "local"

    def executor(self, around: Surroundings) -> Executor:
        """Return a process executor."""
        del around
        return ProcessExecutor()
