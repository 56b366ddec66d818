"""One adapter beside the base it is to be merged into: what its config says of a module, whether shapes fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.errors import Refused
from picual.models import HfAdapter
from picual.models.quantized import DTYPE
from picual.models.safetensors_file import TensorInfo

FLOATS = ("F64", "F32", "F16", "BF16")
ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Reading:
    """An adapter's config and tensors, and the weights that it may change.

    Attributes:
        adapter: Whose files these are.
        config: Of the adapter.
        tensors: Of the adapter, by name.
        known: Of the base, by name.
        weight: How often its update counts.
    """

    adapter: HfAdapter
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    known: Mapping[str, TensorInfo]
    weight: float

    @property
    def file(self) -> Path:
        """The file with the adapter's tensors."""
        return self.adapter.path / ADAPTER_FILE

    def rank(self, module: str) -> int:
        """Return the rank of a module's update."""
        return int(_of_module(self.config.get("rank_pattern"), module, self.config["r"]))

    def alpha(self, module: str) -> float:
        """Return the strength of a module's update."""
        given = self.config["lora_alpha" if "lora_alpha" in self.config else "alpha"]
        return float(_of_module(self.config.get("alpha_pattern"), module, given))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one of the adapter's tensors; () where it has none of that name."""
        return self.tensors[name].shape if name in self.tensors else ()

    def lacks(self, name: str, beside: str) -> Refused:
        """Return the error of an adapter that holds a part of an update and not the rest."""
        return Refused(
            f"the adapter has `{beside}` and no `{name}`", where=str(self.adapter.path), hint="save it again"
        )

    def check_shapes(self, target: str, fits: bool, names: Sequence[str]) -> None:
        """Refuse an update of another shape than its weight, or of a weight that is not of floats.

        Args:
            target: The weight.
            fits: Whether the shapes of the named tensors go with it.
            names: Of the adapter's tensors.
        """
        info = self.known[target]
        if not fits:
            shapes = " and ".join(str(self.shape(name)) for name in names)
            raise Refused(
                f"the adapter does not fit `{target}` {info.shape}: it brings {shapes}",
                where=str(self.adapter.path),
                hint="give the model this adapter was trained on",
            )
        if info.dtype not in (*FLOATS, DTYPE):
            raise Refused(
                f"`{target}` holds {info.dtype}, not floating point: an adapter cannot be added to it",
                where=str(info.file.parent),
                hint="merge into the model's float checkpoint, then quantize",
            )


def _of_module(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, at a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise
