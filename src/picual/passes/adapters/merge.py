"""Merge LoRA adapters into their model: W' = W + scale * B A for every adapted weight.

When: after fine-tuning, before anything that compresses or exports.
Cost: seconds to minutes, the disk of one model, the memory of one weight. No accelerator.
Source: Hu et al., "LoRA", arXiv 2106.09685.

Shard by shard: the model is never in memory whole. A weight is summed in float32, over the whole chain of
adapters, and rounded to its stored dtype once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picual import _atomic, _lazy, fingerprint
from picual.hardware import Machine, Target
from picual.models import HfAdapter, HfModel, Profile
from picual.models.hf import read_json
from picual.models.safetensors_file import BYTES, SafetensorsWriter, TensorInfo, read_pieces
from picual.numerics import lora
from picual.passes.adapters.companions import copy_companions
from picual.passes.adapters.edits import ADAPTER_FILE, FLOATS, Edit, LowRank, Tie, edits_of, tie_of
from picual.passes.base import AdapterMerged, Forecast, Pass, PassContext, Promise, PromptContractKept
from picual.space import param

if TYPE_CHECKING:
    import torch

STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
INDEX = "model.safetensors.index.json"
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
        total = sum(shard.nbytes for shard in work.shards)
        done = 0
        for shard in work.shards:
            context.progress(done, total, shard.file)
            _finish(shard, work, context.scratch)
            done += shard.nbytes
        for shard in work.shards:
            _place(context.scratch / shard.file, context.folder / shard.file)
        _write_index(work, context.folder)
        _write_config(work, self.dtype, context.folder)
        copy_companions(model, context.folder)
        context.progress(total, total, "merged")
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
        if self.dtype == "keep":
            return profile
        return dataclasses.replace(profile, bytes=profile.parameters * (4 if self.dtype == "float32" else 2))


@dataclass(frozen=True)
class _Part:
    """One tensor to write: where it comes from, as what it is stored, what happens to it."""

    name: str
    source: TensorInfo
    dtype: str
    edits: tuple[Edit, ...]

    @property
    def untouched(self) -> bool:
        """Say whether its bytes go over as they are."""
        return not self.edits and self.dtype == self.source.dtype


@dataclass(frozen=True)
class _Shard:
    """One file to write, named like the base's."""

    file: str
    parts: tuple[_Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read, near enough for progress."""
        return sum(part.source.nbytes for part in self.parts)


@dataclass(frozen=True)
class _Work:
    base: HfModel
    shards: tuple[_Shard, ...]
    untied: Tie | None  # the head gets its own weight
    inputs: str  # digest: a finished shard of other inputs is not ours


def _work_of(model: HfAdapter, dtype: str) -> _Work:
    """Lay out every tensor of the result, from headers alone."""
    base = model.root()
    tensors = base.tensors()
    tie = tie_of(base.config(), tensors)
    edits = edits_of(model.chain(), tensors, tie)
    touched = tie is not None and {tie.head, tie.embedding} & set(edits)
    untied = tie if touched else None
    sources = dict(tensors)
    if tie is not None and untied is not None:
        # The head keeps what it shared, plus its own edits; where the base stores a copy, that copy is unused.
        sources[tie.head] = tensors[tie.embedding]
    files: dict[str, list[_Part]] = {file.name: [] for file in base.weight_files()}
    for name, source in sources.items():
        stored = STORED.get(dtype, source.dtype) if source.dtype in FLOATS else source.dtype
        home = tensors.get(name, source).file.name
        files[home].append(_Part(name, source, stored, tuple(edits.get(name, ()))))
    shards = tuple(_Shard(file, tuple(parts)) for file, parts in files.items())
    return _Work(base, shards, untied, _inputs(model, dtype))


def _inputs(model: HfAdapter, dtype: str) -> str:
    files = [*model.root().weight_files()]
    for link in model.chain():
        files += [link.path / "adapter_config.json", link.path / ADAPTER_FILE]
    return fingerprint.digest([dtype, *([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files)])


def _finish(shard: _Shard, work: _Work, scratch: Path) -> None:
    """Write one shard, unless an interrupted run has left it whole."""
    file, record = scratch / shard.file, scratch / f"{shard.file}.done.json"
    if record.exists() and file.exists():
        said = json.loads(record.read_text(encoding="utf-8"))
        if said == {"inputs": work.inputs, "bytes": file.stat().st_size}:
            return
    record.unlink(missing_ok=True)
    parts = {part.name: part for part in shard.parts}
    declared = [(part.name, part.dtype, part.source.shape) for part in shard.parts]
    with SafetensorsWriter(file, declared) as writer:
        for name in writer.names:
            writer.append(name, _bytes_of(parts[name]))
    _atomic.write_json(record, {"inputs": work.inputs, "bytes": file.stat().st_size})


def _bytes_of(part: _Part) -> Iterable[bytes | memoryview]:
    if part.untouched:
        return read_pieces(part.source)
    return [_raw(_merged(part), part.dtype)]


def _merged(part: _Part) -> torch.Tensor:
    """Return W plus every delta, in float32 (float64 if the base is)."""
    import torch

    wide = torch.float64 if part.source.dtype == "F64" else torch.float32
    weight = _read(part.source.file, part.source.name).to(wide)
    for edit in part.edits:
        if isinstance(edit, LowRank):
            a, b = _read(edit.file, edit.a), _read(edit.file, edit.b)
            weight += lora.delta(a, b, edit.scale, transposed=edit.transposed)
        else:
            weight = _read(edit.file, edit.tensor).to(wide)
    return weight


def _read(file: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor.clone()  # its own memory: the file's pages are not ours to add to


def _raw(weight: torch.Tensor, dtype: str) -> memoryview:
    """Return a tensor's bytes in a safetensors dtype, rounding once."""
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return memoryview(weight.to(kinds[dtype]).contiguous().view(torch.uint8).numpy().reshape(-1).data)


def _place(file: Path, goal: Path) -> None:
    """Give the finished shard its second name in the result; where links are not possible, copy it."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copyfile(file, goal)


def _write_index(work: _Work, folder: Path) -> None:
    if not (work.base.path / INDEX).exists():
        return
    parts = [part for shard in work.shards for part in shard.parts]
    index = {
        "metadata": {"total_size": sum(part.source.count * BYTES[part.dtype] for part in parts)},
        "weight_map": {part.name: shard.file for shard in work.shards for part in shard.parts},
    }
    _atomic.write_json(folder / INDEX, index)


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
    merged = sorted(
        (part for shard in work.shards for part in shard.parts if part.edits), key=lambda part: part.name
    )
    for part in merged:
        context.changed(part.name, "; ".join(str(edit) for edit in part.edits))
    if work.untied is not None:
        context.noted(
            f"`{work.untied.head}` and `{work.untied.embedding}` were tied and no longer hold the same weight: "
            "each is stored, and `tie_word_embeddings` is off"
        )
    context.metrics["merged"] = len(merged)
