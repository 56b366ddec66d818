"""How well a model predicts a text: exp of the mean negative log likelihood of the next token.

What it measures: windows that share no token, each scored on its own, every token but a window's first predicted.
When: compare models with the same tokenizer on the same text; lower is better.
Cost: one pass over ``windows * length`` tokens.
The spread says where the value on other windows of such text would lie: Student's t over the windows' means. The
difference of two models on the same windows is far surer than that: it says nothing about which of two is better.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from picual.errors import StepFailed
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.text import negative_log_likelihood, read_text, spread_of_mean, windows
from picual.models import Model
from picual.models.session import open_session
from picual.space import param

LARGEST_EXPONENT = 700.0  # a broken model must not end in an overflow


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """Perplexity on a text."""

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 2
    key: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    extra: ClassVar[str] = "hf"
    keys: ClassVar[tuple[str, ...]] = ("perplexity", "nll", "tokens")

    data: str | None = param(None, help="Data set whose rows are the text.", role="data")
    file: str | None = param(None, help="Text file, UTF-8.")
    windows: int = param(40, help="Windows scored, from the beginning of the text.")
    length: int = param(512, help="Length of a window.", unit="token")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "windows", "length")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``perplexity``, ``nll`` (nats a token), ``tokens`` (predicted) and the ``spread`` over windows.

        Raises:
            StepFailed: The logits of a window are not finite; it says which.
        """
        text = read_text(self.data, self.file, context, by=self.name)
        losses: list[float] = []  # of the windows, nats a token
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            parts = windows(session, text, count=self.windows, length=self.length, by=self.name)
            for number, ids in enumerate(parts):
                losses.append(negative_log_likelihood(session.logits(ids), ids) / (len(ids) - 1))
                if not math.isfinite(losses[-1]):
                    raise StepFailed(
                        f"`{self.name}`: the model's logits on window {number + 1} of the text are not finite",
                        where=str(model.path),
                        hint="export it again",
                    )
                context.on_progress(number + 1, len(parts), "windows")
        nll = sum(losses) / len(losses)  # the windows are of one length
        values = {"perplexity": _exp(nll), "nll": nll, "tokens": len(losses) * (self.length - 1)}
        if len(losses) < 2:
            return values
        low, high = spread_of_mean(losses)
        return {**values, "spread": {"nll": [low, high], "perplexity": [_exp(low), _exp(high)]}}

    def probe(self) -> Perplexity | None:
        """Return the same on a quarter of the windows, at least 4."""
        few = max(4, self.windows // 4)
        return dataclasses.replace(self, windows=few) if few < self.windows else None


def _exp(nll: float) -> float:
    return math.exp(min(nll, LARGEST_EXPONENT))
