"""One piece of work: what becomes a job, its key, where it runs and which files it reads."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.data.base import DataConfig
from picual.executors.chain import Promised
from picual.executors.job import Kind
from picual.metrics.base import Metric
from picual.models import HfAdapter, Model
from picual.passes.base import Pass
from picual.plan import Site
from picual.space import fields_of

_FILES = ("file", "code", "folder")  # fields of metrics that name a file or a folder


@dataclass(frozen=True)
class Piece:
    """One job to be.

    Attributes:
        kind: Of job.
        name: As events and errors name it.
        label: As the store names this kind of work.
        ingredients: Whose digest is its key.
        payload: What its task gets.
        reads: Folders and files that the payload speaks of.
        site: Where it runs; None: on this machine.
        alone: Whether nothing else may run beside it.
        memory: Bytes it is expected to take; 0: not known.
    """

    kind: Kind
    name: str
    label: str
    ingredients: Mapping[str, Any]
    payload: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    site: Site | None = None
    alone: bool = False
    memory: int = 0

    @functools.cached_property
    def key(self) -> str:
        """Return its key in the store."""
        return fingerprint.digest(self.ingredients)


def places(*found: Iterable[Path]) -> tuple[str, ...]:
    """Return paths as a job's wire form names them, each once."""
    return tuple(dict.fromkeys(path.absolute().as_posix() for paths in found for path in paths))


def model_folders(model: Model | None) -> list[Path]:
    """Return the folders of a model, those it stands on included; what is yet to be made has none."""
    if model is None or isinstance(model, Promised):
        return []
    return [model.whole, *(model_folders(model.base) if isinstance(model, HfAdapter) else [])]


def data_files(data: Mapping[str, DataConfig]) -> list[Path]:
    """Return the files of data sets."""
    return [path for config in data.values() for path in config.paths()]


def pass_folders(a_pass: Pass[Any, Any]) -> list[Path]:
    """Return the folders that a pass's own fields name."""
    named = [getattr(a_pass, item.name) for item in fields_of(a_pass) if item.metadata.get("role") == "adapters"]
    return [Path(at) for folders in named if folders for at in folders.values()]


def metric_files(metric: Metric) -> list[Path]:
    """Return the files that a metric's own fields name."""
    named = [getattr(metric, name, None) for name in _FILES]
    return [Path(name) for name in named if isinstance(name, str) and Path(name).exists()]
