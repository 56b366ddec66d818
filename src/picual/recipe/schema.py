"""A recipe as a value: what the native file and every Olive config become. Plain data; nothing is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from picual.data.base import DataConfig
from picual.errors import Problem
from picual.hardware import Target

UNKNOWN_SYSTEM = "target.system"  # place of an Olive `target` that names no system, kept as the provider


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something stands in a file; lines count from 1."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """Return `file:line`, or what of it is known."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the input model comes from.

    ``uri`` is a folder, a file (GGUF), a hub id (``owner/name``), a model that ``picual models fetch`` knows
    (``smollm2-135m``), or ``azureml://...``.
    """

    uri: str
    revision: str | None = None  # of a hub id
    format: Literal["auto", "hf", "gguf", "mlflow"] = "auto"
    adapter: str | None = None  # folder, hub id or address of a LoRA adapter to put on top
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # layout, dtype, registry name and version, ...
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One entry under ``passes:``; ``fields`` as the file gives them, not yet checked against the pass."""

    name: str  # the key in the file: the step's identity
    type: str  # the pass
    fields: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None
    place: Place = field(default_factory=Place)
    places: Mapping[str, Place] = field(default_factory=dict)  # of each field: `rank`, `training.max_steps`


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One entry under ``metrics:``."""

    name: str
    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    place: Place = field(default_factory=Place)
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """Where steps run: ``local``, or a system described in the recipe. ``options`` are not checked yet."""

    name: str = "local"
    type: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, kw_only=True)
class Note:
    """What became of one field of an Olive config: mapped elsewhere, defaulted, or not honoured and why.

    A ``warning`` is about what the recipe says, in whatever dialect; ``chosen`` is why ``optimize`` wrote it so.
    """

    path: str  # dotted path in the config, `passes.lora.config.double_quant`
    kind: Literal["mapped", "defaulted", "ignored", "replaced", "later", "warning", "chosen"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe, whatever dialect it was written in. A mapping in the file keeps its order here."""

    model: ModelSource
    steps: tuple[StepSpec, ...] = ()
    target: Target = field(default_factory=Target)
    hosts: Mapping[str, HostSpec] = field(default_factory=lambda: {"local": HostSpec()})
    host: str = "local"
    target_host: str | None = None  # where models are checked and measured; None: where steps run
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    metrics: tuple[MetricSpec, ...] = ()
    search: Mapping[str, Any] | None = None
    seed: int = 0
    threads: int | None = None  # None: the physical cores of the host
    output: str = "out"  # relative to the recipe's folder unless absolute
    store: str | None = None  # None: the user's default store
    tracking: str | None = None  # address of an MLflow server that gets the report
    register: Mapping[str, Any] | None = None  # where the result becomes a version of a model; see `registering`
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trust: bool = False
    folder: str = "."  # that relative paths are relative to
    file: str = ""
    dialect: Literal["picual", "olive"] = "picual"
    notes: tuple[Note, ...] = ()
    data_places: Mapping[str, Place] = field(default_factory=dict)  # `tone`, and `tone.files` where known
    places: Mapping[str, Place] = field(default_factory=dict)  # of the rest: `target.provider`, `search`, ...
    problems: tuple[Problem, ...] = ()  # found while reading; `recipe.check` shows them with its own

    @property
    def measured_on(self) -> str:
        """Return the name of the host where models are checked and measured."""
        return self.host if self.target_host is None else self.target_host
