"""Set the smallest weights of every linear layer to zero: w' = w where |w| is among the largest, else 0.

When: to see how much of a model is needed; before fine-tuning, which lets the rest adapt.
Cost: seconds a gigabyte, the memory of one weight matrix. No calibration, no accelerator.
Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv 1506.02626.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from picual.errors import BadValue, Refused
from picual.hardware import Target
from picual.models import HfModel
from picual.models.safetensors_file import BYTES, SafetensorsWriter, TensorInfo, read_header, read_pieces
from picual.passes.base import Pass, PassContext, Promise, PromptContractKept
from picual.space import FloatRange, param

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Floats whose bits, sign left out, are in the order of their magnitude: all that pruning needs to know.
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class MagnitudePrune(Pass[HfModel, HfModel]):
    """Set the smallest weights of every linear layer to zero."""

    name: ClassVar[str] = "magnitude-prune"
    version: ClassVar[int] = 1  # part of the cache key: raise it when the output bytes change
    imports: ClassVar[tuple[str, ...]] = ("numpy",)

    sparsity: float = param(
        0.5, help="Share of each weight matrix that becomes zero, below 1.", search=FloatRange(0.1, 0.9)
    )
    keep: tuple[str, ...] = param((), help="Parts of tensor names to leave alone.")

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse a model without floating-point linear layers."""
        if not 0 <= self.sparsity < 1:
            raise BadValue(f"`sparsity` is {self.sparsity}; it must be from 0 to below 1", hint="sparsity: 0.5")
        if not any(is_linear(tensor, model) for tensor in model.tensors().values()):
            raise Refused(
                f"`{self.name}` found no linear layer in floating point",
                where=str(model.path),
                hint="put this step before the one that quantizes",
            )

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        """Write shard after shard; a finished one is kept in the scratch folder until all are."""
        shards = model.weight_files()
        for number, shard in enumerate(shards):
            context.progress(number, len(shards), shard.name)
            finished = context.scratch / shard.name
            if not finished.exists():
                half = context.scratch / f"{shard.name}.half"
                self._write(model, read_header(shard), half)
                half.replace(finished)
        for shard in shards:
            shutil.copyfile(context.scratch / shard.name, context.folder / shard.name)
        for file in _beside(model):
            shutil.copyfile(file, context.folder / file.name)
        self._tell(model, context)
        return HfModel(context.folder, model.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: the prompt contract is kept. What became zero is checked by this package's own tests."""
        return (PromptContractKept(),)

    def compresses(self) -> bool:
        """Say yes: the model loses precision here."""
        return True

    def _write(self, model: HfModel, tensors: dict[str, TensorInfo], file: Path) -> None:
        declared = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors.values()]
        with SafetensorsWriter(file, declared) as writer:
            for name in writer.names:
                writer.append(name, self._bytes(tensors[name], model))

    def _bytes(self, tensor: TensorInfo, model: HfModel) -> Iterable[bytes]:
        if not is_linear(tensor, model) or self._kept(tensor):
            return read_pieces(tensor)
        import numpy as np

        raw = b"".join(read_pieces(tensor))
        bits = np.frombuffer(raw, dtype=f"<u{BYTES[tensor.dtype]}")
        return [prune(bits, self.sparsity).tobytes()]

    def _kept(self, tensor: TensorInfo) -> bool:
        return any(part in tensor.name for part in self.keep)

    def _tell(self, model: HfModel, context: PassContext) -> None:
        for tensor in model.tensors().values():
            if not is_linear(tensor, model):
                continue
            if self._kept(tensor):
                context.skipped(tensor.name, "kept by `keep`")
            else:
                context.changed(
                    tensor.name, f"{int(self.sparsity * tensor.count)} of {tensor.count} weights are 0"
                )


def prune(bits: npt.NDArray[np.unsignedinteger], sparsity: float) -> npt.NDArray[np.unsignedinteger]:
    """Set the ``int(sparsity * n)`` smallest of n numbers to zero; of equal ones, those that come first.

    Args:
        bits: (n) floats as unsigned integers of their width.
        sparsity: Share that becomes zero.
    """
    import numpy as np

    sign = np.array(1 << (8 * bits.itemsize - 1), dtype=bits.dtype)
    count = int(sparsity * bits.size)
    smallest = np.argsort(bits & ~sign, kind="stable")[:count]
    pruned = bits.copy()
    pruned[smallest] = 0
    return pruned


def is_linear(tensor: TensorInfo, model: HfModel) -> bool:
    """Say whether a tensor is the weight of a linear layer: two axes, and not the vocabulary's table."""
    vocabulary = int(model.config().get("vocab_size", 0))
    return tensor.dtype in FLOATS and len(tensor.shape) == 2 and tensor.shape[0] != vocabulary


def _beside(model: HfModel) -> list[Path]:
    """Return the files that go with the weights, unchanged."""
    names = ("config.json", "model.safetensors.index.json")
    return [*(model.path / name for name in names if (model.path / name).exists()), *model.companions()]
