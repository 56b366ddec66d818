from __future__ import annotations

import pytest

from picual.data.base import DataConfig, fill, template_columns
from picual.errors import BadValue, from_wire


@pytest.mark.parametrize("name", ["Best Answer", "a:b", "x.y[0]!r", "0", " padded ", "größe"])
def test_whatever_stands_between_braces_is_the_name_of_a_column(name: str) -> None:
    template = f"Q: {{{name}}}!"
    assert template_columns(template) == [name]
    assert fill(template, {name: "yes"}) == "Q: yes!"


def test_doubled_braces_are_braces() -> None:
    template = '{{"tone": "{tone}"}} {{{tone}}}'
    assert template_columns(template) == ["tone", "tone"]
    assert fill(template, {"tone": "joy"}) == '{"tone": "joy"} {joy}'


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("a {tone", "no `}` closes the brace at character 3"),
        ("a } b", "no `{` opens the brace that ends at character 3"),
        ("a {} b", "no column name between the braces at character 3"),
        ("{a{b}}", "no `}` closes the brace at character 1"),
    ],
)
def test_a_brace_that_does_not_fit_is_named_with_its_place(template: str, what: str) -> None:
    with pytest.raises(BadValue, match="character") as caught:
        template_columns(template)
    assert what in caught.value.what
    assert isinstance(from_wire(caught.value.to_wire()), BadValue)


def test_a_data_set_names_its_columns_once_and_in_order() -> None:
    config = DataConfig(prompt="{b} {a}", response="{b}{c}", text="d")
    assert config.columns() == ("b", "a", "c", "d")
