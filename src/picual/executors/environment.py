"""Another Python environment on this machine: one that is there, or one that Picual makes from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from picual import _lazy
from picual.errors import BadValue, PicualError
from picual.executors.base import Executor
from picual.executors.host import Host, Surroundings
from picual.executors.interpreter import Interpreter, ask, own_code, python_in
from picual.executors.managed import Managed
from picual.executors.process import ProcessExecutor
from picual.executors.wheel import normal
from picual.space import Settings, param


@dataclass(frozen=True, kw_only=True)
class Environment(Host):
    """A worker process in another interpreter, which runs this very Picual's code."""

    kind: ClassVar[str] = "environment"

    path: str | None = param(
        None, help="Folder of a virtual environment, or its `python`; with `requirements`, what makes it.",
        role="path",
    )  # fmt: skip
    requirements: str | None = param(
        None, help="File from which Picual makes the environment, as `pip install -r` reads it.", role="path"
    )
    inherit: bool = param(
        False, help="Take what `requirements` does not name from the packages that Picual itself runs with."
    )
    environment_variables: Mapping[str, str] = param(Settings(), help="Set for the worker.")
    prepend_to_path: tuple[str, ...] = param((), help="Folders that come first in the worker's `PATH`.")

    def __post_init__(self) -> None:
        """Refuse a host that names no environment."""
        if self.path is None and self.requirements is None:
            raise BadValue("it needs `path` or `requirements`", hint="`path: .venv`, or `requirements: lock.txt`")
        if self.inherit and self.path is not None:
            raise BadValue(
                "`inherit` takes the packages of the Python that is running, and `path` names another",
                hint="leave out one of them",
            )

    def obstacles(self, state: Path) -> Sequence[PicualError]:
        """Return what is wrong with the environment, or with what it is to be made from."""
        try:
            found = self._found(state)
            managed = self._managed()
            if found is not None:
                found.require()
            elif managed is not None:
                managed.require_maker()
        except PicualError as error:
            return [error]
        return []

    def prepare(self, around: Surroundings) -> None:
        """Make the environment, if it is to be made from a file."""
        if (managed := self._managed()) is not None:
            ask(managed.make(around)).require()

    def version_of(self, distribution: str, state: Path) -> str:
        """Return the version there; what the file pins, while the environment is not made."""
        found = self._found(state)
        if found is not None:
            return found.version_of(distribution)
        managed = self._managed()
        assert managed is not None
        inherited = _lazy.version_of(distribution) if self.inherit else ""
        return managed.pins().get(normal(distribution), inherited)

    def has(self, module: str, state: Path) -> bool:
        """Say whether a module is there; yes, while the environment is not made."""
        try:
            found = self._found(state)
        except PicualError:  # told by ``obstacles``
            return True
        return found is None or found.can_import(module)

    def pip(self, state: Path) -> str:
        """Return the command that installs packages there."""
        try:
            found = self._found(state)
        except PicualError:  # told by ``obstacles``
            found = None
        return super().pip(state) if found is None else found.pip

    def executor(self, around: Surroundings) -> Executor:
        """Return a process executor for the environment's interpreter."""
        found = self._found(around.state)
        if found is None:
            self.prepare(around)
            found = self._found(around.state)
        assert found is not None
        found.require()
        folders = [*self.prepend_to_path, str(found.python.parent)]
        variables = {
            **self.environment_variables,
            "PYTHONPATH": str(own_code(around.state)),
            "PATH": os.pathsep.join([*folders, os.environ.get("PATH", "")]),
        }
        return ProcessExecutor(found.python, variables)

    def _managed(self) -> Managed | None:
        if self.requirements is None:
            return None
        python = None if self.path is None else python_in(Path(self.path))
        return Managed(Path(self.requirements), python, self.inherit)

    def _found(self, state: Path) -> Interpreter | None:
        """Return the interpreter; None while it is not made."""
        managed = self._managed()
        if managed is None:
            assert self.path is not None
            return ask(python_in(Path(self.path)))
        python = managed.made(state)
        return None if python is None else ask(python)
