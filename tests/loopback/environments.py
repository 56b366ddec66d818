"""The Python that a job gets: made for its environment once, and handed over as variables.

This one takes the running interpreter's packages for what the image and the conda file ask for. A strict one, with
nothing but what they name, takes its place by ``Compute.prepare``.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class JobEnvironment:
    """What an environment asks for, and where the files it may name lie."""

    image: str = ""
    conda: Mapping[str, Any] | None = None
    dockerfile: str = ""
    files: Path  # the build's context, or the job's code: what relative paths are relative to
    cache: Path  # where what is made may stay for the next job

    def pip(self) -> list[str]:
        """Return the pip section of the conda file."""
        lines: list[str] = []
        for entry in (self.conda or {}).get("dependencies", []):
            if isinstance(entry, Mapping):
                lines += [str(line) for line in entry.get("pip", [])]
        return lines

    def wheels(self) -> list[Path]:
        """Return the wheels that the pip section, or a ``pip install`` of the Dockerfile, names."""
        named = [line.split("#")[0].strip() for line in self.pip()]
        for line in self.dockerfile.splitlines():
            if "pip install" in line:
                named += re.findall(r"\S+\.whl", line)
        found = [self.files / Path(name).name if name.startswith("/") else self.files / name
                 for name in named if name.endswith(".whl")]  # fmt: skip
        return [wheel for wheel in found if wheel.is_file()]


Prepare = Callable[[JobEnvironment], Mapping[str, str]]

_LOCK = threading.Lock()


def shared_python(environment: JobEnvironment) -> dict[str, str]:
    """Return the variables of a virtual environment that sees this interpreter's packages and the named wheels.

    Packages that this interpreter has installed for editing are not seen: a job finds
    them as a wheel or not at all.
    """
    wheels = environment.wheels()
    named = hashlib.sha256()
    for wheel in wheels:
        named.update(wheel.read_bytes())
    home = environment.cache / f"python-{named.hexdigest()[:16]}"
    with _LOCK:
        if not (home / "ready").exists():
            _make(home, wheels)
            (home / "ready").touch()
    return {"PATH": f"{home / 'bin'}:/usr/local/bin:/usr/bin:/bin", "VIRTUAL_ENV": str(home)}


def _make(home: Path, wheels: list[Path]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    # A plain path: its own .pth files, which is how packages are installed for editing, are not followed.
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if wheels:
        command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
        plain = ["--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([*command, *plain, *map(str, wheels)], check=True)
