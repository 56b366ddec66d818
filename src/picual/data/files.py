"""A data set's rows, from its files or from the hub; and whether they have the columns it names.

Nothing is imported for files, so that a recipe is checked without any library.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from picual import _lazy
from picual.data.base import BadTemplate, DataConfig, template_columns
from picual.data.formats import file_rows
from picual.errors import BadValue, EnvironmentFault, nearest

Row = Mapping[str, Any]

CHECKED_BYTES = 16 << 20  # of a data set: more of it is looked at only by the step that reads it
CHECKED_ROWS = 200
CHARACTERS_A_TOKEN = 4.0  # of English in most vocabularies

SMALL = 64 << 20  # bytes


class ColumnProblem(NamedTuple):
    """One thing wrong with a data set: the field of ``DataConfig`` it concerns, a sentence, a hint."""

    field: str
    what: str
    hint: str = ""


def rows(config: DataConfig) -> list[Row]:
    """Return all rows of a data set, at most ``max_samples``.

    Raises:
        BadValue: A file is missing, empty, not UTF-8, or holds no rows; with its line and column.
        MissingDependency: A hub data set, and ``datasets`` is not installed.
        EnvironmentFault: A hub data set that cannot be reached.
    """
    return list(itertools.islice(_all_rows(config), config.max_samples))


def first_rows(config: DataConfig, n: int) -> list[Row]:
    """Return the first rows of a data set of files; of what would have to be fetched, none."""
    if not config.files or config.remote():
        return []
    most = n if config.max_samples is None else min(n, config.max_samples)
    return list(itertools.islice(_all_rows(config), most))


class RowCount(int):
    """A number of rows that also knows, roughly, how much there is to read in them.

    Attributes:
        tokens: Of all rows, from their characters.
        longest: Tokens of the longest sequence made of them.
    """

    tokens: int = 0
    longest: int = 0


def are_small(config: DataConfig) -> bool:
    """Say whether the files of a data set are here and few enough bytes to be read while a plan is made."""
    return (
        bool(config.files) and not config.remote() and sum(path.stat().st_size for path in config.paths()) <= SMALL
    )


def count_rows(config: DataConfig) -> RowCount:
    """Return the number of rows of the files, without keeping them; 0 for a hub data set."""
    if not config.files:
        return RowCount(0)
    wanted = _wanted(config)
    fixed = sum(len(text or "") for text in (config.template, config.prompt, config.response))
    number, characters, longest = 0, 0, 0
    for row in itertools.islice(_all_rows(config), config.max_samples):
        length = fixed + sum(len(str(row.get(column, ""))) for column in wanted)
        number, characters, longest = number + 1, characters + length, max(longest, length)
    count = RowCount(number)
    count.tokens = round(characters / CHARACTERS_A_TOKEN)
    whole = count.tokens if config.strategy.startswith("join") else round(longest / CHARACTERS_A_TOKEN)
    count.longest = config.max_length if config.pad else min(max(whole, 1), config.max_length)
    return count


def check_columns(config: DataConfig) -> list[ColumnProblem]:
    """Return what is wrong with a data set of files: unreadable ones, and columns that rows lack.

    Looks at every row of small files and at the first of large ones. Nothing is fetched.
    """
    try:
        wanted = _wanted(config)
        size = sum(path.stat().st_size for path in config.paths() if path.is_file())
        found = first_rows(config, CHECKED_ROWS if size > CHECKED_BYTES else 1 << 62)
    except BadTemplate as error:
        return [ColumnProblem("template", error.what)]
    except BadValue as error:
        at = f" ({error.where})" if error.where else ""
        return [ColumnProblem("files", f"{error.what}{at}", error.hint)]
    problems = []
    for column, field in wanted.items():
        lacking = [number for number, row in enumerate(found, 1) if column not in row]
        if lacking:
            problems.append(_lacks(column, field, lacking, found))
    return problems


def _wanted(config: DataConfig) -> dict[str, str]:
    """Return every column that the data set names, with the field that names it."""
    named: dict[str, str] = {}
    for field in ("template", "prompt", "response"):
        template = getattr(config, field)
        for column in template_columns(template) if template is not None else ():
            named.setdefault(column, field)
    for field in ("text", "chat"):
        if column := getattr(config, field):
            named.setdefault(column, field)
    if not named:
        named["text"] = "template"  # what is read when nothing says which
    return named


def _lacks(column: str, field: str, lacking: list[int], found: list[Row]) -> ColumnProblem:
    columns = list(found[lacking[0] - 1])
    hint = nearest(column, columns) or "the columns are " + ", ".join(f"`{name}`" for name in columns[:12])
    if len(lacking) == len(found):
        return ColumnProblem(field, f"the data has no column `{column}`", hint)
    return ColumnProblem(field, f"row {lacking[0]} of the data has no column `{column}`", hint)


def _all_rows(config: DataConfig) -> Iterator[Row]:
    if config.name is not None:
        yield from _hub_rows(config)
        return
    if not config.files:
        raise BadValue("the data set says neither `files` nor `name`", hint="files: rows.jsonl")
    for file in config.files:
        if file in config.remote():
            raise BadValue(
                f"`{file}` is not a file on this machine", hint="fetch it and give its path under `files:`"
            )
        yield from file_rows(Path(file), config.columns())


def _hub_rows(config: DataConfig) -> Iterator[Row]:
    """Yield the rows of a hub data set; ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are the library's own."""
    datasets = _lazy.need("datasets", extra="finetune", by=f"data set {config.name}")
    missing = datasets.exceptions.DatasetNotFoundError
    try:
        found = datasets.load_dataset(config.name, config.subset, split=config.split)
    except missing as error:
        raise BadValue(
            f"there is no data set `{config.name}` on the hub, or it needs a token",
            hint="look it up at https://huggingface.co/datasets; a gated one takes `export HF_TOKEN=...`",
        ) from error
    except ValueError as error:  # an unknown split or configuration: the library lists those that are there
        raise BadValue(
            f"data set `{config.name}`: {_first_line(error)}", hint="set `split` and `subset`"
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            f"the data set `{config.name}` cannot be fetched: {_first_line(error)}",
            hint="check the network, or give `files:` of your own",
        ) from error
    yield from (dict(row) for row in found)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
