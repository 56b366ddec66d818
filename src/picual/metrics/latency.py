"""How fast a model answers: time to the first token, tokens a second after it.

What it measures: a prompt of random tokens is read at once, then new tokens are written one by one, greedily and
past any end of text, so that every run does the same work. Median and 10th and 90th percentile over the runs.
When: compare models on one machine; numbers of two machines, or of a busy one, do not compare.
Cost: ``(warm_up + repeats)`` answers of ``new_tokens`` tokens.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from picual.errors import BadValue
from picual.metrics.base import Metric, MetricContext
from picual.models import GenaiModel, HfAdapter, HfModel, Model
from picual.models.session import open_session
from picual.space import param

FIRST_ORDINARY = 1000  # below lie special tokens and single bytes


@dataclass(frozen=True, kw_only=True)
class Latency(Metric):
    """Time to the first token and time a token."""

    name: ClassVar[str] = "latency"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "ms_per_token"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "ms"
    extra: ClassVar[str] = "hf"
    timed: ClassVar[bool] = True

    prompt_tokens: int = param(128, help="Length of the prompt.", unit="token")
    new_tokens: int = param(64, help="Tokens written in one run.", unit="token")
    warm_up: int = param(1, help="Runs before the measured ones.")
    repeats: int = param(5, help="Measured runs.")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return milliseconds a token, tokens a second, time to the first token, and under what conditions."""
        if self.prompt_tokens < 1 or self.new_tokens < 2 or self.repeats < 1:
            raise BadValue(
                "`latency` needs a prompt, at least 2 new tokens and 1 run",
                hint="leave out `prompt_tokens`, `new_tokens` and `repeats`",
            )
        ids = random_ids(_vocabulary(model), self.prompt_tokens, context.seed)
        runs: list[list[float]] = []
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            for number in range(self.warm_up + self.repeats):
                runs.append(session.step_times(ids, self.new_tokens))
                context.on_progress(number + 1, self.warm_up + self.repeats, "runs")
        return {
            **figures(runs[self.warm_up :], self.prompt_tokens),
            "threads": context.threads,
            "prompt": self.prompt_tokens,
            "new": self.new_tokens,
            "repeats": self.repeats,
        }


def figures(runs: Sequence[Sequence[float]], prompt_tokens: int) -> dict[str, float]:
    """Return the numbers of some runs, each given as the seconds of its steps, the prompt in the first."""
    first = [run[0] for run in runs]
    later = [sum(run[1:]) / (len(run) - 1) for run in runs]
    return {
        "ms_per_token": 1e3 * percentile(later, 50),
        "ms_per_token_p10": 1e3 * percentile(later, 10),
        "ms_per_token_p90": 1e3 * percentile(later, 90),
        "tokens_per_s": 1 / percentile(later, 50),
        "prefill_tokens_per_s": prompt_tokens / percentile(first, 50),
        "ttft_ms": 1e3 * percentile(first, 50),
        "ttft_ms_p10": 1e3 * percentile(first, 10),
        "ttft_ms_p90": 1e3 * percentile(first, 90),
    }


def random_ids(vocabulary: int, count: int, seed: int) -> list[int]:
    """Return ordinary token ids: past the special ones where the vocabulary is large enough."""
    first = FIRST_ORDINARY if vocabulary > 2 * FIRST_ORDINARY else 0
    return random.Random(seed).choices(range(first, vocabulary), k=count)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` percent lie, interpolated between neighbours."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * share / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def _vocabulary(model: Model) -> int:
    match model:
        case HfModel():
            return int(model.config().get("text_config", model.config())["vocab_size"])
        case HfAdapter():
            return _vocabulary(model.root())
        case GenaiModel():
            return int(model.config()["model"]["vocab_size"])
    return FIRST_ORDINARY  # opening it says why it does not generate
