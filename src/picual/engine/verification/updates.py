"""The updates that an adapter's files hold, found by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picual.engine.verification import deltas
from picual.engine.verification import tensors as stored
from picual.models import HfAdapter
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch

# A module's tensors: its name, the method's, what is left of the tensor's.
TENSOR = re.compile(r"base_model\.model\.(?P<module>.+?)\.(?P<part>lora_.+|hada_.+|lokr_.+)")
LOW_RANK = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True)
class Found:
    """The parts of one module's update, as the file names them after the module."""

    module: str
    parts: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    weight: float = 1.0  # how often it counts

    @property
    def scale(self) -> float:
        """The factor on the update."""
        alpha = float(_by_pattern("alpha_pattern", self.module, self.config, self._alpha()))
        root = bool(self.config.get("use_rslora"))
        return self.weight * alpha / (self.rank**0.5 if root else self.rank)

    @property
    def rank(self) -> int:
        """Of the update, as the config says."""
        return int(_by_pattern("rank_pattern", self.module, self.config, self.config.get("r", 8)))

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored inputs first."""
        return bool(self.config.get("fan_in_fan_out")) or any("embedding" in name for name in self.parts)

    def missing(self) -> list[str]:
        """Return what the update lacks; one that is no method's known here lacks everything."""
        names = set(self.parts)
        if "lokr" in "".join(names):
            lack = [one for one in ("lokr_w1", "lokr_w2") if not _whole_or_both(one, names)]
            known = {f"lokr_w{n}{end}" for n in (1, 2) for end in ("", "_a", "_b")}
            return lack + sorted(names - known)
        if "hada" in "".join(names):
            return sorted(set(HADAMARD) ^ names)
        pair = next((pair for pair in LOW_RANK if set(pair) & names), LOW_RANK[0])
        magnitude = [one for one in MAGNITUDES if one in names][:1]
        if self.config.get("use_dora") and not magnitude:
            return [*sorted(set(pair) - names), MAGNITUDES[0]]
        wanted = {*pair, *(magnitude if self.config.get("use_dora") else ())}
        return sorted(wanted ^ names)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether the parts have the config's rank and go together to an update of a weight's shape."""
        out, into = shape[::-1] if self.transposed else shape
        sizes = {name: part.shape for name, part in self.parts.items()}
        if any(name.startswith("lokr") for name in sizes):
            left, right = (self._matrix(name) for name in ("lokr_w1", "lokr_w2"))
            return (left[0] * right[0], left[1] * right[1]) == shape
        wanted = {
            "lora_A": (self.rank, into), "lora_embedding_A": (self.rank, into), "lora_B": (out, self.rank),
            "lora_embedding_B": (out, self.rank), "lora_magnitude_vector": (out,), "hada_w1_a": (out, self.rank),
            "hada_w2_a": (out, self.rank), "hada_w1_b": (self.rank, into), "hada_w2_b": (self.rank, into),
        }  # fmt: skip
        return all(size == wanted[name.removesuffix(".weight")] for name, size in sizes.items())

    def _matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a matrix given whole or in factors; (0, 0) where these do not go together."""
        shapes = [self.parts[one].shape for one in (name, f"{name}_a", f"{name}_b") if one in self.parts]
        if any(len(shape) != 2 for shape in shapes):
            return 0, 0
        if len(shapes) == 2 and not shapes[0][1] == shapes[1][0] == self.rank:
            return 0, 0
        return shapes[0][0], shapes[-1][1]

    def open(self) -> deltas.Update:
        """Read the update, in float64."""
        names = set(self.parts)
        if names >= set(HADAMARD):
            a1, b1, a2, b2 = (self._read(name) for name in HADAMARD)
            return deltas.Hadamard((a1, b1), (a2, b2), self.scale)
        if any(name.startswith("lokr") for name in names):
            return self._kronecker()
        name_a, name_b = next(pair for pair in LOW_RANK if set(pair) <= names)
        a, b = self._read(name_a), self._read(name_b)
        left, right = (a.T, b.T) if self.transposed else (b, a)
        low_rank = deltas.LowRank(left * self.scale, right)
        if not self.config.get("use_dora"):
            return low_rank
        magnitude = next(name for name in MAGNITUDES if name in names)
        return deltas.Decomposed(low_rank, self._read(magnitude), self.transposed)

    def _kronecker(self) -> deltas.Kronecker:
        made, sizes, roundings = [], [], 3
        for name in ("lokr_w1", "lokr_w2"):
            if name in self.parts:
                whole = self._read(name)
                made.append(whole)
                sizes.append(whole.abs())
                continue
            a, b = self._read(f"{name}_a"), self._read(f"{name}_b")
            made.append(a @ b)
            sizes.append(a.norm(dim=1, keepdim=True) * b.norm(dim=0, keepdim=True))
            roundings += a.shape[1]
        return deltas.Kronecker(made[0], made[1], (sizes[0], sizes[1]), self.scale, roundings)

    def _read(self, name: str) -> torch.Tensor:
        info = self.parts[name]
        return stored.read(info.file, info.name).double()

    def _alpha(self) -> Any:
        return self.config.get("lora_alpha", self.config.get("alpha", 8))


def updates_of(adapter: HfAdapter, weight: float = 1.0) -> dict[str, Found]:
    """Return the updates of an adapter by module; tensors that it carries in full are no updates."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, info in adapter.tensors().items():
        if matched := TENSOR.fullmatch(name):
            parts.setdefault(matched["module"], {})[matched["part"]] = info
    config = adapter.adapter_config()
    return {module: Found(module, own, config, weight) for module, own in parts.items()}


def _whole_or_both(name: str, names: set[str]) -> bool:
    both = {f"{name}_a", f"{name}_b"}
    return (name in names) != (both <= names) and (name not in names or not both & names)


def _by_pattern(key: str, module: str, config: Mapping[str, Any], otherwise: Any) -> Any:
    """Return the value of the first pattern that ends a module's name."""
    for pattern, value in (config.get(key) or {}).items():
        if re.search(rf"(^|\.)({pattern})$", module):
            return value
    return otherwise
