"""How far a model's predictions are from a reference model's on the same text.

What it measures: the mean over all positions of KL(reference || model), in nats, and how often both rank the same
token first. It sees damage that perplexity averages away.
When: after quantization, against the model it came from. Both must have the same tokenizer.
Cost: both models in memory, one pass of each over ``windows * length`` tokens.
The spread says where the mean over other windows of such text would lie: Student's t over the windows' means.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual.errors import BadValue, Refused
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.text import OWN_TEXT, read_text, spread_of_mean, windows
from picual.models import Model, model_from_wire
from picual.models.session import open_session
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class Divergence(Metric):
    """Kullback-Leibler divergence from a reference model."""

    name: ClassVar[str] = "divergence"
    version: ClassVar[int] = 2
    key: ClassVar[str] = "kl"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "nat"
    extra: ClassVar[str] = "hf"
    has_text: ClassVar[bool] = True
    has_reference_values: ClassVar[bool] = False
    keys: ClassVar[tuple[str, ...]] = ("kl", "top1", "tokens")

    reference: str | Mapping[str, Any] = param(
        "unquantized",
        help="Model to compare with: `unquantized`, `baseline` (the input model), or a folder.",
        role="model",
    )
    data: str | None = param(None, help="Data set whose rows are the text.", role="data")
    file: str | None = param(None, help="Text file, UTF-8; without `data` and `file`, a text of ours.")
    windows: int = param(4, help="Windows compared, from the beginning of the text.")
    length: int = param(512, help="Length of a window.", unit="token")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "windows", "length")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``kl`` (nats), ``top1`` (share of positions with the same first token) and ``tokens``."""
        from picual.numerics import divergence

        reference = self._reference()
        own = None if self.data or self.file else str(OWN_TEXT)
        text = read_text(self.data, self.file or own, context, by=self.name)
        compared, means = divergence.Divergence(), list[float]()
        with (
            contextlib.closing(open_session(reference, threads=context.threads)) as known,
            contextlib.closing(open_session(model, threads=context.threads)) as session,
        ):
            parts = windows(known, text, count=self.windows, length=self.length, by=self.name)
            for number, ids in enumerate(parts):
                expected, found = known.logits(ids), session.logits(ids)
                if expected.shape != found.shape:
                    raise Refused(
                        f"the model has {found.shape[1]} tokens and its reference {expected.shape[1]}",
                        where=str(model.path),
                        hint="compare a model with the one it was made from",
                    )
                means.append(_mean_of(expected, found))
                compared.add(expected, found)
                context.on_progress(number + 1, len(parts), "windows")
        values = {"kl": compared.mean_kl, "top1": compared.top1, "tokens": compared.positions}
        if len(means) < 2 or not math.isfinite(compared.mean_kl):
            return values
        low, high = spread_of_mean(means)
        return {**values, "spread": {"kl": [max(0.0, low), high]}}

    def probe(self) -> Divergence | None:
        """Return the same on a quarter of the windows, at least 2."""
        few = max(2, self.windows // 4)
        return dataclasses.replace(self, windows=few) if few < self.windows else None

    def _reference(self) -> Model:
        if isinstance(self.reference, str):
            raise BadValue(
                f"`divergence` has no model `{self.reference}` to compare with",
                hint='reference: {"kind": "hf", "path": "FOLDER"}',
            )
        return model_from_wire(self.reference, Path())


def _mean_of(expected: Any, found: Any) -> float:
    from picual.numerics import divergence

    window = divergence.Divergence()
    window.add(expected, found)
    return window.mean_kl
