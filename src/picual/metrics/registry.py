"""Which metrics there are: a table of strings. Listing imports none."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from picual.errors import UnknownName, nearest
from picual.metrics.base import Metric
from picual.space import frozen

BUILT_IN: dict[str, str] = {
    "accuracy": "picual.metrics.accuracy:Accuracy",
    "sklearn": "picual.metrics.sklearn:Sklearn",
    "lm-eval": "picual.metrics.lm_eval:LmEval",
    "code": "picual.metrics.code:Code",
    "perplexity": "picual.metrics.perplexity:Perplexity",
    "divergence": "picual.metrics.divergence:Divergence",
    "size": "picual.metrics.size:Size",
    "latency": "picual.metrics.latency:Latency",
    "batch-latency": "picual.metrics.batch_latency:BatchLatency",
    "memory": "picual.metrics.memory:Memory",
    "load": "picual.metrics.load:Load",
    "bag-of-words": "picual.metrics.bag_of_words:BagOfWords",
}


def names() -> list[str]:
    """Return every known metric name."""
    return list(BUILT_IN)


def load(name: str) -> type[Metric]:
    """Import and return one metric class.

    Raises:
        UnknownName: No metric has that name; the nearest are in the hint.
    """
    location = BUILT_IN.get(name)
    if location is None:
        raise UnknownName(f"unknown metric `{name}`", hint=nearest(name, names()))
    module, _, attribute = location.partition(":")
    loaded: type[Metric] = getattr(importlib.import_module(module), attribute)
    assert issubclass(loaded, Metric)
    return loaded


def build(name: str, values: Mapping[str, Any]) -> Metric:
    """Return a metric from its JSON form; lists become tuples, so that the value is hashable.

    Raises:
        UnknownName: No metric has that name, or it has no such field.
    """
    kind = load(name)
    known = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]  # each is a dataclass
    for key in values:
        if key not in known:
            raise UnknownName(f"metric `{name}` has no field `{key}`", hint=nearest(key, known))
    return kind(**{key: frozen(value) for key, value in values.items()})
