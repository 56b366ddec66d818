"""How far a model's predictions are from a reference model's on the same text.

What it measures: the mean over all positions of KL(reference || model), in nats, and how often both rank the same
token first. It sees damage that perplexity averages away.
When: after quantization, against the model it came from. Both must have the same tokenizer.
Cost: both models in memory, one pass of each over ``windows * length`` tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from picual.errors import BadValue, Refused
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.text import read_text, windows
from picual.models import Model, model_from_wire
from picual.models.session import open_session
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class Divergence(Metric):
    """Kullback-Leibler divergence from a reference model."""

    name: ClassVar[str] = "divergence"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "kl"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "nat"
    extra: ClassVar[str] = "hf"

    reference: Mapping[str, Any] | None = param(None, help="Wire form of the model to compare with.")
    data: str | None = param(None, help="Data set whose rows are the text.", role="data")
    file: str | None = param(None, help="Text file, UTF-8.")
    windows: int = param(4, help="Windows compared, from the beginning of the text.")
    length: int = param(512, help="Length of a window.", unit="token")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "windows", "length")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``kl`` (nats), ``top1`` (share of positions with the same first token) and ``tokens``."""
        from picual.numerics import divergence

        if self.reference is None:
            raise BadValue("`divergence` needs `reference`", hint='reference: {"kind": "hf", "path": "FOLDER"}')
        text = read_text(self.data, self.file, context, by=self.name)
        compared = divergence.Divergence()
        with (
            contextlib.closing(
                open_session(model_from_wire(self.reference, Path()), threads=context.threads)
            ) as known,
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
                compared.add(expected, found)
                context.on_progress(number + 1, len(parts), "windows")
        return {"kl": compared.mean_kl, "top1": compared.top1, "tokens": compared.positions}
