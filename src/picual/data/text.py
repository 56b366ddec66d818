"""A row as text, and a whole data set as one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.data.base import DataConfig, fill, template_columns
from picual.data.files import rows
from picual.errors import BadValue, nearest

BETWEEN_ROWS = "\n\n"


def text_of(config: DataConfig) -> str:
    """Return the text of all rows, one after the other: a text file as it is.

    Raises:
        BadValue: A row lacks a column, or a file is not readable.
    """
    between = BETWEEN_ROWS if config.joiner is None else config.joiner
    return between.join(row_text(row, config, number) for number, row in enumerate(rows(config), 1))


def row_text(row: Mapping[str, Any], config: DataConfig, number: int) -> str:
    """Return a row as text: by its template, its two templates, or its text column.

    Args:
        row: The row.
        config: Of its data set.
        number: Of the row, from 1, as an error names it.

    Raises:
        BadValue: The row lacks a column.
    """
    if template := config.template or (config.prompt or "") + (config.response or ""):
        return filled(template, row, number)
    return str(value_of(row, config.text or "text", number))


def filled(template: str, row: Mapping[str, Any], number: int) -> str:
    """Return a template with the values of a row.

    Raises:
        BadValue: The row lacks a column.
    """
    for column in template_columns(template):
        value_of(row, column, number)
    return fill(template, row)


def value_of(row: Mapping[str, Any], column: str, number: int) -> Any:
    """Return one value of a row.

    Raises:
        BadValue: The row lacks the column, or holds null there.
    """
    if column not in row:
        names = list(row)
        hint = nearest(column, names) or "its columns are " + ", ".join(f"`{name}`" for name in names[:12])
        raise BadValue(f"row {number} of the data has no column `{column}`", hint=hint)
    if row[column] is None:
        raise BadValue(
            f"row {number} of the data has null in column `{column}`",
            hint="give it a value, an empty text if need be, or leave the row out",
        )
    return row[column]
