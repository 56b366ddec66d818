from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picual.engine.verification import task
from picual.engine.verification.checks import CHECKERS, Check, checker_of, promise_kinds
from picual.errors import BrokenPromise
from picual.passes import base
from picual.passes.base import AdapterTrained, Promise
from picual.testing.tiny import tiny_model


def test_every_class_of_promise_has_its_check() -> None:
    kinds = {kind.__name__ for kind in Promise.__subclasses__() if kind.__module__ == base.__name__}
    assert set(promise_kinds()) == kinds


@pytest.mark.parametrize("name", CHECKERS)
def test_every_row_of_the_table_can_be_loaded(name: str) -> None:
    promise = object.__new__(getattr(base, name))
    assert callable(checker_of(promise))


def test_a_job_answers_in_json(adapter_on: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base")
    made = adapter_on(model, tmp_path / "a")
    promise = AdapterTrained(modules=("q_proj", "o_proj"))
    payload = {"promise": promise.to_wire(), "given": model.to_wire(), "made": made.to_wire()}

    found = task.run(
        json.loads(json.dumps(payload)), folder=tmp_path, seed=0, threads=1, on_event=lambda _name, _values: None
    )

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(set(check) == {"name", "passed", "measured", "bound", "detail"} for check in found["checks"])
    assert all(check["passed"] for check in found["checks"])


def test_a_promise_nobody_can_check_is_the_passes_fault(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "base").to_wire()
    payload = {"promise": {"promise": "AdapterTraind"}, "given": model, "made": model}
    with pytest.raises(BrokenPromise, match="AdapterTraind") as caught:
        task.run(payload, folder=tmp_path, seed=0, threads=1, on_event=lambda _name, _values: None)
    assert "AdapterTrained" in caught.value.hint


def test_infinite_figures_stay_json() -> None:
    wire = Check("x", passed=False, measured=float("inf"), bound=float("nan")).to_wire()
    assert (wire["measured"], wire["bound"]) == (None, None)
