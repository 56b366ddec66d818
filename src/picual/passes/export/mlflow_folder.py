"""Wrap a checkpoint as an MLflow model of the flavour ``transformers``, without MLflow.

    MLmodel                                        what it is, and how MLflow loads it
    model/                                         the checkpoint, whole: from_pretrained reads it too
    components/tokenizer/                          the tokenizer once more, where MLflow looks for it
    requirements.txt conda.yaml python_env.yaml    what MLflow installs to serve it

When: a model has to go into an MLflow registry, or to a server that takes MLflow folders.
Cost: the time to read the checkpoint twice and write it once, the disk of one model. No accelerator.
Source: MLflow, "MLmodel" storage format and ``mlflow.transformers``, version 3.17.

No byte of the checkpoint changes. The folder names no time and no place, and ``model_uuid`` comes from the
content: the same model gives the same bytes. Packages are pinned to the versions that are installed where it is
written.

Packed weights load in MLflow where transformers needs no word on how: compressed-tensors without zero points. With
them MLflow fails on a CPU, as it cannot be told to dequantize. GPTQ has not been tried.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual import _atomic, _lazy, fingerprint
from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfModel, MlflowModel, Profile
from picual.passes.base import Forecast, MlflowFolderWritten, Pass, PassContext, Promise, PromptContractKept
from picual.passes.rewriting import INDEX
from picual.space import param

MLFLOW = "mlflow>=3.17"  # tested with 3.17.2; older ones hand transformers 5 arguments that it refuses
READERS = {"compressed-tensors": "compressed-tensors", "gptq": "gptqmodel"}  # of packed weights, by their method
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
NOT_THE_TOKENIZERS = (*LICENCES, "generation_config.json")  # of the files that go with a model
TEXT = '[{"type": "string", "required": true}]'  # one column of strings, as MLflow writes a signature


@dataclass(frozen=True, kw_only=True)
class ExportMlflow(Pass[HfModel, MlflowModel]):
    """Wrap a checkpoint as an MLflow model of the flavour ``transformers``."""

    name: ClassVar[str] = "export-mlflow"
    version: ClassVar[int] = 1
    extra: ClassVar[str] = "hf"
    imports: ClassVar[tuple[str, ...]] = ("transformers",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate", *READERS.values())

    python: str = param("3.11", help="Version of Python that MLflow sets up to serve the model.")

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse a checkpoint without what MLflow must be told: its class and its tokenizer."""
        if not _architecture(model):
            raise Refused(
                "its config names no class (`architectures`), and MLflow loads a model by its class",
                where=str(model.path / "config.json"),
                hint='add it there, such as "architectures": ["LlamaForCausalLM"]',
            )
        if not _tokenizer(model):
            raise Refused(
                "it has no tokenizer, and MLflow loads a model together with its tokenizer",
                where=str(model.path),
                hint="copy the tokenizer's files there",
            )

    def run(self, model: HfModel, context: PassContext) -> MlflowModel:
        """Copy the checkpoint file by file, then describe it."""
        made = context.folder / "model"
        made.mkdir()
        files = _checkpoint(model)
        total, done = sum(file.stat().st_size for file in files), 0
        for file in files:
            context.progress(done, total, file.name)
            _place(_copied(file, context.scratch), made / file.name)
            done += file.stat().st_size
        _copy(_tokenizer(model), context.folder / "components" / "tokenizer")
        _copy((file for file in model.companions() if file.name in LICENCES), context.folder)
        self._describe(model, made, context.folder)
        context.changed("MLmodel", f"{_architecture(model)} and its tokenizer, flavour transformers")
        context.metrics["size_mb"] = total / 1e6
        context.progress(total, total, "written")
        return MlflowModel(made, model.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: nothing of the checkpoint changed, MLflow is told of it, and the prompt contract is kept."""
        return (MlflowFolderWritten(), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what a copy takes."""
        return Forecast(memory=60_000_000, disk=profile.bytes, seconds=1 + profile.bytes / 1e8)

    def _describe(self, model: HfModel, made: Path, folder: Path) -> None:
        packages = _packages(model)
        _write_yaml(folder / "MLmodel", _mlmodel(model, made, self.python))
        _atomic.write_text(folder / "requirements.txt", "".join(f"{package}\n" for package in packages))
        conda = {
            "channels": ["conda-forge"],
            "dependencies": [f"python={self.python}", "pip", {"pip": packages}],
            "name": "mlflow-env",
        }
        _write_yaml(folder / "conda.yaml", conda)
        environment = {
            "python": self.python,
            "build_dependencies": ["pip", "setuptools", "wheel"],
            "dependencies": ["-r requirements.txt"],
        }
        _write_yaml(folder / "python_env.yaml", environment)


def _architecture(model: HfModel) -> str:
    """Return the class of the network; empty: its config names none."""
    return str(next(iter(model.config().get("architectures") or ()), ""))


def _code(model: HfModel) -> list[Path]:
    return sorted(model.path.glob("*.py")) if model.trust_remote_code else []


def _checkpoint(model: HfModel) -> list[Path]:
    """Return every file of the checkpoint that a loader reads."""
    index = model.path / INDEX
    weights = [*model.weight_files(), *([index] if index.is_file() else [])]
    return [*weights, model.path / "config.json", *model.companions(), *_code(model)]


def _tokenizer(model: HfModel) -> list[Path]:
    """Return the tokenizer's files, with the code of a model that brings its own; none if it has no tokenizer."""
    files = [file for file in model.companions() if file.name not in NOT_THE_TOKENIZERS]
    return [*files, *_code(model)] if files else []


def _copied(file: Path, scratch: Path) -> Path:
    """Copy one file into the scratch folder, unless an interrupted run has left it there whole."""
    kept = scratch / file.name
    if not (kept.is_file() and kept.stat().st_size == file.stat().st_size):
        half = scratch / f"{file.name}.half"
        shutil.copyfile(file, half)
        half.replace(kept)
    return kept


def _place(file: Path, goal: Path) -> None:
    """Give the finished copy its second name in the result; where links are not possible, copy it again."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copyfile(file, goal)


def _copy(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _mlmodel(model: HfModel, made: Path, python: str) -> dict[str, Any]:
    digests = {file.name: fingerprint.file_digest(file) for file in fingerprint.files_under(made)}
    return {
        "flavors": {"python_function": _served(python), "transformers": _flavour(model)},
        "model_size_bytes": sum(file.stat().st_size for file in fingerprint.files_under(made)),
        "model_uuid": uuid.UUID(hex=fingerprint.folder_digest(digests)[:32]).hex,
        "signature": {"inputs": TEXT, "outputs": TEXT, "params": None},
    }


def _served(python: str) -> dict[str, Any]:
    return {
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "loader_module": "mlflow.transformers",
        "model_binary": "model",
        "python_version": python,
    }


def _flavour(model: HfModel) -> dict[str, Any]:
    config = model.config()
    dtype = config.get("dtype") or config.get("torch_dtype")
    return {
        "components": ["tokenizer"],
        "instance_type": "TextGenerationPipeline",
        "model_binary": "model",
        "pipeline_model_type": _architecture(model),
        "task": "text-generation",
        # By its auto class: which class reads a tokenizer's files differs between versions of transformers.
        "tokenizer_type": "AutoTokenizer",
    } | ({"torch_dtype": f"torch.{dtype}"} if dtype else {})


def _packages(model: HfModel) -> list[str]:
    method = str((model.config().get("quantization_config") or {}).get("quant_method", ""))
    named = ["torch", "transformers", "accelerate", *([READERS[method]] if method in READERS else [])]
    return [MLFLOW, *map(_pinned, named)]


def _pinned(package: str) -> str:
    """Return a package at its version here; what follows a plus names a build that no index has."""
    version = _lazy.version_of(package).partition("+")[0]
    return f"{package}=={version}" if version else package


def _write_yaml(file: Path, value: Mapping[str, Any]) -> None:
    import yaml

    _atomic.write_text(file, yaml.safe_dump(value, sort_keys=False))
