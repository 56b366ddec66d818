"""A recipe through every floor on a tiny model: verified, reported, and not done twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from picual import api, report
from picual.errors import BadValue

Write = Callable[..., dict[str, Any]]


def test_a_run_ends_verified_and_a_second_one_does_nothing(tiny_recipe: Write) -> None:
    written = tiny_recipe()

    first = api.run(written)
    second = api.run(written)

    assert first.report["verdict"] == "verified"
    assert all(
        step["checks"] and all(check["passed"] for check in step["checks"]) for step in first.report["steps"]
    )
    assert (first.model / "genai_config.json").is_file()
    assert first.report["best"]["size"]["size_mb"] > 0
    assert first.result.worked
    assert not second.result.worked


def test_the_report_is_as_its_schema_says_and_can_be_read_again(tiny_recipe: Write) -> None:
    outcome = api.run(tiny_recipe())

    jsonschema.validate(outcome.report, report.schema())
    assert api.report(outcome.output) == outcome.report
    with pytest.raises(BadValue, match="no report"):
        api.report(outcome.output / "run")


def test_a_model_is_measured_without_a_run(tiny_recipe: Write) -> None:
    written = tiny_recipe()

    values = api.evaluate(written["model"], {"size": {}})

    assert values["size"]["size_mb"] > 0


def test_a_fresh_run_does_steps_checks_and_measurements_again_to_the_same_bytes(tiny_recipe: Write) -> None:
    written = tiny_recipe()
    first = api.run(written)
    data = (first.model / "model.onnx.data").read_bytes()

    again = api.run(written, fresh=True)

    assert again.result.worked
    assert not any(step.cached for step in again.result.steps)
    assert [step.key for step in again.result.steps] == [step.key for step in first.result.steps]
    assert (again.model / "model.onnx.data").read_bytes() == data
