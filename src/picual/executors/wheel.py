"""This very Picual as a wheel, and what it needs: for machines that it is not installed on.

Source: the binary distribution format of the Python packaging guide (wheel 1.0).
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import picual
from picual import fingerprint

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file inside: the same code gives the same bytes
# Modules that go by another name than the distribution that brings them.
_DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "mobius": "mobius-onnx"}
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")


def write_wheel(folder: Path) -> Path:
    """Write the package as it runs here into ``folder`` and return the file; its requirements are left out."""
    source = Path(picual.__file__).parent
    files = [path for path in fingerprint.files_under(source) if "__pycache__" not in path.parts]
    info = f"picual-{picual.__version__}.dist-info"
    content = {f"picual/{path.relative_to(source).as_posix()}": path.read_bytes() for path in files}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: picual\nVersion: {picual.__version__}\n".encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: picual\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = ("\n".join([*rows, f"{info}/RECORD,,"]) + "\n").encode()
    place = folder / f"picual-{picual.__version__}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return place


def requirements(extras: Sequence[str] = ()) -> list[str]:
    """Return what Picual needs, with some of its extras, as pip takes it: Picual itself is not among it."""
    found: list[str] = []
    for one in metadata.requires("picual") or []:  # extras of extras are spelt out there
        name = _EXTRA.search(one)
        if name is not None and name[1] not in set(extras):
            continue
        wanted, _, marker = one.partition(";")
        others = [part for part in re.split(r"\s+and\s+", marker.strip()) if part and "extra" not in part]
        found.append(f"{wanted.strip()}; {' and '.join(others)}" if others else wanted.strip())
    return list(dict.fromkeys(found))


def requirements_of(modules: Sequence[str], extra: str = "") -> list[str]:
    """Return what brings modules, as pip takes it: the versions are those that Picual asks for.

    Args:
        modules: As they are imported.
        extra: The extra that brings what Picual itself does not need.
    """
    asked = {}
    for one in requirements([extra] if extra else []):
        wanted = one.partition(";")[0].strip()
        asked[normal(re.split(r"[^\w.-]", wanted, maxsplit=1)[0])] = wanted
    names = [_DISTRIBUTIONS.get(root := module.partition(".")[0], normal(root)) for module in modules]
    return list(dict.fromkeys(asked.get(name, name) for name in names))


def normal(name: str) -> str:
    """Return a distribution's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
