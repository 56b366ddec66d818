"""Write the folder that ONNX Runtime GenAI loads: graph, weights, tokenizer and settings.

Weights become blocks of int4 or int8 by rounding to nearest, w = scale * (code - zero_point), or stay floats.

When: last, after training and merging; ``precision: int4`` is the smallest and fastest on a CPU.
Cost: seconds for 100 million weights, half a minute a billion; the memory of the libraries and a few megabytes
of weights at a time, whatever the model's size. No data, no accelerator.
Source: operators https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md; runtime
https://onnxruntime.ai/docs/genai.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from picual import _atomic, fingerprint
from picual.errors import Refused
from picual.graph import skeleton_file
from picual.graph.checkpoint import STORED, Checkpoint
from picual.graph.last_position import keep_last_position
from picual.graph.skeleton import build_skeleton, is_known
from picual.hardware import Machine, Target
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, HfModel, Profile, QuantizedHfModel
from picual.models.layout import is_tied
from picual.numerics.block_sizes import Format
from picual.passes.adapters.companions import copy_companions
from picual.passes.base import (
    Forecast,
    Pass,
    PassContext,
    Promise,
    PromptContractKept,
    RuntimeAgrees,
    WeightsExported,
)
from picual.passes.export import builder_fallback, sizes
from picual.passes.export.adapter_files import check_names, deploy, named_adapters
from picual.passes.export.assembly import DATA_FILE, Assembly, Choice, assemble, unsourced
from picual.passes.export.filling import fill
from picual.passes.export.genai_config import genai_config
from picual.space import Choice as OneOf
from picual.space import Settings, param

if TYPE_CHECKING:
    import onnx_ir as ir

SKELETON = "skeleton.onnx"
NOT_OF_GRAPH = ("_name_or_path", "transformers_version", "quantization_config")
WEIGHING = "quantize"  # the quantizer that chooses blocks with the rounding of activations in view
KEPT = "kept"  # as a promise says it: what the checkpoint holds
BITS: dict[str, Literal[4, 8]] = {"int4": 4, "int8": 8}
# Activations that may share a scale when kernels round them to int8. On honest 135M models 0.974 to 0.987 of all
# first choices stayed, near ties aside, with blocks of 32, 0.971 to 0.977 with 64, and 0.947 to 0.959 with 128.
ROUNDING_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class BuildGenai(Pass[HfModel | QuantizedHfModel | HfAdapter, GenaiModel]):
    """Export a Hugging Face model for ONNX Runtime GenAI, as floats or as blocks of small integers."""

    name: ClassVar[str] = "build-genai"
    version: ClassVar[int] = 3
    extra: ClassVar[str] = "cpu"
    imports: ClassVar[tuple[str, ...]] = ("torch", "transformers", "mobius", "onnx_ir", "onnxruntime_genai")
    libraries: ClassVar[tuple[str, ...]] = ("transformers", "mobius-onnx", "onnx-ir", "onnxruntime-genai", "numpy")
    target_matters: ClassVar[bool] = True

    precision: Literal["fp32", "fp16", "int8", "int4"] | None = param(
        None,
        help="Type of the linear layers' weights; left out, what the checkpoint holds "
        "(half precision only where the target computes in it).",
        search=OneOf(("int4", "int8")),
    )
    block: Literal[16, 32, 64, 128, 256] = param(
        32, help="Weights that share one scale.", search=OneOf((32, 64, 128)), unit="weight"
    )
    symmetric: bool = param(False, help="Leave out zero points: smaller, less exact.", search=OneOf((False, True)))
    head: Literal["int4", "int8"] = param(
        "int8",
        help="Type of the head, and of the embedding tied to it, when weights are quantized.",
        search=OneOf(("int8", "int4")),
    )
    accuracy_level: Literal[0, 4] | None = param(
        None,
        help="4: multiply with activations rounded to int8, fastest on a CPU; 0: with float activations; "
        "left out, 4 for blocks of up to 64, and for wider ones that `quantize` chose.",
    )
    logits: Literal["last", "all"] = param(
        "last",
        help="Positions at which the graph gives logits. Generation needs the last of each row alone, and reads "
        "prompts faster for it; other readers of the graph may need all.",
    )
    adapter_name: str = param("adapter", help="What the adapter is called that the model brings, if it is one.")
    adapters: Settings = param(  # noqa: RUF009  # a mapping that is never changed
        Settings(), help="Further adapters on the same base, folders by name.", role="adapters"
    )

    def __post_init__(self) -> None:
        """Refuse names of adapters that are no file names, or taken.

        Raises:
            BadValue: Says which.
        """
        check_names(self.adapter_name, self.adapters)

    def check(self, given: HfCheckpoint | HfAdapter, target: Target) -> None:
        """Refuse unknown networks, stored integers, blocks wider than a layer, and half precision on a CPU."""
        model = _root(given)
        config = model.config()
        kind = str(config.get("model_type", "unknown"))
        if not is_known(kind) and not builder_fallback.is_known(config):
            raise Refused(
                f"networks of type `{kind}` cannot be exported: neither graph library knows them",
                where=str(model.path),
                hint="use a Llama, Mistral, Phi-3, Qwen2, Qwen3 or Gemma checkpoint",
            )
        if isinstance(model, QuantizedHfModel):
            self._check_kept(model)
        else:
            _refuse_stored_integers(model, config)
        if self.precision == "fp16" and target.device == "cpu":
            # It runs. On 2048 tokens of a 135M model, logits were 0.12 off those of the same weights in float32,
            # where verification allows 0.02, though the best token agreed on 99.7 % of them.
            raise Refused(
                "fp16 on a CPU strays too far from the weights it was given to be verified",
                where=str(model.path),
                hint="set `precision: fp32`, or `int8` for a small model",
            )
        narrowest = min(model.profile().hidden, model.profile().intermediate or model.profile().hidden)
        if self.precision in BITS and self.block > narrowest:
            raise Refused(
                f"`block` is {self.block}, and the narrowest linear layer has {narrowest} inputs",
                where=str(model.path),
                hint=f"set `block: {max((size for size in (16, 32, 64, 128) if size <= narrowest), default=16)}`",
            )
        if named_adapters(given, self.adapter_name, self.adapters) and not is_known(kind):
            raise Refused(
                f"networks of type `{kind}` are built by onnxruntime-genai's builder, without inputs for adapters",
                where=str(given.path),
                hint="put `merge-adapter` before `build-genai`",
            )

    def _check_kept(self, model: QuantizedHfModel) -> None:
        if self.precision in BITS:
            raise Refused(
                f"these weights are integers already; rounding them again to {self.precision} would lose more",
                where=str(model.path),
                hint="leave `precision` out: the integers go over as they are",
            )
        kind = str(model.config().get("model_type", "unknown"))
        if not is_known(kind):
            raise Refused(
                f"networks of type `{kind}` are exported by onnxruntime-genai's builder, which reads no integers",
                where=str(model.path),
                hint="give `build-genai` the unquantized checkpoint with `precision: int4`",
            )

    def run(self, given: HfCheckpoint | HfAdapter, context: PassContext) -> GenaiModel:
        """Make the graph, lay out the data file, fill it, and put settings, tokenizer and adapters beside it."""
        model = _root(given)
        choice = self._choice(model, context.target)
        context.progress(0, 1, "making the graph")
        skeleton, complete = self._skeleton(model, choice, context)
        assembly = assemble(skeleton, model, choice, complete=complete)
        self._fill(assembly, model, context)
        if self.logits == "last":
            self._keep_last_position(assembly, context)
        self._deploy_adapters(assembly, given, choice, context)
        save(assembly.model, context.folder / "model.onnx")
        built = None if complete else builder_fallback.settings(context.scratch)
        settings = genai_config(model, assembly.model, context.target, built=built)
        _atomic.write_json(context.folder / "genai_config.json", settings)
        _atomic.write_json(context.folder / "config.json", model.config())
        if isinstance(given, HfAdapter):
            copy_companions(given, context.folder)
        for file in model.companions() if given is model else ():
            shutil.copyfile(file, context.folder / file.name)
        self._tell(assembly, context)
        made = GenaiModel(context.folder)
        context.metrics["size_mb"] = made.size() / 1e6
        return made

    def _deploy_adapters(
        self, assembly: Assembly, given: HfCheckpoint | HfAdapter, choice: Choice, context: PassContext
    ) -> None:
        """Give the graph inputs for the adapters, if there are some, and write each one's file."""
        import onnx_ir as ir

        adapters = named_adapters(given, self.adapter_name, self.adapters)
        if not adapters:
            return
        floats = ir.DataType.FLOAT16 if choice.floats == "fp16" else ir.DataType.FLOAT
        for stem in deploy(assembly.model, _root(given), adapters, floats, context.folder):
            context.changed(stem, "takes an adapter")
        context.noted(f"adapters beside the model: {', '.join(adapters)}; `{next(iter(adapters))}` answers")
        if choice.body is not None:
            context.noted("the adapters were trained on weights that are rounded now: `quantize` before `lora`"
                          " trains on the integers")  # fmt: skip

    def _keep_last_position(self, assembly: Assembly, context: PassContext) -> None:
        """Elsewhere than on a CPU the runtime may give a mask of the cache's full length, which hides the ends."""
        if context.target.device != "cpu":
            context.noted("logits at all positions: which is the last is known on a CPU only")
        elif not keep_last_position(assembly.model):
            context.noted("logits at all positions: no node of this graph is known to be its head")

    def preparation(self, given: HfCheckpoint | HfAdapter, target: Target) -> Mapping[str, Any] | None:
        """Return what the graph without weights depends on; None where it is not the graph library's alone."""
        model = _root(given)
        kind = str(model.config().get("model_type"))
        if not is_known(kind) or model.trust_remote_code:
            return None
        floats = self._choice(model, target).floats
        return {"config": _config_of_graph(model), "floats": floats, "provider": target.provider}

    def prepare(self, given: HfCheckpoint | HfAdapter, context: PassContext) -> None:
        """Make the graph without weights."""
        model = _root(given)
        context.progress(0, 1, "making the graph")
        floats = self._choice(model, context.target).floats
        skeleton = build_skeleton(_config_of_graph(model), floats=floats, provider=context.target.provider)
        skeleton_file.write(skeleton, context.folder / SKELETON)

    def promises(self) -> tuple[Promise, ...]:
        """Return: the weights are there at the asked width, the runtime agrees, the prompt contract is kept."""
        precision = self.precision or KEPT
        head = self.head if precision in BITS else "float"
        adapters = Settings({self.adapter_name: "", **self.adapters})
        weights = WeightsExported(
            precision=precision, block=self.block, symmetric=self.symmetric, head=head, adapters=adapters
        )
        return (weights, RuntimeAgrees(precision=precision, adapters=adapters), PromptContractKept())

    def compresses(self) -> bool:
        """Say whether weights are rounded."""
        return self.precision in {"int8", "int4", "fp16"}

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the libraries, the skeleton and one piece of weights take, and what lies on disk after."""
        return Forecast(
            memory=sizes.peak_memory(profile),
            disk=self._bytes_after(profile) + sizes.TOKENIZER,
            seconds=6 + (profile.linear + 2 * profile.embedding) / 4e7,
        )

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes of the exported model."""
        import dataclasses

        return dataclasses.replace(profile, bytes=self._bytes_after(profile))

    def _bytes_after(self, profile: Profile) -> int:
        if profile.quantized and self.precision is None:
            return sizes.kept_bytes(profile)
        return sizes.exported_bytes(
            profile,
            precision=self.precision or "fp32",
            block=self.block,
            symmetric=self.symmetric,
            head=self.head,
        )

    def _choice(self, model: HfCheckpoint, target: Target) -> Choice:
        on_gpu = target.device == "gpu"
        if isinstance(model, QuantizedHfModel) and self.precision is None:
            level = 0 if on_gpu else 4 if self.accuracy_level is None else self.accuracy_level
            floats: Literal["fp32", "fp16"] = "fp16" if on_gpu else "fp32"
            # `quantize` has weighed what rounding activations in wide blocks does; the others have not.
            weighed = self.accuracy_level is not None or model.method() == WEIGHING
            return Choice(
                floats=floats, body=None, head=None, accuracy_level=level, keep=True,
                widest_rounded=256 if weighed else ROUNDING_BLOCK,
            )  # fmt: skip
        halves = {tensor.dtype for tensor in model.tensors().values()} & {"F16", "BF16"}
        if self.precision in BITS:
            return Choice(
                floats="fp16" if on_gpu else "fp32",
                body=self._format(self.precision),
                head=self._format(self.head),
                accuracy_level=0 if on_gpu else self._accuracy_level(),
            )
        kept: Literal["fp32", "fp16"] = "fp16" if on_gpu and halves else "fp32"
        floats = "fp16" if self.precision == "fp16" else kept
        return Choice(floats="fp32" if self.precision == "fp32" else floats, body=None, head=None)

    def _accuracy_level(self) -> Literal[0, 4]:
        """Round activations only in blocks that verification can let pass; see ``ROUNDING_BLOCK``."""
        if self.accuracy_level is not None:
            return self.accuracy_level
        return 4 if self.block <= ROUNDING_BLOCK else 0

    def _format(self, precision: str) -> Format:
        return Format(bits=BITS[precision], block=self.block, symmetric=self.symmetric)

    def _skeleton(self, model: HfCheckpoint, choice: Choice, context: PassContext) -> tuple[ir.Model, bool]:
        """Return the graph to fill, and whether it waits for every tensor of the checkpoint."""
        config = model.config()
        kind = str(config.get("model_type"))
        if model.trust_remote_code and not _needs_remote_code(kind):
            context.noted(f"`trust_remote_code` was not needed: networks of type `{kind}` are known")
        if is_known(kind):
            if context.prepared is not None:
                skeleton = skeleton_file.read(context.prepared / SKELETON)
            else:
                trusted = model.path if model.trust_remote_code and _needs_remote_code(kind) else None
                skeleton = build_skeleton(
                    _config_of_graph(model),
                    floats=choice.floats,
                    provider=context.target.provider,
                    trust_from=trusted,
                )
            missing = unsourced(skeleton, model)
            if not missing:
                return skeleton, True
            if not builder_fallback.is_known(config):
                raise Refused(
                    f"the graph of a `{kind}` network needs `{missing[0]}`, which the checkpoint does not have",
                    where=str(model.path),
                    hint="fetch the model again; if it is whole, its tensors go by names that are not known here",
                )
        context.noted(f"networks of type `{kind}` are built by onnxruntime-genai's own builder")
        return (
            builder_fallback.build_skeleton(
                model,
                floats=choice.floats,
                quantized=choice.body is not None,
                provider=context.target.provider,
                scratch=context.scratch,
            ),
            False,
        )

    def _fill(self, assembly: Assembly, model: HfCheckpoint, context: PassContext) -> None:
        """Fill the data file in the scratch folder, so that a killed run can go on, then place it."""
        file = context.scratch / DATA_FILE
        fill(
            assembly,
            Checkpoint(model),
            file,
            inputs=self._inputs(assembly, model),
            on_progress=context.progress,
        )
        shutil.move(file, context.folder / DATA_FILE)  # a second name would be taken for an attack by loaders

    def _inputs(self, assembly: Assembly, model: HfCheckpoint) -> str:
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in model.weight_files()]
        return fingerprint.digest([files, repr(self), assembly.data.spans])

    def _tell(self, assembly: Assembly, context: PassContext) -> None:
        for job in assembly.jobs:
            if job.how:
                context.changed(job.name, job.how)
        for name, why in assembly.kept:
            context.skipped(name, why)


def _root(model: HfCheckpoint | HfAdapter) -> HfCheckpoint:
    """Return the checkpoint that is written: an adapter's base."""
    return model.root() if isinstance(model, HfAdapter) else model


def _config_of_graph(model: HfCheckpoint) -> dict[str, Any]:
    """Return what the graph depends on: integers come into it later, and who wrote the config is no matter."""
    config = {key: value for key, value in model.config().items() if key not in NOT_OF_GRAPH}
    return {**config, "tie_word_embeddings": is_tied(model.tensors(), model.config())}


def _refuse_stored_integers(model: HfCheckpoint, config: Mapping[str, Any]) -> None:
    odd = next((tensor for tensor in model.tensors().values() if tensor.dtype not in STORED), None)
    if config.get("quantization_config") is not None or odd is not None:
        what = f"`{odd.name}` is stored as {odd.dtype}" if odd else "its config has a `quantization_config`"
        raise Refused(
            f"this checkpoint is quantized already: {what}",
            where=str(model.path),
            hint="give the unquantized checkpoint",
        )


def _needs_remote_code(kind: str) -> bool:
    """Say whether ``transformers`` has no code of its own for this kind of network."""
    from transformers import CONFIG_MAPPING

    return kind not in CONFIG_MAPPING


def save(model: ir.Model, file: Path) -> None:
    """Write the graph; its weights are places in the data file."""
    import onnx_ir as ir

    ir.save(model, file)
