"""Two runs side by side: their best models' numbers, and the settings in which their recipes differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import yaml

from picual.report.numbers import Measure, measures_in
from picual.report.reading import mapping
from picual.search.goals import Measurement
from picual.search.ranking import is_noise


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two reports side by side, the best model of one against that of the other.

    ``metrics`` has a row for each number that either has; ``recipe`` a row for each setting that differs, None
    where a recipe leaves it out. A report older than ``recipe_text`` has no settings to compare.
    """
    runs = [
        {key: report.get(key) for key in ("output", "recipe", "verdict", "created", "seconds")}
        for report in (first, second)
    ]
    best = [mapping(report.get("best")) for report in (first, second)]
    measures = {measure.name: measure for measure in (*measures_in(second, best[1:]), *measures_in(first, best))}
    order = [measure.name for measure in measures_in(first, best)]
    texts = [report.get("recipe_text") for report in (first, second)]
    return {
        "runs": runs,
        "metrics": [_row(measures[name], best[0], best[1]) for name in order],
        "recipe": _differences(*(_settings(text) for text in texts if text)) if all(texts) else None,
    }


def _row(measure: Measure, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    one, other = measure.of(first), measure.of(second)
    intervals = [measure.interval(first), measure.interval(second)]
    judged = measure.judgement(other, one)
    return {
        "metric": measure.metric,
        "key": measure.key,
        "label": measure.label,
        "unit": measure.unit,
        "values": [one, other],
        "texts": [measure.text(one), measure.text(other)],
        "intervals": intervals,
        "difference": None if one is None or other is None else other - one,
        "difference_text": measure.difference(other, one),
        "better": {"better": "second", "worse": "first", "": None}[judged],
        "within_noise": is_noise(Measurement(measure.metric, measure.key), first, second),
    }


def _settings(text: str) -> dict[str, Any]:
    """Return the settings of a native recipe by their dotted path."""
    try:
        return dict(_flat(yaml.safe_load(text), ""))
    except yaml.YAMLError:
        return {}


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return list(itertools.chain(*(_flat(item, f"{path}.{key}".lstrip(".")) for key, item in value.items())))
    return [(path, value)]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    paths = list(dict.fromkeys([*first, *second]))
    return [
        {"path": path, "values": [first.get(path), second.get(path)]}
        for path in paths
        if first.get(path) != second.get(path)
    ]
