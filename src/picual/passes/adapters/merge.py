"""Merge adapters into their model: W' = W + scale * B A for every weight that LoRA adapted.

When: after fine-tuning, before anything that compresses or exports.
Cost: seconds to minutes, the disk of one model, the memory of one weight. No accelerator.
Source: Hu et al., "LoRA", arXiv 2106.09685. DoRA, LoHa and LoKr have updates of their own, in `picual.numerics`.

Shard by shard: the model is never in memory whole. A weight is summed in float32, over the whole chain of
adapters, and rounded to its stored dtype once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picual import _atomic, _lazy, fingerprint
from picual.errors import BadValue
from picual.hardware import Machine, Target
from picual.models import HfAdapter, HfModel, Profile
from picual.models.hf import read_json
from picual.models.safetensors_file import TensorInfo
from picual.passes import rewriting
from picual.passes.adapters.companions import copy_companions
from picual.passes.adapters.edits import Edit, Tie, edits_of, tie_of
from picual.passes.adapters.edits_applied import applied
from picual.passes.adapters.reading import ADAPTER_FILE, FLOATS
from picual.passes.base import AdapterMerged, Forecast, Pass, PassContext, Promise, PromptContractKept
from picual.passes.rewriting import Part, Pieces, Shard
from picual.space import param

if TYPE_CHECKING:
    import torch

STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LIBRARIES_LOADED = 300_000_000  # bytes of anonymous memory once torch is imported


@dataclass(frozen=True, kw_only=True)
class MergeAdapter(Pass[HfAdapter, HfModel]):
    """Merge an adapter, or a chain of them, into the model it was trained on."""

    name: ClassVar[str] = "merge-adapter"
    version: ClassVar[int] = 2
    extra: ClassVar[str] = "finetune"
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    dtype: Literal["keep", "float32", "float16", "bfloat16"] = param(
        "keep", help="Floating-point type of the merged weights; `keep` is the base's own."
    )
    weights: tuple[float, ...] = param(
        (), help="How often the update of each adapter of the chain counts, first trained first; left out, once."
    )

    def __post_init__(self) -> None:
        """Refuse weights that are no numbers.

        Raises:
            BadValue: Says which.
        """
        for weight in self.weights:
            if not math.isfinite(weight):
                raise BadValue(
                    f"`weights` holds {weight}; each must be a finite number", hint="weights: [1.0, 0.5]"
                )

    def check(self, model: HfAdapter, target: Target) -> None:
        """Refuse adapters of other methods, or not of this base, and weights for another number of them.

        Raises:
            BadValue: There are more weights than adapters, or fewer.
        """
        count = len(model.chain())
        if self.weights and len(self.weights) != count:
            adapters = "1 adapter" if count == 1 else f"{count} adapters"
            raise BadValue(
                f"`weights` holds {len(self.weights)} numbers, and the chain has {adapters}",
                hint=f"weights: [{', '.join(['1.0'] * count)}]",
            )
        _work_of(model, self.dtype, self.weights)

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        """Merge each shard in the scratch folder, then place all of them."""
        _lazy.need("torch", extra=self.extra, by=self.name).set_num_threads(context.threads)
        work = _work_of(model, self.dtype, self.weights)
        rewriting.write(work.base, work.shards, work.inputs, work.content, context)
        _write_config(work, self.dtype, context.folder)
        copy_companions(model, context.folder)
        _tell(work, context)
        return HfModel(context.folder, work.base.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: every delta is there, and the prompt contract is kept."""
        return (AdapterMerged(weights=self.weights), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the largest linear takes: as stored, in float32, its delta, and rounded again."""
        largest = profile.hidden * max(2 * profile.intermediate, profile.heads * profile.head_size)
        disk = self.profile_after(profile).bytes
        return Forecast(memory=LIBRARIES_LOADED + 16 * largest, disk=disk, seconds=5 + disk / 1.5e8)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes in the asked dtype."""
        if self.dtype == "keep":
            return profile
        return dataclasses.replace(profile, bytes=profile.parameters * (4 if self.dtype == "float32" else 2))


@dataclass(frozen=True)
class _Work:
    base: HfModel
    shards: tuple[Shard, ...]
    edits: Mapping[str, list[Edit]]
    untied: Tie | None  # the head gets its own weight
    inputs: str  # digest: a finished shard of other inputs is not ours

    def content(self, part: Part) -> Pieces:
        """Return the bytes of a weight that an adapter changes, or that is stored as another type."""
        return [rewriting.raw(_merged(part.source, self.edits.get(part.name, [])), part.dtype)]


def _work_of(model: HfAdapter, dtype: str, weights: tuple[float, ...]) -> _Work:
    """Lay out every tensor of the result, from headers alone."""
    base = model.root()
    tensors = base.tensors()
    tie = tie_of(base.config(), tensors)
    edits = edits_of(model.chain(), tensors, tie, weights)
    touched = tie is not None and {tie.head, tie.embedding} & set(edits)
    untied = tie if touched else None
    sources = dict(tensors)
    if tie is not None and untied is not None:
        # The head keeps what it shared, plus its own edits; where the base stores a copy, that copy is unused.
        sources[tie.head] = tensors[tie.embedding]
    files: dict[str, list[Part]] = {file.name: [] for file in base.weight_files()}
    for name, source in sources.items():
        stored = STORED.get(dtype, source.dtype) if source.dtype in FLOATS else source.dtype
        home = tensors.get(name, source).file.name
        files[home].append(Part(name, source, stored, is_changed=name in edits))
    shards = tuple(Shard(file, tuple(parts)) for file, parts in files.items())
    return _Work(base, shards, edits, untied, _inputs(model, dtype, weights))


def _inputs(model: HfAdapter, dtype: str, weights: tuple[float, ...]) -> str:
    files = [*model.root().weight_files()]
    for link in model.chain():
        files += [link.path / "adapter_config.json", link.path / ADAPTER_FILE]
    return fingerprint.digest(
        [dtype, list(weights), *([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    )


def _merged(source: TensorInfo, edits: list[Edit]) -> torch.Tensor:
    """Return W plus every delta, in float32 (float64 if the base is)."""
    import torch

    wide = torch.float64 if source.dtype == "F64" else torch.float32
    weight = rewriting.read(source.file, source.name).to(wide)
    for edit in edits:
        weight = applied(edit, weight)
    return weight


def _write_config(work: _Work, dtype: str, folder: Path) -> None:
    """Write the base's config, with what the merge changed."""
    config: dict[str, Any] = read_json(work.base.path / "config.json")
    if work.untied is not None:
        config["tie_word_embeddings"] = False
    if dtype != "keep":
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    _atomic.write_json(folder / "config.json", config)


def _tell(work: _Work, context: PassContext) -> None:
    for name, edits in sorted(work.edits.items()):
        context.changed(name, "; ".join(str(edit) for edit in edits))
    if work.untied is not None:
        context.noted(
            f"`{work.untied.head}` and `{work.untied.embedding}` were tied and no longer hold the same weight: "
            "each is stored, and `tie_word_embeddings` is off"
        )
    context.metrics["merged"] = len(work.edits)
