"""Merge LoRA adapters into their model: W' = W + scale * B A for every adapted weight.

When: after fine-tuning, before anything that compresses or exports.
Cost: seconds to minutes, the disk of one model, the memory of one weight. No accelerator.
Source: Hu et al., "LoRA", arXiv 2106.09685.

Shard by shard: the model is never in memory whole. A weight is summed in float32, over the whole chain of
adapters, and rounded to its stored dtype once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picual import _atomic, _lazy, fingerprint
from picual.hardware import Machine, Target
from picual.models import HfAdapter, HfCheckpoint, HfModel, Profile, QuantizedHfModel
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import TensorInfo
from picual.numerics import lora
from picual.passes import rewriting
from picual.passes.adapters.companions import copy_companions
from picual.passes.adapters.edits import ADAPTER_FILE, FLOATS, Edit, LowRank, Tie, edits_of, tie_of
from picual.passes.base import AdapterMerged, Forecast, Pass, PassContext, Promise, PromptContractKept
from picual.passes.rewriting import Part, Pieces, Shard
from picual.space import param

if TYPE_CHECKING:
    import torch

STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LIBRARIES_LOADED = 300_000_000  # bytes of anonymous memory once torch is imported


@dataclass(frozen=True, kw_only=True)
class MergeAdapter(Pass[HfAdapter, HfModel]):
    """Merge a LoRA adapter, or a chain of them, into the model it was trained on."""

    name: ClassVar[str] = "merge-adapter"
    version: ClassVar[int] = 1
    extra: ClassVar[str] = "finetune"
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    dtype: Literal["keep", "float32", "float16", "bfloat16"] = param(
        "keep", help="Floating-point type of the merged weights; `keep` is the base's own."
    )

    def check(self, model: HfAdapter, target: Target) -> None:
        """Refuse adapters that are not plain LoRA, or not of this base."""
        _work_of(model, self.dtype)

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        """Merge each shard in the scratch folder, then place all of them."""
        _lazy.need("torch", extra=self.extra, by=self.name).set_num_threads(context.threads)
        work = _work_of(model, self.dtype)
        rewriting.write(work.base, work.shards, work.inputs, work.content, context)
        _write_config(work, self.dtype, context.folder)
        copy_companions(model, context.folder)
        _tell(work, context)
        return HfModel(context.folder, work.base.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: every delta is there, and the prompt contract is kept."""
        return (AdapterMerged(), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the largest linear takes: as stored, in float32, its delta, and rounded again."""
        largest = profile.hidden * max(2 * profile.intermediate, profile.heads * profile.head_size)
        disk = self.profile_after(profile).bytes
        return Forecast(memory=LIBRARIES_LOADED + 16 * largest, disk=disk, seconds=5 + disk / 1.5e8)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes in the asked dtype."""
        if self.dtype == "keep" and not profile.quantized:
            return profile
        width = 4 if self.dtype in {"keep", "float32"} else 2
        return dataclasses.replace(profile, bytes=profile.parameters * width, quantized=0)


@dataclass(frozen=True)
class _Work:
    base: HfCheckpoint
    shards: tuple[Shard, ...]
    edits: Mapping[str, list[Edit]]
    untied: Tie | None  # the head gets its own weight
    inputs: str  # digest: a finished shard of other inputs is not ours

    def content(self, part: Part) -> Pieces:
        """Return the bytes of a weight that an adapter changes, or that is stored as another type."""
        weight = _weight(self.base, part.source)
        return [rewriting.raw(_merged(weight, self.edits.get(part.name, [])), part.dtype)]


def _work_of(model: HfAdapter, dtype: str) -> _Work:
    """Lay out every tensor of the result, from headers alone."""
    base = model.root()
    if dtype == "keep" and isinstance(base, QuantizedHfModel):
        dtype = "float32"  # what integers stand for lies between narrower numbers
    tensors = base.tensors()
    tie = tie_of(base.config(), tensors)
    edits = edits_of(model.chain(), tensors, tie)
    touched = tie is not None and {tie.head, tie.embedding} & set(edits)
    untied = tie if touched else None
    sources = dict(tensors)
    if tie is not None and untied is not None:
        # The head keeps what it shared, plus its own edits; where the base stores a copy, that copy is unused.
        sources[tie.head] = tensors[tie.embedding]
    files: dict[str, list[Part]] = {file.name: [] for file in base.weight_files()}
    for name, source in sources.items():
        stored = STORED.get(dtype, source.dtype) if source.dtype in (*FLOATS, DTYPE) else source.dtype
        home = tensors.get(name, source).file.name
        files[home].append(Part(name, source, stored, is_changed=name in edits))
    shards = tuple(Shard(file, tuple(parts)) for file, parts in files.items())
    return _Work(base, shards, edits, untied, _inputs(model, dtype))


def _inputs(model: HfAdapter, dtype: str) -> str:
    files = [*model.root().weight_files()]
    for link in model.chain():
        files += [link.path / "adapter_config.json", link.path / ADAPTER_FILE]
    return fingerprint.digest([dtype, *([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files)])


def _weight(base: HfCheckpoint, source: TensorInfo) -> torch.Tensor:
    """Return W of the base: its numbers, or what its integers stand for, in float32 (float64 if the base is)."""
    import torch

    if isinstance(base, QuantizedHfModel) and source.dtype == DTYPE:
        return torch.from_numpy(open_weight(base, source.name).rows(0, source.shape[0]).copy())
    wide = torch.float64 if source.dtype == "F64" else torch.float32
    return rewriting.read(source.file, source.name).to(wide)


def _merged(weight: torch.Tensor, edits: list[Edit]) -> torch.Tensor:
    """Return W plus every delta."""
    for edit in edits:
        if isinstance(edit, LowRank):
            a, b = rewriting.read(edit.file, edit.a), rewriting.read(edit.file, edit.b)
            weight += lora.delta(a, b, edit.scale, transposed=edit.transposed)
        else:
            weight = rewriting.read(edit.file, edit.tensor).to(weight.dtype)
    return weight


def _write_config(work: _Work, dtype: str, folder: Path) -> None:
    """Write the base's config, with what the merge changed."""
    config: dict[str, Any] = work.base.config()
    if work.untied is not None:
        config["tie_word_embeddings"] = False
    if dtype == "keep" and isinstance(work.base, QuantizedHfModel):
        dtype = "float32"
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
    if isinstance(work.base, QuantizedHfModel):
        context.noted("the base's integers became the float32 numbers that they stand for")
    context.metrics["merged"] = len(work.edits)
