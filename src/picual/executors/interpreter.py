"""Another Python on this machine: what it has, asked of it once, and Picual's own code for it."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import picual
from picual import _atomic, fingerprint
from picual.errors import DeviceUnavailable, EnvironmentFault, MissingDependency
from picual.executors.wheel import normal, requirements_of

OLDEST = (3, 11)
ASK_SECONDS = 60.0
SAID = 200  # characters of what an interpreter prints instead of an answer
# What a worker imports before any pass: without these the interpreter cannot answer at all.
NEEDED = ("filelock", "psutil", "platformdirs", "yaml", "jinja2")
_QUESTION = """
import importlib.util, json, re, sys
from importlib import metadata
versions = {}
for found in metadata.distributions():
    name = found.metadata["Name"]
    if name:
        versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), found.version)
needed = sys.argv[1:]
print(json.dumps({
    "version": list(sys.version_info[:3]), "versions": versions,
    "missing": [name for name in needed if importlib.util.find_spec(name) is None],
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """What one Python has."""

    python: Path
    version: tuple[int, ...]
    versions: Mapping[str, str]  # of every distribution, by its normal name
    missing: tuple[str, ...]  # of ``NEEDED``

    def version_of(self, distribution: str) -> str:
        """Return the version of a distribution, or ``""``."""
        return self.versions.get(normal(distribution), "")

    def can_import(self, module: str) -> bool:
        """Say whether a module could be imported there, without importing it."""
        return _can_import(self.python, module, _age(self.python))

    @property
    def pip(self) -> str:
        """The command that installs packages there."""
        return f"{shlex.quote(str(self.python))} -m pip install"

    def require_new_enough(self) -> None:
        """Raise unless Picual's code runs in that version.

        Raises:
            EnvironmentFault: It is too old.
        """
        if self.version < OLDEST:
            raise _too_old(self.python, ".".join(map(str, self.version)))

    def require(self) -> None:
        """Raise unless workers can run in it.

        Raises:
            EnvironmentFault: It is too old.
            MissingDependency: It lacks what every worker imports.
        """
        self.require_new_enough()
        if self.missing:
            raise MissingDependency(
                f"the environment lacks {', '.join(f'`{name}`' for name in self.missing)}",
                where=str(self.python),
                hint=f"{self.pip} {shlex.join(requirements_of(self.missing))}",
            )


def python_in(path: Path) -> Path:
    """Return the interpreter that ``path`` means: itself, or the one in that environment or its ``bin``.

    Raises:
        DeviceUnavailable: There is none.
    """
    if path.is_file():
        return path
    names = [path / folder / name for folder in ("bin", "Scripts", ".") for name in ("python", "python.exe")]
    for name in names:
        if name.is_file():
            return name
    raise DeviceUnavailable(
        "there is no Python here", where=str(path), hint="give the folder of a virtual environment, or a `python`"
    )


def ask(python: Path) -> Interpreter:
    """Ask an interpreter what it has; the answer is kept while its packages' folders do not change.

    Raises:
        EnvironmentFault: It does not answer.
    """
    return _asked(python, _age(python))


@functools.lru_cache(maxsize=16)
def _asked(python: Path, age: tuple[int, ...]) -> Interpreter:
    del age  # only a key: another state of its packages is another answer
    command = [str(python), "-I", "-c", _QUESTION, *NEEDED]
    done = _called(command)
    try:
        found = json.loads(done.stdout)
        return Interpreter(python, tuple(found["version"]), found["versions"], tuple(found["missing"]))
    except (ValueError, TypeError, KeyError):  # whatever it is, it did not do what it was asked
        raise _no_answer(python, done) from None


def _called(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command and return how it ended.

    Raises:
        EnvironmentFault: It cannot be run, or does not end.
    """
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _not_started(Path(command[0]), f"no answer in {ASK_SECONDS:.0f} s") from None
    except OSError as error:
        raise _not_started(Path(command[0]), error.strerror or str(error)) from error


def _no_answer(python: Path, done: subprocess.CompletedProcess[str]) -> EnvironmentFault:
    """Return the error for an interpreter that did not do what it was asked: often it is of another age."""
    named = _called([str(python), "--version"])
    version = re.search(r"^Python (\d[\w.+]*)", f"{named.stdout}\n{named.stderr}", re.MULTILINE)
    if version is not None and tuple(map(int, re.findall(r"\d+", version[1])[:2])) < OLDEST:
        return _too_old(python, version[1])
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
    said = f"it said `{lines[-1][:SAID]}`" if lines else "it said nothing"
    ended = f" and ended with code {done.returncode}" if done.returncode else ""
    calls_itself = f"; it calls itself Python {version[1]}" if version is not None else ""
    return _not_started(python, f"{said}{ended}{calls_itself}")


def _not_started(python: Path, told: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the Python of this environment does not answer: {told}",
        where=str(python),
        hint=f"{shlex.quote(str(python))} -c 'print(1)'",
    )


def _too_old(python: Path, version: str) -> EnvironmentFault:
    oldest = ".".join(map(str, OLDEST))
    return EnvironmentFault(
        f"Python {version} is too old for Picual's worker, which needs {oldest}",
        where=str(python),
        hint=f"make another: `python{oldest} -m venv DIR`, and give its folder as `path`",
    )


@functools.lru_cache(maxsize=256)
def _can_import(python: Path, module: str, age: tuple[int, ...]) -> bool:
    del age
    question = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    done = subprocess.run([str(python), "-I", "-c", question, module], capture_output=True, check=False)
    return done.returncode == 0


def _age(python: Path) -> tuple[int, ...]:
    folders = [
        *python.parent.parent.glob("lib/python*/site-packages"),
        *python.parent.parent.glob("Lib/site-packages"),
    ]
    return tuple(place.stat().st_mtime_ns for place in [python, *folders])


def own_code(state: Path) -> Path:
    """Return a folder that holds this very Picual and nothing else, for another interpreter's path.

    The folder of an installed package would bring all its neighbours along, of other versions than asked for.
    """
    source = Path(picual.__file__).parent
    files = [path for path in fingerprint.files_under(source) if "__pycache__" not in path.parts]
    digest = fingerprint.folder_digest({str(f.relative_to(source)): fingerprint.file_digest(f) for f in files})
    place = state / "code" / digest[:16]
    if not place.is_dir():
        with _atomic.new_folder(place) as folder:
            for file in files:
                copy = folder / "picual" / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    return place
