from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue, Refused, StepFailed
from picual.metrics import registry
from picual.metrics.base import MetricContext
from picual.metrics.code import Code
from picual.models import GenaiModel, HfModel, OnnxModel

Written = Callable[[list[dict[str, Any]]], str]

PROGRAM = """
from dataclasses import dataclass
from beside_this import FACTOR
from picual.errors import Refused

@dataclass
class Counted:
    tokens: int

def measure(model, rows, options):
    return Counted(len(model.encode("four"))).tokens * FACTOR

def several(model, rows, options):
    return {"note": "text", "rows": len(rows or []), "sum": sum(row["n"] for row in rows or []), **options}

def wrong(model, rows, options):
    return "seven"

def raises(model, rows, options):
    return 1 / options["by"]

def refuses(model, rows, options):
    raise Refused("not this model")

def named(model, rows, options):
    return float(model.name == "model.onnx")
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "beside_this.py").write_text("FACTOR = 10\n")
    (tmp_path / "mine.py").write_text(PROGRAM)
    return str(tmp_path / "mine.py")


def test_a_function_gets_the_model_and_returns_a_number(taught: HfModel, program: str) -> None:
    metric = Code(code=program)

    assert metric.measure(taught, MetricContext(trust=True)) == {"value": 40}
    Path(program).with_name("beside_this.py").write_text("FACTOR = 3  # one token a byte\n")
    assert metric.measure(taught, MetricContext(trust=True)) == {"value": 12}
    assert not [name for name in sys.modules if name == "beside_this"]
    assert str(Path(program).parent) not in sys.path


def test_it_gets_the_rows_and_the_options_and_may_return_several_numbers(
    taught: HfModel, program: str, written: Written
) -> None:
    context = MetricContext(trust=True, data={"d": DataConfig(files=(written([{"n": 1}, {"n": 4}]),), text="n")})
    metric = registry.build("code", {"code": program, "function": "several", "data": "d", "options": {"x": 0.5}})

    values = metric.measure(taught, context)
    other = Code(code=program, function="several", data="d", number="sum").measure(taught, context)

    assert values == {"note": "text", "rows": 2, "sum": 5, "x": 0.5, "value": 2}
    assert other["value"] == 5


def test_a_plain_onnx_file_is_given_as_its_path(taught_genai: GenaiModel, program: str) -> None:
    metric = Code(code=program, function="named")

    assert metric.measure(OnnxModel(taught_genai.decoder()), MetricContext(trust=True)) == {"value": 1.0}


@pytest.mark.parametrize(
    ("fields", "error", "message", "where"),
    [
        ({"function": "mesure"}, BadValue, "no function `mesure`", ""),
        ({"function": "wrong"}, StepFailed, "returned str", "mine.py"),
        ({"function": "raises", "options": {"by": 0}}, StepFailed, "ZeroDivisionError: division", "mine.py:20"),
        ({"function": "raises"}, StepFailed, "KeyError", "mine.py:20"),
        ({"function": "refuses"}, Refused, "not this model", ""),
        ({"function": "several", "number": "rowz"}, BadValue, "no number `rowz`", ""),
    ],
)
def test_what_goes_wrong_in_it_is_said_with_its_line(
    taught: HfModel, program: str, fields: dict[str, Any], error: type[Exception], message: str, where: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        registry.build("code", {"code": program, **fields}).measure(taught, MetricContext(trust=True))
    assert where in str(getattr(caught.value, "where", ""))


def test_a_file_that_is_no_python_is_said_with_its_line(taught: HfModel, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ndef measure(:\n")

    with pytest.raises(StepFailed, match="SyntaxError") as caught:
        Code(code=str(tmp_path / "bad.py")).measure(taught, MetricContext(trust=True))
    assert caught.value.where.endswith("bad.py:2")


def test_it_runs_only_when_it_is_trusted(taught: HfModel, program: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    Path(program).write_text(f"open({str(marker)!r}, 'w')\ndef measure(model, rows, options): return 1\n")

    with pytest.raises(BadValue, match="only when it is trusted") as caught:
        Code(code=program).measure(taught, MetricContext())

    assert caught.value.hint == "add `--trust`"
    assert not marker.exists()
    assert Code(code=program).user_code() == program


def test_the_recipe_is_refused_without_trust_and_with_a_file_that_is_not_there(
    program: str, tmp_path: Path, taught: HfModel
) -> None:
    from picual.recipe import check, load

    def problems(trust: bool, file: str) -> list[str]:
        mapping = {"version": 1, "model": str(taught.path), "metrics": {"mine": {"type": "code", "code": file}}}
        recipe = load.load(mapping, overrides=load.Overrides(trust=trust))
        return [f"{one.what} ({one.hint})" for one in check.check(recipe)]

    assert problems(True, program) == []
    (said,) = problems(False, program)
    assert "runs only when it is trusted (add `--trust`)" in said
    (said,) = problems(True, str(tmp_path / "mien.py"))
    assert "there is no file" in said
    assert "mine.py" in said
