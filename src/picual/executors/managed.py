"""Virtual environments that Picual makes from a requirements file, one for each content of it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import filelock

from picual import _atomic
from picual.errors import EnvironmentFault
from picual.executors.host import Surroundings
from picual.executors.interpreter import ask, python_in
from picual.executors.wheel import normal, requirements

SAID = 300  # characters of what pip says; it may list every version that there ever was
_PIN = re.compile(r"^\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)")


@dataclass(frozen=True)
class Managed:
    """An environment made from a file.

    Attributes:
        requirements: As pip reads it.
        python: That makes it; None: the one that is running.
        inherit: Whether what it does not hold is looked for in the packages of the Python that is running.
    """

    requirements: Path
    python: Path | None
    inherit: bool

    def folder(self, state: Path) -> Path:
        """Return where it lies, made or not.

        Raises:
            EnvironmentFault: The file of requirements is not there.
        """
        parts = [self._content(), str(self.python or sys.executable).encode(), sys.version.encode()]
        if self.inherit:
            parts.append(b"inherit")
        return state / "environments" / hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    def made(self, state: Path) -> Path | None:
        """Return its interpreter, or None if it is not made yet."""
        folder = self.folder(state)
        return python_in(folder) if (folder / "ready").exists() else None

    def require_maker(self) -> None:
        """Raise unless the Python that is to make it can be asked and is new enough.

        Raises:
            EnvironmentFault: It is not.
        """
        if self.python is not None:
            ask(self.python).require_new_enough()

    def make(self, around: Surroundings) -> Path:
        """Make it unless it is there, and return its interpreter.

        Raises:
            EnvironmentFault: pip could not do it, or the network is forbidden.
        """
        folder = self.folder(around.state)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if (known := self.made(around.state)) is not None:
                return known
            if around.offline:
                raise EnvironmentFault(
                    "the environment is not made yet, and that needs the network",
                    where=str(self.requirements),
                    hint="run once without `--offline`",
                )
            around.emit("environment", status="start", requirements=str(self.requirements))
            _atomic.remove(folder)  # half an environment of a killed run
            self._make(folder)
            (folder / "ready").touch()
            around.emit("environment", status="done", requirements=str(self.requirements))
            return python_in(folder)

    def pins(self) -> dict[str, str]:
        """Return the versions that the file pins, by normal name."""
        lines = self._content().decode("utf-8", errors="replace").splitlines()
        found = [match for line in lines if (match := _PIN.match(line))]
        return {normal(match[1]): match[2] for match in found}

    def _content(self) -> bytes:
        hint = "name another file under `requirements`, or add `--host local` to run without it"
        if not self.requirements.is_file():
            what = "there is no such file of requirements"
            raise EnvironmentFault(what, where=str(self.requirements), hint=hint)
        try:
            return self.requirements.read_bytes()
        except OSError as error:
            what = f"the file of requirements cannot be read: {error.strerror}"
            raise EnvironmentFault(what, where=str(self.requirements), hint=hint) from error

    def _make(self, folder: Path) -> None:
        _call([str(self.python or sys.executable), "-m", "venv", str(folder)], self.requirements)
        python = python_in(folder)
        core = [] if self.inherit else requirements()
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Without dependencies where the rest is inherited: pip would fetch anew all that is already seen.
        alone = ["--no-deps"] if self.inherit else []
        _call([*install, *alone, "-r", str(self.requirements), *core], self.requirements)
        if self.inherit:
            place = next(iter([*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")]))
            lines = [path for path in (*site.getsitepackages(), *_added()) if Path(path).is_dir()]
            (place / "inherited.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _added() -> list[str]:
    """Return folders on the path of the running Python that its own environment does not explain."""
    prefix = str(Path(sys.prefix))
    return [path for path in sys.path if path.endswith("site-packages") and not path.startswith(prefix)]


def _call(command: list[str], requirements: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise EnvironmentFault(
            f"the environment could not be made: {_told(done.stderr or done.stdout)}",
            where=str(requirements),
            hint=f"`{shlex.join(word for word in command if word != '--quiet')}` tells more",
        )


def _told(said: str) -> str:
    """Return what matters of what a command said: its last error, which sums up those before, cut short."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    last = (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")
    return last if len(last) <= SAID else f"{last[:SAID]} ..."
