"""Every candidate in turn, the parameters of late steps changing fastest, so that early steps are shared."""

from __future__ import annotations

from typing import ClassVar

from picual.search.parameters import Candidate
from picual.search.samplers.base import History


class Grid:
    """Exhaustive search; the space must be finite."""

    name: ClassVar[str] = "grid"

    def ask(self, history: History) -> Candidate | None:
        """Return the first candidate that was not tried and has hope."""
        left = (one for one in history.space.candidates() or [] if history.is_new(one))
        return next((one for one in left if not history.outlook(one).hopeless), None)
