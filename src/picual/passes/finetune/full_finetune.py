"""Fine-tune every weight of a model on a data set.

When: where an adapter cannot learn enough, and the memory is there. The result is a whole checkpoint.
Cost: 16 bytes of memory a weight, for itself, its gradient and two moments in float32; six floating-point
operations a weight and token; two checkpoints of 12 bytes a weight on disk while it trains.
Source: Loshchilov and Hutter, "AdamW", arXiv 1711.05101, unless `training` names another optimizer.

Weights are float32 while they are trained (`training: {bf16: true}` computes in half precision beside them), and
rounded to the base's own types once, at the end. A kill loses at most a tenth of the steps, or a minute.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from picual import _lazy, fingerprint
from picual.errors import BadValue, Refused, StepFailed, UnknownName, nearest
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile
from picual.models.hf import weight_files
from picual.models.hf_loading import load_checkpoint, load_tokenizer, quiet
from picual.models.layout import DERIVED, HEAD, embedding_of
from picual.models.safetensors_file import TensorInfo, read_header
from picual.passes import rewriting
from picual.passes.base import Forecast, NetworkTrained, Pass, PassContext, Promise, PromptContractKept
from picual.passes.finetune import training, training_arguments
from picual.passes.finetune.cost import forecast_full
from picual.passes.finetune.examples import context_of, examples
from picual.passes.rewriting import Part, Pieces, Shard
from picual.space import Settings, param

FLOATS = ("F64", "F32", "F16", "BF16")
ELEMENTS = 1 << 22  # of a matrix in memory at a time


@dataclass(frozen=True, kw_only=True)
class FullFinetune(Pass[HfModel, HfModel]):
    """Train every weight on a data set."""

    name: ClassVar[str] = "full-finetune"
    version: ClassVar[int] = 2
    extra: ClassVar[str] = "finetune"
    imports: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")

    data: str | None = param(None, help="Data set to train on.", role="data")
    eval_data: str | None = param(
        None, help="Data set to evaluate on; left out, the holdout of `data`.", role="data"
    )
    training: Settings = param(  # noqa: RUF009  # a mapping that is never changed
        Settings(), help="Arguments of transformers' TrainingArguments, by name.", role="training"
    )

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse a checkpoint of packed integers, which cannot be trained; ask for the data."""
        if self.data is None:
            raise BadValue(f"`{self.name}` needs `data`", hint="data: NAME, as under `data:` in the recipe")
        training_arguments.read(self.training)
        if model.config().get("quantization_config"):
            raise Refused(
                "the checkpoint is quantized: its integers cannot be trained",
                where=str(model.path),
                hint="give the model's float checkpoint, or train an adapter: `lora`",
            )

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        """Train, going on from the newest whole checkpoint, and write the network as the base is written."""
        self.check(model, context.target)
        for module in self.imports:
            _lazy.need(module, extra=self.extra, by=self.name)
        import torch

        asked = training_arguments.read(self.training)
        for note in asked.notes:
            context.noted(note)
        for name in (self.data, self.eval_data):
            if name is not None and name not in context.data:
                raise UnknownName(f"unknown data set `{name}`", hint=nearest(name, list(context.data)))
        with quiet():
            tokenizer = load_tokenizer(model)
            data = examples(str(self.data), self.eval_data, tokenizer, context, context_of(model))
            plan = training.Training(
                network=lambda dtype: load_checkpoint(model, getattr(torch, dtype)), form=None, examples=data,
                tokenizer=tokenizer, arguments=asked.values, data=data.config, dtype="float32",
            )  # fmt: skip
            checkpoint, metrics = training.train_in_full(plan, context)
        context.metrics.update(metrics, train_rows=data.train_rows, eval_rows=data.eval_rows)
        _write(model, checkpoint, context)
        return HfModel(context.folder, model.trust_remote_code)

    def promises(self) -> tuple[Promise, ...]:
        """Return: the same tensors, finite, some of them moved; and the prompt contract is kept."""
        return (NetworkTrained(), PromptContractKept())

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what weights, gradients, moments and the activations of the largest batch take."""
        values = training_arguments.known(self.training)
        return forecast_full(profile, machine, rows.get(self.data or "", 0), arguments=values)


def _write(base: HfModel, checkpoint: Path, context: PassContext) -> None:
    """Write the weights of a checkpoint under the base's names and in its types, and what belongs beside them."""
    trained = {name: info for file in weight_files(checkpoint) for name, info in read_header(file).items()}
    sources = _sources(base, trained)
    tensors = base.tensors()
    files: dict[str, list[Part]] = {file.name: [] for file in base.weight_files()}
    for name, info in tensors.items():
        source = sources.get(name)
        part = Part(name, source or info, info.dtype, is_changed=source is not None)
        files[info.file.name].append(part)
    shards = tuple(Shard(file, tuple(parts)) for file, parts in files.items())
    stamps = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in weight_files(checkpoint)]
    rewriting.write(base, shards, fingerprint.digest(stamps), _content, context)
    for file in [base.path / "config.json", *base.companions()]:
        shutil.copyfile(file, context.folder / file.name)
    for code in sorted(base.path.glob("*.py")) if base.trust_remote_code else ():
        shutil.copyfile(code, context.folder / code.name)
    count = sum(tensors[name].count for name in sources)
    context.changed("network", f"{len(sources)} of {len(tensors)} tensors trained, {count} weights")
    context.metrics["trained_weights"] = count


def _sources(base: HfModel, trained: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return where each weight of the base is now; tensors that follow from the config are not trained.

    Raises:
        StepFailed: A weight is not in the checkpoint under its name and shape.
    """
    tensors = base.tensors()
    embedding = embedding_of(tensors)
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        now = trained.get(name)
        if now is None and name == HEAD and embedding is not None:
            now = trained.get(embedding)  # a stored copy of a tied head
        if now is None and (name.endswith(DERIVED) or info.dtype not in FLOATS):
            continue
        if now is None or now.shape != info.shape:
            raise StepFailed(
                f"`{name}` was not trained: the network has no weight of that name and shape",
                where=str(base.path),
                hint="train an adapter instead: `lora`",
            )
        found[name] = now
    return found


def _content(part: Part) -> Pieces:
    """Return the bytes of a weight, rounded to the type of the base, a few rows at a time."""
    if len(part.source.shape) != 2:
        return [rewriting.raw(rewriting.read(part.source.file, part.source.name), part.dtype)]
    return (rewriting.raw(piece, part.dtype) for piece in rewriting.rows(part.source, ELEMENTS))
