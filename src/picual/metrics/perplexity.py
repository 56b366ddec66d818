"""How well a model predicts a text: exp of the mean negative log likelihood of the next token.

What it measures: windows that share no token, each scored on its own, every token but a window's first predicted.
When: compare models with the same tokenizer on the same text; lower is better.
Cost: one pass over ``windows * length`` tokens.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.text import negative_log_likelihood, read_text, windows
from picual.models import Model
from picual.models.session import open_session
from picual.space import param

LARGEST_EXPONENT = 700.0  # a broken model must not end in an overflow


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """Perplexity on a text."""

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    extra: ClassVar[str] = "hf"

    data: str | None = param(None, help="Data set whose rows are the text.", role="data")
    file: str | None = param(None, help="Text file, UTF-8.")
    windows: int = param(40, help="Windows scored, from the beginning of the text.")
    length: int = param(512, help="Length of a window.", unit="token")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "windows", "length")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``perplexity``, ``nll`` (nats a token) and ``tokens`` (predicted)."""
        text = read_text(self.data, self.file, context, by=self.name)
        total, tokens = 0.0, 0
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            parts = windows(session, text, count=self.windows, length=self.length, by=self.name)
            for number, ids in enumerate(parts):
                total += negative_log_likelihood(session.logits(ids), ids)
                tokens += len(ids) - 1
                context.on_progress(number + 1, len(parts), "windows")
        nll = total / tokens
        return {"perplexity": math.exp(min(nll, LARGEST_EXPONENT)), "nll": nll, "tokens": tokens}
