"""How much memory a model takes to load and to answer once, in 10^6 bytes.

What it measures: a fresh process loads the model, reads a prompt of random tokens and writes some. ``peak_mb`` is
the most that was resident at once, by the system's own count; ``anonymous_mb`` the part that cannot be dropped,
looked at every 10 ms; ``library_mb`` what the runtime's libraries hold before any model is loaded.
When: the target has little memory. A mapped weight file is resident, and not anonymous.
Cost: one load and one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.loading import load_apart
from picual.models import Model
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class Memory(Metric):
    """Peak memory of loading and answering."""

    name: ClassVar[str] = "memory"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "peak_mb"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "MB"
    extra: ClassVar[str] = "hf"
    cost: ClassVar[int] = 1
    keys: ClassVar[tuple[str, ...]] = ("peak_mb", "anonymous_mb", "library_mb")

    prompt_tokens: int = param(128, help="Length of the prompt.", unit="token")
    new_tokens: int = param(32, help="Tokens written.", unit="token")

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        require_counts(self, "prompt_tokens", "new_tokens")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``peak_mb``, ``anonymous_mb`` and ``library_mb``."""
        found = load_apart(
            model, threads=context.threads, prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens,
            seed=context.seed, by=self.name,
        )  # fmt: skip
        return {
            "peak_mb": found["peak"] / 1e6,
            "anonymous_mb": found["anonymous"] / 1e6,
            "library_mb": found["library"] / 1e6,
            "threads": context.threads,
        }
