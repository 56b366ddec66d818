from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal

import pytest

from picual.recipe.fields import coerce
from picual.space import Choice, Settings, param

NO_ARGUMENTS = Settings()


@dataclass(frozen=True, kw_only=True)
class Example:
    name = "example"
    bits: Literal[4, 8] = param(4, help="Width.", search=Choice((4, 8)))
    block: int = param(32, help="Block.")
    rate: float = param(0.1, help="Rate.")
    symmetric: bool = param(False, help="Symmetric.")
    modules: tuple[str, ...] = param((), help="Modules.")
    either: tuple[str, ...] | Literal["all"] = param("all", help="Some or all.")
    layers: tuple[int, ...] | None = param(None, help="Layers.")
    head: Literal["int4", "int8"] = param("int8", help="Head.")
    training: Settings = param(NO_ARGUMENTS, help="Arguments.", role="training")  # noqa: RUF009  # it declares
    options: Mapping[str, Any] | None = param(None, help="Options.")
    limit: int | None = param(None, help="Limit.", unit="byte")


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("bits", 8, 8),
        ("rate", 1, 1.0),
        ("rate", 1e-4, 1e-4),
        ("modules", ["a", "b"], ("a", "b")),
        ("either", "all", "all"),
        ("either", ["a"], ("a",)),
        ("layers", None, None),
        ("layers", [1], (1,)),
        ("training", {"max_steps": 1, "deep": {"a": [1]}}, {"max_steps": 1, "deep": {"a": [1]}}),
        ("options", {"a": None}, {"a": None}),
        ("limit", "8GB", 8_000_000_000),
        ("limit", 5, 5),
    ],
)
def test_a_value_that_fits_comes_back_as_its_declared_type(field: str, given: Any, value: Any) -> None:
    values, problems = coerce(Example, {field: given})

    assert problems == []
    assert values == {field: value}
    assert type(values[field]) is type(value)


@pytest.mark.parametrize(
    ("field", "given", "sentence"),
    [
        ("bits", 5, "`bits` is 5; it must be 4 or 8"),
        ("bits", "five", '`bits` is "five"; it must be 4 or 8'),
        ("block", "5", '`block` is "5"; it must be a whole number'),
        ("block", True, "`block` is true; it must be a whole number"),
        ("block", 1.5, "`block` is 1.5; it must be a whole number"),
        ("block", None, "`block` is null; it must be a whole number"),
        ("rate", "fast", '`rate` is "fast"; it must be a number'),
        ("rate", False, "`rate` is false; it must be a number"),
        ("symmetric", 1, "`symmetric` is 1; it must be true or false"),
        ("symmetric", "yes", '`symmetric` is "yes"; it must be true or false'),
        ("modules", "q_proj", '`modules` is "q_proj"; it must be a list of texts'),
        ("modules", ["a", 1], '`modules` is ["a", 1]; it must be a list of texts'),
        ("either", "none", '`either` is "none"; it must be a list of texts or `all`'),
        ("layers", ["a"], '`layers` is ["a"]; it must be a list of whole numbers'),
        ("training", [1], "`training` is [1]; it must be a mapping"),
        ("limit", "8 gigs", '`limit` is "8 gigs"; it must be a size, such as `8GB`'),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_it_must_be(field: str, given: Any, sentence: str) -> None:
    values, problems = coerce(Example, {field: given})

    assert values == {}
    assert [(problem.field, problem.what) for problem in problems] == [(field, sentence)]


def test_an_unknown_field_names_the_nearest_or_where_they_are_listed() -> None:
    _, problems = coerce(Example, {"blok": 32, "zzzzzz": 1})

    assert [problem.what for problem in problems] == ["unknown parameter `blok`", "unknown parameter `zzzzzz`"]
    assert problems[0].hint == "did you mean `block`?"


def test_a_near_choice_is_named() -> None:
    (problem,) = coerce(Example, {"either": "al"})[1]

    assert problem.hint == "did you mean `all`?"


def test_a_field_without_a_default_is_asked_for() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Asking:
        file: str = param(MISSING, help="What to read.")  # type: ignore[assignment]  # how a field has no default

    assert coerce(Asking, {"file": "a"})[1] == []
    (problem,) = coerce(Asking, {})[1]
    assert (problem.field, problem.what) == ("file", "`file` is missing")
    assert "What to read." in problem.hint


def test_a_search_domain_where_nothing_is_searched_is_named() -> None:
    values, (problem,) = coerce(Example, {"block": {"search": [32, 64]}})

    assert values == {}
    assert "`block` cannot be searched" in problem.what
