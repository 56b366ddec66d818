"""Rotate what flows through a network, so that outliers spread and weights round with less error.

With R orthogonal, W_o W_v = (W_o R)(R^T W_v): ``values`` (R2) turns the values of each key-value head, and back
where they are read. ``residual`` (R1) turns the stream between layers: norms' gains go into the weights after
them, then what reads the stream takes W R and what writes it R^T W. Nothing is added to the network, and it
computes what it did; the gate holds its logits to those of the given one.

When: before a quantizer. What it gains depends on the model: measure, and leave it out where it gains nothing.
``residual`` wants a head of its own.
Cost: seconds for ``values``, a multiplication of every weight by a square matrix for ``residual``; the memory of
one weight. What is turned is stored as float32, for a second rounding to 16 bits would show; the rest keeps its
bytes.
Source: Ashkboos et al., "QuaRot", arXiv 2404.00456; Liu et al., "SpinQuant", arXiv 2405.16406. Their rotations
while the model runs, which serve integer activations, are not done.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from picual import _atomic, _lazy, fingerprint
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile
from picual.models.safetensors_file import TensorInfo
from picual.passes import rewriting
from picual.passes.base import Forecast, NetworkRotated, Pass, PassContext, Promise, PromptContractKept
from picual.passes.rewriting import Part, Pieces, Shard
from picual.passes.rotate.turns import KINDS, Sizes, Turn, turns_of
from picual.space import param

if TYPE_CHECKING:
    import torch

LIBRARIES_LOADED = 300_000_000  # bytes of anonymous memory once torch is imported
FLOPS = 1e10  # a second in float64, of two cores: rough
ELEMENTS = 1 << 22  # of a piece of rows


@dataclass(frozen=True, kw_only=True)
class Rotate(Pass[HfModel, HfModel]):
    """Rotate values and stream of a network that goes on computing the same."""

    name: ClassVar[str] = "rotate"
    version: ClassVar[int] = 1
    extra: ClassVar[str] = "cpu"
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    values: bool = param(
        True, help="Rotate the values of each attention head, and back in the output projection (R2)."
    )
    residual: bool = param(
        False,
        help="Rotate the stream between layers (R1), norms' gains folded into the weights after them; not where "
        "the head is tied to the embedding.",
    )
    seed: int | None = param(None, help="Which of the many rotations; left out, the recipe's seed.")

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse networks that would not compute the same, and those that are not known to."""
        turns_of(model, values=self.values, residual=self.residual)

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        """Write the checkpoint anew, shard by shard."""
        _lazy.need("torch", extra=self.extra, by=self.name).set_num_threads(context.threads)
        turns = turns_of(model, values=self.values, residual=self.residual)
        seed = context.seed if self.seed is None else self.seed
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in model.weight_files()]
        inputs = fingerprint.digest([files, self.name, self.values, self.residual, seed])
        shards = _shards(model, turns)
        rewriting.write(model, shards, inputs, _Turner(model, turns, seed).content, context)
        _write_config(model, shards, context.folder)
        for file in model.companions():
            shutil.copyfile(file, context.folder / file.name)
        if model.trust_remote_code:
            for code in sorted(model.path.glob("*.py")):
                shutil.copyfile(code, context.folder / code.name)
        for name, turn in sorted(turns.items()):
            context.changed(name, str(turn))
        context.metrics["rotated"] = len(turns)
        return HfModel(context.folder, model.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: the network computes the same, what was to turn has turned, and the prompt contract is kept."""
        return (NetworkRotated(values=self.values, residual=self.residual), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the largest weight of a layer takes in float64 before and after, and the rotation."""
        largest = profile.hidden * max(
            profile.intermediate, (profile.heads + 2 * profile.kv_heads) * profile.head_size
        )
        square = profile.hidden**2 if self.residual else profile.head_size**2
        work = 2 * (profile.parameters * profile.hidden if self.residual else profile.linear * profile.head_size)
        disk = self.profile_after(profile).bytes
        return Forecast(
            memory=LIBRARIES_LOADED + 24 * (largest + square) + 24 * ELEMENTS,
            disk=disk,
            seconds=5 + work / FLOPS + disk / 1.5e8,
        )

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes with what is turned in float32."""
        turned = profile.layers * profile.hidden * (profile.heads + profile.kv_heads) * profile.head_size
        share = 1.0 if self.residual else turned / max(profile.parameters, 1)
        wide = max(4 * profile.parameters, profile.bytes)
        return dataclasses.replace(profile, bytes=int(profile.bytes + share * (wide - profile.bytes)))


def _shards(model: HfModel, turns: Mapping[str, Turn]) -> tuple[Shard, ...]:
    files: dict[str, list[Part]] = {file.name: [] for file in model.weight_files()}
    for name, source in model.tensors().items():
        dtype = "F32" if name in turns and source.dtype != "F64" else source.dtype
        files[source.file.name].append(Part(name, source, dtype, is_changed=name in turns))
    return tuple(Shard(file, tuple(parts)) for file, parts in files.items())


class _Turner:
    """Gives the bytes of what is turned."""

    def __init__(self, model: HfModel, turns: Mapping[str, Turn], seed: int) -> None:
        config = model.config()
        self._tensors, self._turns, self._seed = model.tensors(), turns, seed
        self._sizes, self._offset = Sizes.of(config), KINDS[str(config["model_type"])].offset

    def content(self, part: Part) -> Pieces:
        """Return one tensor: a few rows at a time where each row turns alone."""
        turn = self._turns[part.name]
        if turn.is_norm:
            return [rewriting.raw(self._neutral(part.source), part.dtype)]
        if turn.writes or turn.gives is not None:
            whole = rewriting.read(part.source.file, part.name).double()
            turned = self._outputs(self._inputs(whole, turn), turn, part.name)
            return [rewriting.raw(turned, part.dtype)]
        return self._by_rows(part, turn)

    def _by_rows(self, part: Part, turn: Turn) -> Iterator[memoryview]:
        for rows in rewriting.rows(part.source, ELEMENTS):
            yield rewriting.raw(self._inputs(rows.double(), turn), part.dtype)

    def _neutral(self, norm: TensorInfo) -> torch.Tensor:
        """Return the stored gain that multiplies by 1."""
        import torch

        return torch.full(norm.shape, 1.0 - self._offset, dtype=torch.float64)

    def _inputs(self, rows: torch.Tensor, turn: Turn) -> torch.Tensor:
        """Return W diag(g) R for rows of W; biases have no inputs."""
        from picual.numerics import rotation

        if turn.gain is not None:
            norm = self._tensors[turn.gain]
            rows = rows * (rewriting.read(norm.file, norm.name).double() + self._offset)
        if turn.reads:
            rows = rotation.rotate_inputs(rows, self._stream)
        if turn.takes is not None:
            rows = rotation.rotate_values_back(rows, self._values(turn.takes))
        return rows

    def _outputs(self, whole: torch.Tensor, turn: Turn, name: str) -> torch.Tensor:
        """Return R^T W, or the rows of each head turned; in a fused weight those are the last."""
        import torch

        from picual.numerics import rotation

        if turn.writes:
            whole = rotation.rotate_outputs(whole, self._stream)
        if turn.gives is None:
            return whole
        first = len(whole) - self._sizes.groups * self._sizes.width
        turned = rotation.rotate_values(whole[first:], self._values(turn.gives))
        return torch.cat([whole[:first], turned])

    @functools.cached_property
    def _stream(self) -> torch.Tensor:
        """R1 (hidden, hidden)."""
        from picual.numerics import rotation

        return rotation.rotation(self._sizes.hidden, self._drawn("stream"))

    def _values(self, layer: int) -> torch.Tensor:
        """Return R2 of each key-value head of a layer (G, d, d)."""
        import torch

        from picual.numerics import rotation

        heads = range(self._sizes.groups)
        return torch.stack([rotation.rotation(self._sizes.width, self._drawn(layer, head)) for head in heads])

    def _drawn(self, *place: int | str) -> int:
        """Return a seed of its own for each rotation."""
        return int(fingerprint.digest([self._seed, *place])[:8], 16)


def _write_config(model: HfModel, shards: tuple[Shard, ...], folder: Path) -> None:
    """Write the given config, with the type that loses nothing of what is stored."""
    config = model.config()
    said = config.get("dtype", config.get("torch_dtype"))
    widest = "float64" if any(part.dtype == "F64" for shard in shards for part in shard.parts) else "float32"
    if said != widest:
        config.pop("torch_dtype", None)
        config["dtype"] = widest
    _atomic.write_json(folder / "config.json", config)
