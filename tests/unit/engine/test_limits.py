"""What is said of limits that nothing keeps."""

from __future__ import annotations

import pytest

from picual.engine.limits import explained
from picual.engine.results import Limit
from picual.search.trial import Trial


@pytest.mark.parametrize(("values", "said", "least"), [
    ({"size_mb": 100.0, "forecast": True}, "by forecast", 100.5),
    ({"size_mb": 100.0}, "is 100 MB, 10 MB beyond `<= 90MB`", 100.0),
])  # fmt: skip
def test_a_limit_that_would_fit_a_forecast_leaves_room_for_its_error(
    values: dict[str, float], said: str, least: float
) -> None:
    closest = Trial(candidate={"export.block": 64}, state="dropped", metrics={"size": values})
    limit = Limit(measurement="size.size_mb", text="<= 90MB", limit=90.0, value=100.0, gap=10.0, unit="MB")

    what, hint = explained(closest, [limit], [], "none tried")
    told = float(hint.split("<= ")[1].rstrip("`"))

    assert said in what
    assert least <= told <= least + 0.5
    assert hint.startswith("it would fit")


def test_what_was_not_measured_is_named() -> None:
    closest = Trial(candidate={}, state="complete")
    unknown = Limit(measurement="divergence.kl", text="<= 0.1", limit=0.1, value=None, gap=None)

    what, hint = explained(closest, [unknown], ["accuracy.accuracy"], "1 tried")

    assert what.endswith("no value for divergence.kl, accuracy.accuracy")
    assert hint == ""
