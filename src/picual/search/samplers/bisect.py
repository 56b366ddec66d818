"""The first candidate that keeps the bounds, found by halving.

For one parameter whose values stand in order: what the objective likes best first, what keeps the bounds most
easily last. Each trial settles half of what is left, so seven values take three.
"""

from __future__ import annotations

from typing import ClassVar

from picual.search.parameters import Candidate
from picual.search.samplers.base import History


class Bisect:
    """Halving; the space must have one parameter with a list of values."""

    name: ClassVar[str] = "bisect"

    def ask(self, history: History) -> Candidate | None:
        """Return the middle one of those that are not settled yet; nothing while one is under way."""
        if history.pending:
            return None  # what it finds decides
        kept = {
            tuple(trial.candidate.items()): trial.feasible for trial in history.trials if trial.state != "failed"
        }
        failed = [dict(trial.candidate) for trial in history.trials if trial.state == "failed"]
        row = [
            one for one in history.space.candidates() or []
            if one not in failed and (tuple(one.items()) in kept or not history.outlook(one).hopeless)
        ]  # fmt: skip
        known = [kept.get(tuple(one.items())) for one in row]
        first = len(row) if True not in known else known.index(True)
        after = max((place + 1 for place, keeps in enumerate(known[:first]) if keeps is False), default=0)
        left = row[after:first]
        return left[len(left) // 2] if left else None
