"""What a search did, as the values of ``report.json``."""

from __future__ import annotations

from typing import Any

from picual.engine.results import RunResult, SearchResult
from picual.search.trial import Trial


def search(result: RunResult) -> dict[str, Any] | None:
    """Return how the search went; None without one."""
    found, goals = result.search, result.plan.search
    if found is None or goals is None:
        return None
    states = [trial.state for trial in found.trials]
    return {
        "sampler": found.sampler,
        "seed": found.seed,
        "objectives": [
            {"metric": one.measurement.metric, "key": one.measurement.key, "direction": one.direction}
            for one in goals.objectives
        ],
        "space": result.plan.space.to_wire(),
        "candidates": found.size,
        "asked": len(found.trials),
        "dropped": states.count("dropped") + len(found.ruled_out),
        "failed": states.count("failed"),
        "best": found.best,
        "closest": found.closest,
        "tied": found.tied,
        "stopped": found.stopped,
    }


def trials(result: RunResult) -> list[dict[str, Any]]:
    """Return every trial, best first, then what was ruled out without one."""
    found = result.search
    if found is None:
        return []
    listed = [_trial(trial, found, rank) for rank, trial in enumerate(found.trials, 1)]
    return listed + [_trial(trial, found, None) for trial in found.ruled_out]


def constraints(result: RunResult) -> list[dict[str, Any]]:
    """Return every limit as it was for the best candidate, or for the closest when none keeps them all."""
    return [
        {
            "metric": limit.measurement.partition(".")[0],
            "key": limit.measurement.partition(".")[2],
            "bound": limit.text,
            "limit": limit.limit,
            "value": limit.value,
            "met": limit.met,
            "gap": None if limit.met else limit.gap,
        }
        for limit in result.limits
    ]


def _trial(trial: Trial, found: SearchResult, rank: int | None) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "feasible": trial.feasible,
        "rank": rank,
        "pareto": trial.number in found.front,
        "tied": trial.number in found.tied,
        "candidate": dict(trial.candidate),
        "metrics": {name: dict(values) for name, values in trial.metrics.items()},
        "violations": dict(trial.violations),
        "why": trial.why,
        "seconds": trial.seconds,
        "keys": list(trial.keys),
        "ran": trial.ran,
    }
