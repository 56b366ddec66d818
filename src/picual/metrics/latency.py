"""How fast a model answers: time to the first token, milliseconds a token after it.

What it measures: a prompt of random tokens is read at once, then new tokens are written one by one, greedily and
past any end of text, so that every run does the same work. Medians over the runs, with their 95 % bootstrap
intervals, and percentiles: of the first token over the runs, of the later ones over all tokens of all runs.
Given a model to compare with, both are loaded and answer in turn (one, other, other, one), so that what slows the
machine slows both, and ``speedup`` is of pairs.
When: compare models on one machine; numbers of two machines, or of a busy one, do not compare. ``busy`` says that
another process was at work meanwhile.
Cost: ``(warm_up + repeats)`` answers of ``new_tokens`` tokens, of each model.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from picual.errors import BadValue
from picual.metrics.base import Metric, MetricContext
from picual.metrics.conditions import Conditions
from picual.metrics.resampling import interval, median, percentile, ratio_of_medians
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model
from picual.models.session import open_session
from picual.space import param

FIRST_ORDINARY = 1000  # below lie special tokens and single bytes
PERCENTILES = (50, 90, 95, 99)

Run = Sequence[float]  # seconds until the first token, then of each further one


@dataclass(frozen=True, kw_only=True)
class Latency(Metric):
    """Time to the first token and time a token."""

    name: ClassVar[str] = "latency"
    version: ClassVar[int] = 2
    key: ClassVar[str] = "ms_per_token"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "ms"
    extra: ClassVar[str] = "hf"
    timed: ClassVar[bool] = True
    cost: ClassVar[int] = 4
    keys: ClassVar[tuple[str, ...]] = (
        "ms_per_token", "ttft_ms", "tokens_per_s", "prefill_tokens_per_s", "speedup", "ttft_speedup",
        *(f"{name}_p{share}" for name in ("ms_per_token", "ttft_ms") for share in (50, 90, 95, 99)),
        "threads", "load_average", "busy", "prompt", "new", "warm_up", "repeats",
    )  # fmt: skip

    prompt_tokens: int = param(128, help="Length of the prompt.", unit="token")
    new_tokens: int = param(64, help="Tokens written in one run.", unit="token")
    warm_up: int = param(1, help="Runs before the measured ones.")
    repeats: int = param(5, help="Measured runs.")

    def __post_init__(self) -> None:
        """Refuse counts that leave nothing to time."""
        if self.prompt_tokens < 1 or self.new_tokens < 2 or self.repeats < 1 or self.warm_up < 0:
            raise BadValue(
                "`latency` needs a prompt, at least 2 new tokens and 1 run",
                hint="leave out `prompt_tokens`, `new_tokens` and `repeats`",
            )

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return medians, percentiles and intervals, how they compare, and under what conditions."""
        models = [model]
        if context.against is not None and context.against != model:
            models.append(context.against)
        (runs, *others), held = self._runs(models, context)
        values = {
            **figures(runs, self.prompt_tokens, context.seed), **held,
            "prompt": self.prompt_tokens, "new": self.new_tokens, "warm_up": self.warm_up, "repeats": self.repeats,
        }  # fmt: skip
        return compared(values, runs, others[0], self.prompt_tokens, context.seed) if others else values

    def _runs(self, models: Sequence[Model], context: MetricContext) -> tuple[list[list[Run]], dict[str, Any]]:
        """Return the measured runs of each model, taken in turn, and under what conditions."""
        ids = random_ids(min(vocabulary_of(model) for model in models), self.prompt_tokens, context.seed)
        runs: list[list[Run]] = [[] for _ in models]
        rounds = self.warm_up + self.repeats
        with contextlib.ExitStack() as stack:
            sessions = [
                stack.enter_context(contextlib.closing(open_session(model, threads=context.threads)))
                for model in models
            ]
            for session in sessions:
                session.warm()
            conditions = Conditions(context.threads)
            for number in range(rounds):
                order = range(len(models)) if number % 2 == 0 else reversed(range(len(models)))
                for place in order:
                    runs[place].append(sessions[place].step_times(ids, self.new_tokens))
                context.on_progress(number + 1, rounds, "runs")
            return [one[self.warm_up :] for one in runs], conditions.values()


def figures(runs: Sequence[Run], prompt_tokens: int, seed: int = 0) -> dict[str, Any]:
    """Return the numbers of some runs; rates are of the medians."""
    first = [1e3 * run[0] for run in runs]
    later = [1e3 * sum(run[1:]) / (len(run) - 1) for run in runs]  # of each run: what a reader of it waits for
    single = [1e3 * step for run in runs for step in run[1:]]
    values: dict[str, Any] = {
        "ms_per_token": median(later), "ttft_ms": median(first), "tokens_per_s": 1e3 / median(later),
        "prefill_tokens_per_s": 1e3 * prompt_tokens / median(first),
    }  # fmt: skip
    values |= {f"ms_per_token_p{share}": percentile(single, share) for share in PERCENTILES}
    values |= {f"ttft_ms_p{share}": percentile(first, share) for share in PERCENTILES}
    slow, slow_first = interval(later, median, seed), interval(first, median, seed)
    values["intervals"] = {
        "ms_per_token": list(slow), "tokens_per_s": [1e3 / bound for bound in reversed(slow)],
        "ttft_ms": list(slow_first),
        "prefill_tokens_per_s": [1e3 * prompt_tokens / bound for bound in reversed(slow_first)],
    }  # fmt: skip
    return values


def compared(
    values: dict[str, Any], runs: Sequence[Run], others: Sequence[Run], prompt_tokens: int, seed: int
) -> dict[str, Any]:
    """Add the numbers of the model that was timed in turn, and how many times as fast this one is."""
    against = figures(others, prompt_tokens, seed)
    later = [(sum(run[1:]), sum(other[1:])) for run, other in zip(runs, others, strict=True)]
    first = [(run[0], other[0]) for run, other in zip(runs, others, strict=True)]
    sure = {
        "speedup": list(interval(later, ratio_of_medians, seed)),
        "ttft_speedup": list(interval(first, ratio_of_medians, seed)),
    }
    return {
        **values, "speedup": ratio_of_medians(later), "ttft_speedup": ratio_of_medians(first),
        "against": against, "intervals": {**values["intervals"], **sure},
    }  # fmt: skip


def random_ids(vocabulary: int, count: int, seed: int) -> list[int]:
    """Return ordinary token ids: past the special ones where the vocabulary is large enough."""
    first = FIRST_ORDINARY if vocabulary > 2 * FIRST_ORDINARY else 0
    return random.Random(seed).choices(range(first, vocabulary), k=count)


def vocabulary_of(model: Model) -> int:
    """Return the number of tokens that a model knows."""
    match model:
        case HfCheckpoint():
            return int(model.config().get("text_config", model.config())["vocab_size"])
        case HfAdapter():
            return vocabulary_of(model.root())
        case GenaiModel():
            return int(model.config()["model"]["vocab_size"])
    return FIRST_ORDINARY  # opening it says why it does not generate
