"""Files to rows: one row is one mapping from column to value.

JSON (a list of objects, or an object that holds one such list), JSON lines, CSV, TSV and plain text, which is
one row with the column ``text``. What a JSON file holds decides, not how it is called: many ``.json`` files are
JSON lines.
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picual.errors import BadValue

LINES = {".jsonl", ".ndjson"}
TABLES = {".csv": ",", ".tsv": "\t"}
TEXTS = {".txt", ".md"}
NO_ROWS = "the data file `{}` has no rows"


def file_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file.

    Args:
        path: The file.
        columns: Names that a row is known to have: an object that has one is itself a row.

    Raises:
        BadValue: The file is missing, empty, not UTF-8, or holds no rows.
    """
    if not path.is_file():
        what = f"`{path.name}` is a folder, not a data file" if path.is_dir() else f"there is no file `{path}`"
        raise BadValue(what, where=str(path), hint="`files:` takes a file, or a list of files")
    if path.stat().st_size == 0:
        raise BadValue(f"the data file `{path.name}` is empty", where=str(path), hint="give a file with rows")
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        yield {"text": _whole(path)}
    elif suffix in TABLES:
        yield from _table(path, TABLES[suffix])
    elif suffix in LINES or _is_json_lines(path):
        yield from _json_lines(path)
    else:
        yield from _json_document(path, columns)


def _whole(path: Path) -> str:
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, line ends as they are."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadValue(
                    f"`{path.name}` is not UTF-8: byte 0x{raw[error.start]:02x} at line {number}",
                    where=f"{path}:{number}:{error.start + 1}",
                    hint=f"iconv -f LATIN1 -t UTF-8 {shlex.quote(str(path))} > utf8{path.suffix}",
                ) from error


def _is_json_lines(path: Path) -> bool:
    """Say whether the first line with anything on it is a whole object, and another follows."""
    filled = (line for line in _lines(path) if line.strip())
    first = next(filled, "")
    if not first.lstrip().startswith("{"):
        return False
    try:
        json.loads(first)
    except ValueError:
        return False
    return next(filled, None) is not None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    found = False
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.rstrip("\r\n"))  # or an error would lie on the next line
        except ValueError as error:
            column = error.colno if isinstance(error, json.JSONDecodeError) else 1
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise _not_json(path, number, column, reason) from error
        if not isinstance(value, dict):
            raise BadValue(
                f"line {number} of `{path.name}` is no JSON object",
                where=f"{path}:{number}:1",
                hint='each line is one row: {"column": "value"}',
            )
        found = True
        yield value
    if not found:
        raise BadValue(NO_ROWS.format(path.name), where=str(path), hint="give a file with rows")


def _json_document(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    text = _whole(path)
    if not text.strip():
        raise BadValue(NO_ROWS.format(path.name), where=str(path), hint="give a file with rows")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error.colno, error.msg) from error
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        raise _not_json(path, 1, 1, str(error)) from error
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if _is_list_of_objects(item)]
        is_a_row = any(column in value for column in columns)
        value = value[lists[0]] if len(lists) == 1 and not is_a_row else [value]
    if not isinstance(value, list):
        raise BadValue(
            f"`{path.name}` holds no list of objects", where=str(path), hint='[{"column": "value"}, ...]'
        )
    if not value:
        raise BadValue(NO_ROWS.format(path.name), where=str(path), hint="give a file with rows")
    for number, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise BadValue(
                f"row {number} of `{path.name}` is no JSON object",
                where=str(path),
                hint='each row is one object: {"column": "value"}',
            )
        yield row


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _not_json(path: Path, line: int, column: int, reason: str) -> BadValue:
    return BadValue(
        f"line {line} of `{path.name}` is not JSON: {reason} at column {column}",
        where=f"{path}:{line}:{column}",
        hint="mend that line; JSON lines hold one whole object a line",
    )


def _table(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    found = False
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = _header(cells, path)
                continue
            if len(cells) != len(header):
                raise BadValue(
                    f"line {reader.line_num} of `{path.name}` has {len(cells)} cells, its header {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    hint='a cell that holds a comma or a line break stands in "quotes"',
                )
            found = True
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadValue(
            f"line {reader.line_num} of `{path.name}` is no row of a table: {error}",
            where=f"{path}:{reader.line_num}",
            hint='a quote inside a cell is written twice: ""',
        ) from error
    if not found:
        raise BadValue(NO_ROWS.format(path.name), where=str(path), hint="the first line names the columns")


def _header(cells: list[str], path: Path) -> list[str]:
    repeated = sorted({cell for cell in cells if cells.count(cell) > 1})
    if repeated:
        raise BadValue(
            f"`{path.name}` has the column `{repeated[0]}` twice", where=f"{path}:1", hint="rename one of them"
        )
    return cells
