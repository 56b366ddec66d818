"""Merge adapters into their model: W' = W + scale * B A for every weight that LoRA adapted.

When: after fine-tuning, before anything that compresses or exports.
Cost: seconds to minutes, the disk of one model, the memory of one weight. No accelerator.
Source: Hu et al., "LoRA", arXiv 2106.09685. DoRA, LoHa and LoKr have updates of their own, in `picual.numerics`.

Shard by shard: the model is never in memory whole. A weight is summed in float32, over the whole chain of
adapters, and rounded to its stored dtype once.

An adapter that was trained beside weights in 4 bits (`qlora`) belongs on what 4 bits left of them: W is then
dequantize(quantize(W)), in every layer that was held so. That is the network that was trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picual import _atomic, _lazy, fingerprint
from picual.errors import BadValue, Refused
from picual.hardware import Machine, Target
from picual.models import HfAdapter, HfCheckpoint, HfModel, Profile, QuantizedHfModel, four_bit, trained_on
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import TensorInfo
from picual.models.trained_on import FourBit
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
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "transformers", "peft")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "bitsandbytes")

    dtype: Literal["keep", "float32", "float16", "bfloat16"] = param(
        "keep", help="Floating-point type of the merged weights; `keep` is the base's own."
    )
    base: Literal["as-trained", "original"] = param(
        "as-trained",
        help="Onto what: the weights as they were while the adapter was trained, maybe 4 bits, or the base's own.",
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
            MissingDependency: The base was held in 4 bits, and what does so is not installed.
        """
        count = len(model.chain())
        if self.weights and len(self.weights) != count:
            adapters = "1 adapter" if count == 1 else f"{count} adapters"
            raise BadValue(
                f"`weights` holds {len(self.weights)} numbers, and the chain has {adapters}",
                hint=f"weights: [{', '.join(['1.0'] * count)}]",
            )
        work = self._work(model)
        if work.held is not None and not _lazy.is_installed("bitsandbytes"):
            raise _lazy.missing("bitsandbytes", extra="qlora", by=self.name)
        _refuse_another_base(model)

    def _work(self, model: HfAdapter) -> _Work:
        return _work_of(model, self.dtype, self.base, self.weights)

    def run(self, model: HfAdapter, context: PassContext) -> HfModel:
        """Merge each shard in the scratch folder, then place all of them."""
        _lazy.need("torch", extra=self.extra, by=self.name).set_num_threads(context.threads)
        work = self._work(model)
        rewriting.write(work.base, work.shards, work.inputs, work.content, context)
        _write_config(work, self.dtype, context.folder)
        copy_companions(model, context.folder)
        _tell(model, work, context)
        return HfModel(context.folder, work.base.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: every delta is there, on the base it was asked onto, and the prompt contract is kept."""
        return (AdapterMerged(base=self.base, weights=self.weights), PromptContractKept())

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
    held: FourBit | None  # how weights were held while the adapter was trained, where that counts
    inputs: str  # digest: a finished shard of other inputs is not ours

    def content(self, part: Part) -> Pieces:
        """Return the bytes of a weight that an adapter changes, or that is stored as another type."""
        weight = _weight(self.base, part.source, self.held_as(part.name))
        return [rewriting.raw(_merged(weight, self.edits.get(part.name, [])), part.dtype)]

    def held_as(self, name: str) -> FourBit | None:
        """Return how a weight was held; None for one that was as the base has it."""
        return self.held if self.held is not None and name in self.held.names else None


def _work_of(model: HfAdapter, dtype: str, onto: str, weights: tuple[float, ...]) -> _Work:
    """Lay out every tensor of the result, from headers alone."""
    base = model.root()
    if dtype == "keep" and isinstance(base, QuantizedHfModel):
        dtype = "float32"  # what integers stand for lies between narrower numbers
    tensors = base.tensors()
    tie = tie_of(base.config(), tensors)
    edits = edits_of(model.chain(), tensors, tie, weights)
    touched = tie is not None and {tie.head, tie.embedding} & set(edits)
    untied = tie if touched else None
    sources = dict(tensors)
    if tie is not None and untied is not None:
        # The head keeps what it shared, plus its own edits; where the base stores a copy, that copy is unused.
        sources[tie.head] = tensors[tie.embedding]
    held = _held(model, tensors) if onto == "as-trained" else None
    names = {*edits, *(held.names if held is not None else ())}
    files: dict[str, list[Part]] = {file.name: [] for file in base.weight_files()}
    for name, source in sources.items():
        stored = STORED.get(dtype, source.dtype) if source.dtype in (*FLOATS, DTYPE) else source.dtype
        home = tensors.get(name, source).file.name
        files[home].append(Part(name, source, stored, is_changed=name in names))
    shards = tuple(Shard(file, tuple(parts)) for file, parts in files.items())
    return _Work(base, shards, edits, untied, held, _inputs(model, dtype, held, weights))


def _held(model: HfAdapter, tensors: Mapping[str, TensorInfo]) -> FourBit | None:
    """Return how the base's weights were held, as the adapters say it."""
    held = trained_on.held_in_four_bits(model.chain())
    stranger = next((name for name in held.names if name not in tensors), None) if held is not None else None
    if stranger is not None:
        raise Refused(
            f"the adapter was trained beside a `{stranger}`, which this model does not have",
            where=str(model.path),
            hint="give the model this adapter was trained on",
        )
    return held


def _refuse_another_base(model: HfAdapter) -> None:
    """Compare digests, where an adapter says which base it was trained on."""
    for link in model.chain():
        said = trained_on.read(link.path)
        if said is not None and said.digest != trained_on.base_digest(model.root()):
            raise Refused(
                "the adapter was trained on another model than the one it is to be merged into",
                where=str(link.path),
                hint="give the model this adapter was trained on",
            )


def _inputs(model: HfAdapter, dtype: str, held: FourBit | None, weights: tuple[float, ...]) -> str:
    files = [*model.root().weight_files()]
    for link in model.chain():
        files += [link.path / "adapter_config.json", link.path / ADAPTER_FILE]
    files += [held.taken_off] if held is not None and held.taken_off is not None else []
    how = None if held is None else held.to_wire()
    stats = ([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)
    return fingerprint.digest([dtype, how, list(weights), *stats])


def _weight(base: HfCheckpoint, source: TensorInfo, held: FourBit | None) -> torch.Tensor:
    """Return W of the base in float32 or wider: its numbers, what its integers stand for, or what 4 bits left."""
    import torch

    if isinstance(base, QuantizedHfModel) and source.dtype == DTYPE:
        return torch.from_numpy(open_weight(base, source.name).rows(0, source.shape[0]).copy())
    wide = torch.float64 if source.dtype == "F64" else torch.float32
    stored = rewriting.read(source.file, source.name)
    return stored.to(wide) if held is None else four_bit.dequantized(stored, held, source.name).to(wide)


def _merged(weight: torch.Tensor, edits: list[Edit]) -> torch.Tensor:
    """Return W plus every delta."""
    for edit in edits:
        weight = applied(edit, weight)
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


def _tell(model: HfAdapter, work: _Work, context: PassContext) -> None:
    for name, edits in sorted(work.edits.items()):
        context.changed(name, "; ".join(str(edit) for edit in edits))
    if work.untied is not None:
        context.noted(
            f"`{work.untied.head}` and `{work.untied.embedding}` were tied and no longer hold the same weight: "
            "each is stored, and `tie_word_embeddings` is off"
        )
    if isinstance(work.base, QuantizedHfModel):
        context.noted("the base's integers became the float32 numbers that they stand for")
    if work.held is not None:
        for name in sorted(set(work.held.names) - set(work.edits)):
            context.changed(name, f"as {work.held.format} left it")
    elif (held := trained_on.held_in_four_bits(model.chain())) is not None:
        context.noted(
            f"the adapter was trained beside {len(held.names)} weights in {held.format}, and is merged onto the "
            "original ones: what it learnt to correct of their rounding is now an error, and the quality that "
            "training measured is not that of this model (`base: as-trained` keeps it)"
        )
    context.metrics["merged"] = len(work.edits)
