"""Which files of a model folder are the model, and how they get into another folder."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from picual.models.adapter_files import DESCRIPTION, SUFFIX, adapters_of
from picual.models.adapter_files import FOLDER as ADAPTERS
from picual.models.hf import COMPANIONS
from picual.models.quantized import FILE as QUANTIZATION

# Everything that a loader or the prompt contract reads. Training leftovers, model cards and pickles are not.
PATTERNS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "trained_on.json",
    "genai_config.json", "processor_config.json", "preprocessor_config.json", "*.onnx", "*.onnx.data", "*.jinja",
    "*.py", DESCRIPTION, QUANTIZATION, *COMPANIONS,
)  # fmt: skip
# Some repositories carry their weights a second time, for another loader.
LEFT_OUT = ("consolidated*.safetensors", "*/*")


def matters(name: str) -> bool:
    """Say whether a file, named relative to its model's folder, is part of the model."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT
    )


def model_files(model: Path) -> list[Path]:
    """Return the files of the model in a folder; for an ``.onnx`` file, itself and its external data."""
    if model.is_file():
        return sorted(file for file in model.parent.glob(f"{model.name}*") if file.is_file())
    own = sorted(file for file in model.iterdir() if file.is_file() and matters(file.name))
    return [*own, *adapters_of(model).values()]


def copy(files: Iterable[Path], folder: Path) -> None:
    """Copy files into ``folder``. A user's own files are never linked: their later edits must not reach us."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        home = folder / ADAPTERS if file.suffix == SUFFIX else folder
        home.mkdir(exist_ok=True)
        shutil.copyfile(file, home / file.name)


def link(files: Iterable[Path], folder: Path) -> None:
    """Hard-link files of a download cache, which nobody edits in place; copy where that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, folder / file.name)
