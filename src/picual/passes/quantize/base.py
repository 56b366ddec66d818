"""What all quantizers have in common: the fields that say how weights are stored, and what is promised of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from picual.errors import Refused
from picual.graph.checkpoint import STORED
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile, QuantizedHfModel
from picual.numerics.block_sizes import Bits, Format, nbytes
from picual.passes.base import Forecast, Pass, Promise, PromptContractKept, WeightsQuantized
from picual.passes.quantize.sites import Site, check_overrides, overridden, sites_of
from picual.space import Choice, Settings, param

EMBEDDING_BITS: Bits = 8  # of a table of its own: reading it costs one row a token, so it can be wide
LIBRARIES = 400_000_000  # bytes of anonymous memory once torch and transformers are imported
WIDTHS: dict[str, Bits] = {"int4": 4, "int8": 8}


@dataclass(frozen=True, kw_only=True)
class Quantizer(Pass[HfModel, QuantizedHfModel]):
    """A pass from a checkpoint to its quantized form."""

    extra: ClassVar[str] = "cpu"
    imports: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy")

    bits: Literal[2, 4, 8] = param(4, help="Bits of a weight of the linear layers.", search=Choice((4, 8)))
    block: Literal[16, 32, 64, 128, 256] = param(
        32, help="Weights that share one scale.", search=Choice((32, 64, 128)), unit="weight"
    )
    symmetric: bool = param(False, help="Leave out zero points: smaller, less exact.")
    head: Literal["int4", "int8"] | None = param(
        None,
        help="Type of the head, and of the embedding tied to it; left out, int8, or what a size asks for.",
        search=Choice(("int8", "int4")),
    )
    head_block: Literal[16, 32, 64, 128, 256] = param(
        64, help="Weights of the head that share one scale.", unit="weight"
    )
    overrides: Settings = param(  # noqa: RUF009  # a mapping that is never changed
        Settings(),
        help="Other bits, block or symmetric for single weights, by name or pattern: "
        '`{"*.down_proj": {bits: 8}}`; the last that matches counts.',
    )

    def check(self, model: HfModel, target: Target) -> None:
        """Refuse checkpoints that are quantized already, wider blocks than layers, and patterns of nothing."""
        where = str(model.path)
        odd = next((tensor for tensor in model.tensors().values() if tensor.dtype not in STORED), None)
        if model.config().get("quantization_config") is not None or odd is not None:
            what = f"`{odd.name}` is stored as {odd.dtype}" if odd else "its config has a `quantization_config`"
            raise Refused(
                f"this checkpoint is quantized already: {what}",
                where=where,
                hint="give the unquantized checkpoint",
            )
        sites = sites_of(model)
        if not sites:
            raise Refused("this checkpoint has no linear layers to quantize", where=where)
        check_overrides(self.overrides, sites, where)
        for site, form in self.formats(model).items():
            if form.block > 2 * site.width:
                raise Refused(
                    f"`block` is {form.block}, and `{site}` has {site.width} inputs",
                    where=where,
                    hint=f"set `block: {max((b for b in (16, 32, 64, 128) if b <= site.width), default=16)}`",
                )

    def formats(self, model: HfModel) -> dict[Site, Format]:
        """Return how each site of a checkpoint will be stored."""
        return {site: overridden(site, self._format(site), self.overrides) for site in sites_of(model)}

    def _format(self, site: Site) -> Format:
        if site.is_head:
            return Format(bits=WIDTHS[self.head or "int8"], block=self.head_block, symmetric=self.symmetric)
        if site.is_table:
            return Format(bits=EMBEDDING_BITS, block=self.head_block, symmetric=self.symmetric)
        return Format(bits=self.bits, block=self.block, symmetric=self.symmetric)

    def promises(self) -> tuple[Promise, ...]:
        """Return: every weight is there as integers close to its source, and the prompt contract is kept."""
        return (WeightsQuantized(nearest=False), PromptContractKept())

    def compresses(self) -> bool:
        """Say that weights are rounded."""
        return True

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the largest weight takes while it is rounded, and what lies on disk after."""
        largest = max(profile.embedding, profile.hidden * max(profile.intermediate, profile.hidden))
        disk = self.profile_after(profile).bytes
        return Forecast(memory=LIBRARIES + 12 * largest, disk=disk, seconds=5 + profile.linear / 2e7)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes of the quantized checkpoint."""
        head = nbytes(
            profile.vocabulary, profile.hidden, bits=WIDTHS[self.head or "int8"], block=self.head_block,
            symmetric=self.symmetric,
        )  # fmt: skip
        body = nbytes(
            profile.linear // profile.hidden, profile.hidden, bits=self.bits, block=self.block,
            symmetric=self.symmetric,
        )  # fmt: skip
        tables = 1 if profile.tied else 2
        quantized = body + tables * head
        return dataclasses.replace(profile, bytes=quantized + 4 * profile.other, quantized=quantized)
