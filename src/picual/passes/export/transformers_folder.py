"""Write a quantized model as a folder for ``transformers``, in the format of compressed-tensors or GPTQ.

When: a quantized model has to run elsewhere than in ONNX Runtime: in transformers, or in servers that read these
formats (vLLM, SGLang; not tried here).
Cost: seconds, the disk of the quantized model plus its embedding in float32. The memory of one weight.
Source: https://github.com/vllm-project/compressed-tensors (``pack-quantized``);
https://github.com/ModelCloud/GPTQModel (``qweight``, ``qzeros``, ``scales``, ``g_idx``).

The integers and zero points are the very same; no weight is rounded again. The embedding, and a head tied to it,
become float32 on their grid: compressed-tensors brings a quantized one back with wrong weights, without a word.

``compressed-tensors`` keeps the scales too. A symmetric model loads with ``from_pretrained`` alone. One with zero
points needs ``quantization_config=CompressedTensorsConfig(dequantize=True)`` on a CPU, and then transformers reads
every layer in the way of the first: layers that are stored in several ways are refused if one has zero points, and
a head of its own that is stored in another way than such layers becomes floats too.

``gptq`` holds scales in float16: each is off by up to 1/2048 of itself, and one beyond 65504 is refused. Zero
points are stored less one (version 1, which every reader knows); as they are (``gptq_v2``) where one of them is 0
or layers differ in bits. Readers of version 1 add the one to whole words, so that a 0 spills into its neighbour,
and in the width of the commonest layer. A head of its own becomes floats: readers look inside the layers only. The
result has been checked by decoders of our own; gptqmodel itself has not been run on it here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from picual import _atomic, fingerprint
from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel, Stored
from picual.models.layout import HEAD, embedding_of, linears
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import BYTES, SafetensorsWriter, read_pieces
from picual.passes.base import Forecast, IntegersKept, Pass, PassContext, Promise, PromptContractKept
from picual.passes.export import packed_weights, quantization_configs
from picual.passes.export.packed_weights import Tensor
from picual.space import param

INDEX = "model.safetensors.index.json"
LIBRARIES = 120_000_000  # bytes of anonymous memory once numpy is imported
DTYPE = {"compressed-tensors": "float32", "gptq": "float16"}  # of the scales: what a reader computes in


@dataclass(frozen=True, kw_only=True)
class ExportTransformers(Pass[QuantizedHfModel, HfModel]):
    """Write a quantized model for transformers: compressed-tensors or GPTQ."""

    name: ClassVar[str] = "export-transformers"
    version: ClassVar[int] = 1
    extra: ClassVar[str] = "export"
    imports: ClassVar[tuple[str, ...]] = ("numpy",)

    format: Literal["compressed-tensors", "gptq"] = param(
        "compressed-tensors", help="Format of the packed weights."
    )

    def check(self, model: QuantizedHfModel, target: Target) -> None:
        """Refuse what the format cannot hold, or its readers would read wrongly."""
        packed = _packed(model, self.format)
        if not packed:
            raise Refused(
                "no linear layer is quantized", where=str(model.path), hint="export the unquantized checkpoint"
            )
        for name, how in packed.items():
            _check_shape(name, how, self.format, str(model.path))
        if self.format == "gptq":
            _check_scales(model, packed)
        elif not _readable(packed.values()):
            raise Refused(
                "its layers have zero points and differ in bits or block: transformers would read them in one way",
                where=str(model.path),
                hint="quantize with `symmetric: true`, or without `overrides`, or set `format: gptq`",
            )

    def run(self, model: QuantizedHfModel, context: PassContext) -> HfModel:
        """Rewrite file by file in the scratch folder, then place all of them."""
        work = _work_of(model, self.format)
        for number, (file, sources) in enumerate(work.files.items()):
            context.progress(number, len(work.files), file)
            _finish(work, file, sources, context.scratch)
        for file in work.files:
            _place(context.scratch / file, context.folder / file)
        _write_index(work, context)
        _write_config(work, self.format, context.folder)
        for companion in model.companions():
            shutil.copyfile(companion, context.folder / companion.name)
        if model.trust_remote_code:
            for code in sorted(model.path.glob("*.py")):
                shutil.copyfile(code, context.folder / code.name)
        _tell(work, self.format, context)
        context.progress(len(work.files), len(work.files), "written")
        return HfModel(context.folder, model.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: the integers are the source's, and the prompt contract is kept."""
        return (IntegersKept(format=self.format), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the largest weight takes while it is turned round, and what lies on disk after."""
        largest = profile.hidden * max(2 * profile.intermediate, profile.heads * profile.head_size)
        disk = self.profile_after(profile).bytes
        memory = LIBRARIES + 3 * largest + 8 * packed_weights.ROWS_AT_ONCE
        return Forecast(memory=memory, disk=disk, seconds=2 + disk / 2e8)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes with embedding and head as floats: the most it can be."""
        tables = 1 if profile.tied else 2
        return dataclasses.replace(profile, bytes=profile.bytes + 4 * tables * profile.embedding)


@dataclass(frozen=True)
class _Work:
    model: QuantizedHfModel
    packed: Mapping[str, Stored]
    files: Mapping[str, tuple[str, ...]]  # names of weights by the file they are written to
    format: str
    second: bool  # version 2 of GPTQ
    inputs: str  # digest: a finished file of other inputs is not ours

    def tensors(self, name: str) -> list[Tensor]:
        """Return what is written for one weight of the source."""
        if name not in self.model.stored():
            info = self.model.parts()[name]
            return [Tensor(name, info.dtype, info.shape, lambda: read_pieces(info))]
        weight = open_weight(self.model, name)
        if name not in self.packed:
            return packed_weights.as_floats(name, weight)
        if self.format == "gptq":
            return packed_weights.as_gptq(name, weight, less=0 if self.second else 1)
        return packed_weights.as_compressed_tensors(name, weight)

    def left(self) -> list[str]:
        """Return the modules of two axes whose weights are floats, a tied head included."""
        tensors = self.model.tensors()
        names = {*linears(tensors), HEAD, embedding_of(tensors) or HEAD} - set(self.packed)
        return [quantization_configs.module_of(name) for name in names]


def _packed(model: QuantizedHfModel, format: str) -> dict[str, Stored]:
    """Return the weights that stay integers."""
    stored = model.stored()
    embedding = embedding_of(model.tensors())
    layers = {name: how for name, how in stored.items() if name not in {embedding, HEAD}}
    head = stored.get(HEAD)
    if head is None or format == "gptq" or not _readable([*layers.values(), head]):
        return layers
    return {**layers, HEAD: head}


def _readable(ways: Iterable[Stored]) -> bool:
    """Say whether transformers reads weights of these ways together: it has zero points for one way only."""
    different = {(how.bits, how.block, how.symmetric) for how in ways}
    return len(different) < 2 or all(symmetric for _, _, symmetric in different)


def _check_shape(name: str, how: Stored, format: str, where: str) -> None:
    height, width = how.shape
    if width % how.block or how.block * how.bits % 32:
        raise Refused(
            f"`{name}` has {width} inputs, which blocks of {how.block} do not divide into whole words",
            where=where,
            hint="quantize it again with a block that divides its inputs",
        )
    if format == "gptq" and height * how.bits % 32:
        raise Refused(
            f"`{name}` has {height} outputs; GPTQ packs the zero points of {32 // how.bits} of them into a word",
            where=where,
            hint="set `format: compressed-tensors`",
        )


def _check_scales(model: QuantizedHfModel, packed: Mapping[str, Stored]) -> None:
    import numpy as np

    for name in packed:
        if not np.isfinite(packed_weights.halves(open_weight(model, name))).all():
            raise Refused(
                f"a scale of `{name}` is beyond 65504, the largest of float16, in which GPTQ holds scales",
                where=str(model.path),
                hint="set `format: compressed-tensors`",
            )


def _work_of(model: QuantizedHfModel, format: str) -> _Work:
    packed = _packed(model, format)
    homes: dict[str, list[str]] = {file.name: [] for file in model.weight_files()}
    for name, info in model.tensors().items():
        homes[info.file.name].append(name)
    kept = [names for _, names in sorted(homes.items()) if names]
    files = {_file(number, len(kept)): tuple(sorted(names)) for number, names in enumerate(kept, 1)}
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in model.weight_files()]
    second = format == "gptq" and _needs_second(model, packed)
    return _Work(model, packed, files, format, second, fingerprint.digest([format, second, *map(list, stamps)]))


def _file(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"


def _needs_second(model: QuantizedHfModel, packed: Mapping[str, Stored]) -> bool:
    """Say whether zero points less one would be read back wrongly."""
    if len({how.bits for how in packed.values()}) > 1:
        return True
    return any(
        not packed_weights.zero_points(open_weight(model, name)).all()
        for name, how in packed.items()
        if not how.symmetric
    )


def _finish(work: _Work, file: str, sources: tuple[str, ...], scratch: Path) -> None:
    """Write one file, unless an interrupted run has left it whole."""
    goal, record = scratch / file, scratch / f"{file}.done.json"
    if record.exists() and goal.exists():
        said = json.loads(record.read_text(encoding="utf-8"))
        if said == {"inputs": work.inputs, "bytes": goal.stat().st_size}:
            return
    record.unlink(missing_ok=True)
    tensors = {tensor.name: tensor for name in sources for tensor in work.tensors(name)}
    with SafetensorsWriter(goal, [(t.name, t.dtype, t.shape) for t in tensors.values()]) as writer:
        for name in writer.names:
            writer.append(name, tensors[name].content())
    _atomic.write_json(record, {"inputs": work.inputs, "bytes": goal.stat().st_size})


def _place(file: Path, goal: Path) -> None:
    """Give the finished file its second name in the result; where links are not possible, copy it."""
    try:
        os.link(file, goal)
    except OSError:
        shutil.copyfile(file, goal)


def _write_index(work: _Work, context: PassContext) -> None:
    tensors = [(file, tensor) for file, names in work.files.items() for n in names for tensor in work.tensors(n)]
    total = sum(BYTES[tensor.dtype] * math.prod(tensor.shape) for _, tensor in tensors)
    context.metrics["size_mb"] = total / 1e6
    if len(work.files) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {tensor.name: file for file, tensor in tensors},
        }
        _atomic.write_json(context.folder / INDEX, index)


def _write_config(work: _Work, format: str, folder: Path) -> None:
    config: dict[str, Any] = work.model.config()
    config.pop("torch_dtype", None)
    config["dtype"] = DTYPE[format]
    if format == "gptq":
        said = quantization_configs.gptq(work.packed, work.left(), second=work.second)
    else:
        said = quantization_configs.compressed_tensors(work.packed, work.left())
    _atomic.write_json(folder / "config.json", config | {"quantization_config": said})


def _tell(work: _Work, format: str, context: PassContext) -> None:
    for name, how in sorted(work.model.stored().items()):
        form = f"int{how.bits} block {how.block}{' symmetric' if how.symmetric else ''}"
        if name in work.packed:
            context.changed(name, f"{form}, packed as {format}")
        else:
            context.changed(name, f"{form}, written as float32 on its grid")
    if format == "gptq":
        context.noted("GPTQ holds scales in float16: each is rounded by up to 1/2048 of itself")
        if work.second:
            context.noted(
                "zero points are stored as they are (`checkpoint_format: gptq_v2`): one is 0, or widths differ"
            )
    elif not all(how.symmetric for how in work.packed.values()):
        context.noted(
            "it has zero points: on a CPU, load it with "
            "`from_pretrained(folder, quantization_config=CompressedTensorsConfig(dequantize=True))`"
        )
