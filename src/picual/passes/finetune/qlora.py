"""Fine-tune with QLoRA: train a low-rank update beside weights that are held in 4 bits.

When: where `lora` does not fit into memory. `merge-adapter` then merges onto the weights as they were trained on.
Cost: as `lora`, and every layer's weights are widened each time they are used; linear layers take a seventh of the
memory of float32.
Source: Dettmers et al., "QLoRA", arXiv 2305.14314; `init: loftq`: Li et al., "LoftQ", arXiv 2310.08659.

The network that is trained is not the base but what 4 bits leave of it. An adapter corrects that rounding too: on
the base's own weights it would correct errors that are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from picual import hardware
from picual.errors import BadValue, Refused
from picual.hardware import Machine, Target
from picual.models import HfCheckpoint, HfModel, Profile
from picual.models.trained_on import BLOCK, FourBit
from picual.passes.base import Forecast, PassContext
from picual.passes.finetune import training_arguments
from picual.passes.finetune.cost import forecast
from picual.passes.finetune.lora import Lora
from picual.passes.finetune.precision import FAST_BF16
from picual.passes.finetune.targets import HEAD, linear_modules, targets_of
from picual.space import param

FLOATS = ("F32", "BF16", "F16")
SCALE, NARROW_SCALE = 4.0, 1.0 + 4 / 256  # bytes of the scale of a block, in float32 and in 8 bits


@dataclass(frozen=True, kw_only=True)
class Qlora(Lora):
    """Train a LoRA adapter on a data set, beside weights that are held in 4 bits."""

    name: ClassVar[str] = "qlora"
    version: ClassVar[int] = 2
    extra: ClassVar[str] = "qlora"
    imports: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "bitsandbytes")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")

    quant_type: Literal["nf4", "fp4"] = param(
        "nf4", help="The 16 values of a held weight: quantiles of a normal distribution, or floats of 4 bits."
    )
    double_quant: bool = param(False, help="Hold the scales of the blocks in 8 bits too: 0.4 bits a weight less.")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = param(
        "auto", help="In which the 4-bit layers multiply; `auto`: bfloat16 where the machine is fast at it."
    )
    init: Literal["default", "loftq"] = param(
        "default", help="Where the update starts: at zero, or at what 4 bits lose of each adapted weight (LoftQ)."
    )
    loftq_iterations: int = param(
        1, help="Rounds of LoftQ: from the second on, 4 bits hold what the update of the round before leaves."
    )

    def __post_init__(self) -> None:
        """Refuse numbers outside their domain.

        Raises:
            BadValue: Says which.
        """
        super().__post_init__()
        if self.loftq_iterations < 1:
            raise BadValue(
                f"`loftq_iterations` is {self.loftq_iterations}; it must be at least 1", hint="loftq_iterations: 1"
            )
        if self.base != "as-given":
            raise BadValue(
                f"`base: {self.base}` is for `lora`: `qlora` holds its base in 4 bits of its own",
                hint="base: as-given, or the pass `lora`",
            )
        if self.method not in ("lora", "rslora"):
            raise BadValue(
                f"`method: {self.method}` is not trained beside 4 bits", hint="method: lora, or the pass `lora`"
            )

    def check(self, model: HfCheckpoint, target: Target) -> None:
        """Refuse what `lora` does, weights that are not floats, and a held layer that is to be trained in full."""
        if not isinstance(model, HfModel):
            raise Refused(
                "the model is integers already, and `qlora` makes 4 bits of its own",
                where=str(model.path),
                hint="train with `lora`: it trains on what the integers stand for",
            )
        super().check(model, target)
        tensors = model.tensors()
        linear = [name for name in linear_modules(tensors) if not HEAD.search(name)]
        odd = next((name for name in linear if tensors[f"{name}.weight"].dtype not in FLOATS), None)
        if odd is not None:
            raise Refused(
                f"`{odd}.weight` holds {tensors[f'{odd}.weight'].dtype}, which cannot be held in 4 bits",
                where=str(model.path),
                hint="give the model's checkpoint in float32, float16 or bfloat16",
            )
        if not any(tensors[f"{name}.weight"].shape[1] % BLOCK == 0 for name in linear):
            raise Refused(
                f"no linear layer's inputs are a multiple of {BLOCK}: none can be held in 4 bits",
                where=str(model.path),
                hint="train with `lora`, which holds the weights as they are",
            )
        for name in self.modules_to_save:
            if any(f".{module}".endswith(f".{name}") for module in linear):
                raise Refused(
                    f"`{name}` is held in 4 bits and cannot be trained in full",
                    where=str(model.path),
                    hint=f"adapt it instead: `modules: [{name}]`, or train with `lora`",
                )

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what `lora` does, with linear layers of a few bits a weight."""
        values = training_arguments.known(self.training)
        return forecast(
            profile, machine, rows.get(self.data or "", 0), form=self._form(self.modules), arguments=values,
            dtype=self.dtype, a_linear=0.5 + (NARROW_SCALE if self.double_quant else SCALE) / BLOCK,
        )  # fmt: skip

    def _held(self, model: HfCheckpoint, context: PassContext) -> FourBit | None:
        from picual.passes.finetune import loftq
        from picual.passes.finetune.four_bit_base import linears_of

        assert isinstance(model, HfModel)  # `check` saw to it
        names = linears_of(model)[0]
        held = FourBit(format=self.quant_type, double_quant=self.double_quant, names=names)
        if self.init == "default":
            return held
        adapted = {f"{name}.weight" for hits in targets_of(model, self.modules).values() for name in hits}
        chosen = [name for name in names if name in adapted]
        return loftq.write(model, chosen, held, context, rank=self.rank, rounds=self.loftq_iterations)

    def _begin(self, adapted: Any, context: PassContext) -> None:
        if self.init == "loftq":
            from picual.passes.finetune import loftq

            loftq.begin(adapted, context)

    def _network(self, model: HfCheckpoint, held: FourBit | None, context: PassContext) -> Callable[[str], Any]:
        import torch

        from picual.passes.finetune.four_bit_base import held_bytes, linears_of, load_four_bit

        assert held is not None
        assert isinstance(model, HfModel)
        for name in linears_of(model)[1]:
            context.skipped(name, f"held as it is: its rows are not made of whole blocks of {BLOCK}")
        gpu = torch.cuda.is_available() and not training_arguments.read(self.training).values.get("use_cpu")
        compute, note = compute_dtype_of(self.compute_dtype, hardware.machine(), gpu=gpu)
        if note:
            context.noted(note)

        def load(dtype: str) -> Any:
            network = load_four_bit(
                model, held, dtype=getattr(torch, dtype), compute=getattr(torch, compute),
                in_full=(*self.modules_to_save, *self.modules),
            )  # fmt: skip
            count = sum(model.tensors()[name].count for name in held.names)
            context.metrics["base_bytes"] = held_bytes(network)
            context.metrics["base_bits_a_weight"] = round(8 * context.metrics["base_bytes"] / max(count, 1), 3)
            return network

        return load


def compute_dtype_of(asked: str, machine: Machine, *, gpu: bool) -> tuple[str, str]:
    """Return in which dtype 4-bit layers multiply, and a note when it is not the one asked for.

    ``bitsandbytes`` multiplies bfloat16 ten times slower than float32 on a processor that does not have it.
    """
    is_fast = gpu or bool(FAST_BF16 & set(machine.instructions))
    if asked == "bfloat16" and not is_fast:
        return "float32", "`compute_dtype` is `float32`: this processor does not multiply bfloat16"
    if asked == "auto":
        return "bfloat16" if is_fast else "float32", ""
    return asked, ""
