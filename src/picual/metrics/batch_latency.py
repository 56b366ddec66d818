"""How long one forward pass over a batch takes, and how many items a second that is.

What it measures: the network once over ``batch_size`` rows of ``length`` tokens, nothing generated: Olive's
meaning of latency and throughput. A plain ONNX file gets random inputs of the shapes it asks for. Throughput is
the batch over the time of the same name, except that ``throughput_max`` belongs to ``min`` and the reverse.
When: models that do not generate, or to compare with figures taken so. What a chat waits for is ``latency``.
Cost: ``warm_up + repeats`` passes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from picual.data.text import text_of
from picual.errors import BadValue
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.conditions import Conditions
from picual.metrics.latency import random_ids, vocabulary_of
from picual.metrics.resampling import interval, median, percentile
from picual.metrics.text import windows
from picual.models import Model, OnnxModel
from picual.models.session import Session, open_session
from picual.space import param

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PERCENTILES = {"p50": 50.0, "p75": 75.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
OF_TIMES = ("avg", "max", "min", *PERCENTILES)


@dataclass(frozen=True, kw_only=True)
class BatchLatency(Metric):
    """Time of one forward pass over a batch."""

    name: ClassVar[str] = "batch-latency"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "avg"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "ms"
    extra: ClassVar[str] = "hf"
    timed: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    cost: ClassVar[int] = 4
    keys: ClassVar[tuple[str, ...]] = (*OF_TIMES, *(f"throughput_{name}" for name in OF_TIMES))

    data: str | None = param(None, help="Data set whose rows are the text; left out: random tokens.", role="data")
    batch_size: int = param(1, help="Rows in the batch.")
    length: int = param(128, help="Length of a row.", unit="token")
    warm_up: int = param(10, help="Passes before the measured ones.")
    repeats: int = param(20, help="Measured passes.")
    sleep: float = param(0.0, help="Pause before each pass.", unit="s")

    @classmethod
    def unit_of(cls, key: str) -> str:
        """Return the unit of a number: rows a second of a throughput, else milliseconds."""
        return "rows/s" if key.startswith("throughput") else cls.unit

    def __post_init__(self) -> None:
        """Refuse counts below 1 and times below 0."""
        require_counts(self, "batch_size", "length", "repeats")
        if self.warm_up < 0 or self.sleep < 0:
            raise BadValue("`warm_up` and `sleep` must be at least 0", hint="leave out `warm_up` and `sleep`")

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return times in milliseconds, items a second, and under what conditions."""
        times: list[float] = []
        rounds = self.warm_up + self.repeats
        with self._loaded(model, context) as run:
            conditions = Conditions(context.threads)
            for number in range(rounds):
                time.sleep(self.sleep)
                started = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - started))
                context.on_progress(number + 1, rounds, "passes")
            held = conditions.values()
        kept = times[self.warm_up :]
        return {
            **figures(kept, self.batch_size),
            "intervals": {
                "avg": list(interval(kept, _mean, context.seed)),
                "p50": list(interval(kept, median, context.seed)),
            },
            **held,
            "batch_size": self.batch_size,
            "repeats": self.repeats,
        }

    @contextlib.contextmanager
    def _loaded(self, model: Model, context: MetricContext) -> Iterator[Callable[[], None]]:
        """Give what runs the batch once."""
        if isinstance(model, OnnxModel):
            from picual.models.onnx_batch import OnnxBatch

            batch = OnnxBatch(
                model, batch_size=self.batch_size, length=self.length, seed=context.seed, threads=context.threads
            )
            with contextlib.closing(batch):
                yield batch.run
            return
        with contextlib.closing(open_session(model, threads=context.threads)) as session:
            ids = self._ids(model, session, context)
            yield lambda: session.forward(ids)

    def _ids(self, model: Model, session: Session, context: MetricContext) -> npt.NDArray[np.int64]:
        import numpy as np

        if self.data is None:
            drawn = random_ids(vocabulary_of(model), self.batch_size * self.length, context.seed)
            return np.asarray(drawn, dtype=np.int64).reshape(self.batch_size, self.length)
        text = text_of(context.dataset(self.data, by=self.name))
        rows = windows(session, text, count=self.batch_size, length=self.length, by=self.name)
        return np.stack(
            [rows[number % len(rows)] for number in range(self.batch_size)]
        )  # a short text is repeated


def figures(times: Sequence[float], batch_size: int) -> dict[str, float]:
    """Return the numbers of some passes (ms)."""
    found = {"avg": _mean(times), "max": max(times), "min": min(times)}
    found |= {name: percentile(times, share) for name, share in PERCENTILES.items()}
    turned = {"max": "min", "min": "max"}  # the most items a second are of the shortest time
    rates = {f"throughput_{name}": 1e3 * batch_size / found[turned.get(name, name)] for name in found}
    return {**found, **rates}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
