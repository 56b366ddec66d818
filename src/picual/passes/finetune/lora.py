"""Fine-tune with LoRA: train a low-rank update beside frozen weights.

When: to teach a model a task or a style from a few hundred examples on.
Cost: about four floating-point operations a weight and token; the activations of one batch in memory. `dora`,
`loha` and `lokr` write out the update of a layer, as large as its weight, in every pass over it.
Source: Hu et al., "LoRA", arXiv 2106.09685; `rslora`: Kalajdzievski, arXiv 2312.03732; `dora`: Liu et al., arXiv
2402.09353; `loha`: Hyeon-Woo et al., arXiv 2108.06098; `lokr`: Edalati et al., arXiv 2212.10650.

On a quantized checkpoint the frozen weights are the numbers that its integers stand for, so that the update learns
to make up for their rounding too; ``build-genai`` ships both as they are.

Training is ``transformers.Trainer`` with an adapter from ``peft``. A kill loses at most a tenth of the steps, or a
minute; what goes on afterwards ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from picual import _lazy
from picual.errors import BadValue, UnknownName, nearest
from picual.hardware import Machine, Target
from picual.models import HfAdapter, HfCheckpoint, HfModel, Profile, QuantizedHfModel, four_bit
from picual.models.hf_loading import load_base, load_tokenizer, quiet
from picual.models.mapped_network import load_mapped
from picual.models.trained_on import FourBit, TrainedOn, base_digest
from picual.passes.base import AdapterTrained, Forecast, Pass, PassContext, Promise, WeightsQuantized
from picual.passes.finetune import training, training_arguments
from picual.passes.finetune.adapter import OUTPUTS_DROPPED, AdapterForm, save_adapter
from picual.passes.finetune.cost import forecast
from picual.passes.finetune.examples import context_of, examples
from picual.passes.finetune.int4_base import INT4, check_int4, in_int4, int4_profile, with_int4
from picual.passes.finetune.precision import on_the_grid
from picual.passes.finetune.targets import ALL, check_layers, check_saved, targets_of
from picual.space import Choice, FloatRange, Settings, param


@dataclass(frozen=True, kw_only=True)
class Lora(Pass[HfModel | QuantizedHfModel, HfAdapter]):
    """Train an adapter on a data set, by LoRA or one of its kin."""

    name: ClassVar[str] = "lora"
    version: ClassVar[int] = 3
    extra: ClassVar[str] = "finetune"
    imports: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "accelerate")

    data: str | None = param(None, help="Data set to train on.", role="data")
    eval_data: str | None = param(
        None, help="Data set to evaluate on; left out, the holdout of `data`.", role="data"
    )
    method: Literal["lora", "rslora", "dora", "loha", "lokr"] = param(
        "lora",
        help="`rslora` scales by alpha / sqrt(rank); `dora` also learns the length of each row; `loha` and `lokr` "
        "multiply small matrices to an update of high rank.",
        search=Choice(("lora", "rslora", "dora", "loha", "lokr")),
    )
    rank: int = param(16, help="Rank of the update.", search=Choice((16, 8, 32, 64)))
    alpha: float = param(
        16.0, help="Strength: the update is scaled by alpha / rank.", search=Choice((16.0, 32.0, 64.0))
    )
    dropout: float = param(
        0.05,
        help="Share of the update's inputs left out while training; of its outputs for `loha` and `lokr`.",
        search=FloatRange(0.0, 0.2),
    )
    modules: tuple[str, ...] = param(
        (), help="Layers to adapt, by the last part of their names; left out, every linear layer but the head."
    )
    modules_to_save: tuple[str, ...] = param((), help="Modules to train in full and keep with the adapter.")
    use_rslora: bool = param(False, help="An older name of `method: rslora`.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = param(
        "auto", help="Of the frozen weights while training; `auto`: bfloat16 where the machine is fast at it."
    )
    base: Literal["as-given", "int4"] = param(
        "as-given", help="What the adapter is trained on: the given weights, or int4 of them, which ships with it."
    )
    training: Settings = param(  # noqa: RUF009  # a mapping that is never changed
        Settings(), help="Arguments of transformers' TrainingArguments, by name.", role="training"
    )

    def __post_init__(self) -> None:
        """Refuse numbers outside their domain.

        Raises:
            BadValue: Says which.
        """
        if self.rank < 1:
            raise BadValue(f"`rank` is {self.rank}; it must be at least 1", hint="rank: 16")
        if self.alpha <= 0:
            raise BadValue(f"`alpha` is {self.alpha:g}; it must be more than 0", hint="alpha: 16")
        if not 0 <= self.dropout < 1:
            raise BadValue(
                f"`dropout` is {self.dropout:g}; it must be from 0 to less than 1", hint="dropout: 0.05"
            )
        if self.use_rslora and self.method not in {"lora", "rslora"}:
            raise BadValue(
                f"`use_rslora` asks for the method `rslora`, and `method` is `{self.method}`",
                hint="method: rslora, or leave out `use_rslora`",
            )

    def check(self, model: HfCheckpoint, target: Target) -> None:
        """Refuse modules that the model does not have; ask for the data."""
        if self.data is None:
            raise BadValue(f"`{self.name}` needs `data`", hint="data: NAME, as under `data:` in the recipe")
        training_arguments.read(self.training)
        targets = targets_of(model, self.modules)
        check_layers(model, self.method, targets)
        check_saved(model, self.modules_to_save)
        if self.base == INT4:
            check_int4(model, target)

    def run(self, given: HfCheckpoint, context: PassContext) -> HfAdapter:
        """Train, going on from the newest whole checkpoint, and write the adapter."""
        self.check(given, context.target)
        four_bit.hush()
        for module in self.imports:
            _lazy.need(module, extra=self.extra, by=self.name)
        model = in_int4(given, context) if self.base == INT4 else given
        asked = training_arguments.read(self.training)
        for note in asked.notes:
            context.noted(note)
        targets = targets_of(model, self.modules)
        form = self._form(tuple(targets))
        with quiet():
            tokenizer = load_tokenizer(model)
            data = examples(
                self._named(self.data, context), self._named(self.eval_data, context), tokenizer, context,
                context_of(model),
            )  # fmt: skip
            held = self._held(model, context)
            plan = training.Training(
                network=self._network(model, held, context), form=form, examples=data, tokenizer=tokenizer,
                arguments=asked.values, data=data.config,
                dtype=on_the_grid(self.dtype) if isinstance(model, QuantizedHfModel) else self.dtype,
                begin=lambda adapted: self._begin(adapted, context),
            )  # fmt: skip
            adapted, metrics = training.train(plan, context)
            save_adapter(adapted, model, context.folder)
            TrainedOn(base_digest(model), held).write(context.folder)
        context.metrics.update(metrics, train_rows=data.train_rows, eval_rows=data.eval_rows)
        if self.dropout and form.method in OUTPUTS_DROPPED:
            context.noted(
                f"`dropout` {self.dropout:g} left out outputs of the update, not inputs: so `{form.method}` has it"
            )
        title = "" if form.method == "lora" else f", {form.method}"
        for name, hits in targets.items():
            context.changed(name, f"{len(hits)} layers, rank {self.rank}, alpha {self.alpha:g}{title}")
        for name in self.modules_to_save:
            context.changed(name, "trained in full")
        return HfAdapter(context.folder, base=model)

    def promises(self) -> tuple[Promise, ...]:
        """Return: every adapted module has a finite update that is not zero; an int4 base is near its source."""
        trained = AdapterTrained(modules=self.modules or (ALL,))
        return (trained, WeightsQuantized(nearest=False)) if self.base == INT4 else (trained,)

    def compresses(self) -> bool:
        """Say whether the base's weights are rounded."""
        return self.base == INT4

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes of the base that the adapter is on."""
        return int4_profile(profile) if self.base == INT4 else profile

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what weights, adapter, optimizer and the activations of the largest batch take."""
        values = training_arguments.known(self.training)
        count = rows.get(self.data or "", 0)
        form = self._form(self.modules)
        found = forecast(profile, machine, count, form=form, arguments=values, dtype=self.dtype)
        return found if self.base != INT4 else with_int4(found, profile, target, machine, rows)

    def _held(self, model: HfCheckpoint, context: PassContext) -> FourBit | None:
        """Return which weights of the base are held in 4 bits: none here."""
        return None

    def _network(self, model: HfCheckpoint, held: FourBit | None, context: PassContext) -> Callable[[str], Any]:
        """Return what loads the base with its floats of a dtype."""
        import torch

        def load(dtype: str) -> Any:
            mapped = load_mapped(model, dtype, context.scratch) if isinstance(model, HfModel) else None
            return load_base(model, getattr(torch, dtype)) if mapped is None else mapped

        return load

    def _begin(self, adapted: Any, context: PassContext) -> None:
        """Change a fresh adapter before it is trained: it stays as it is here."""

    def _form(self, modules: tuple[str, ...]) -> AdapterForm:
        return AdapterForm(
            rank=self.rank, alpha=self.alpha, dropout=self.dropout, modules=modules,
            modules_to_save=self.modules_to_save, method="rslora" if self.use_rslora else self.method,
        )  # fmt: skip

    def _named(self, name: str | None, context: PassContext) -> Any:
        if name is not None and name not in context.data:
            raise UnknownName(f"unknown data set `{name}`", hint=nearest(name, list(context.data)))
        return name
