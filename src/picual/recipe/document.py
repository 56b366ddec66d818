"""A recipe file as plain values that know where they stand, whatever its format. Reading it executes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from picual.errors import BadValue, Problem
from picual.recipe import json_text, yaml_text
from picual.recipe.located import Located
from picual.recipe.schema import Place

_ENCODINGS = (
    (b"\xff\xfe", "UTF-16 (little endian)"),
    (b"\xfe\xff", "UTF-16 (big endian)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK", "a zip file"),
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One parsed file.

    Attributes:
        file: As the user named it; empty for a mapping made in Python.
        value: Plain dict, list, str, int, float, bool and None; a mapping keeps its order.
        tree: The same with lines; None when it comes from no file.
        problems: Mistakes that did not stop the reading: keys that stand twice.
        known: Places that were set from elsewhere (the command line, another dialect), by path.
    """

    file: str
    value: Any
    tree: Located | None = None
    problems: tuple[Problem, ...] = ()
    known: Mapping[tuple[str | int, ...], Place] = field(default_factory=dict)

    def place(self, path: Sequence[str | int] = ()) -> Place:
        """Return where the value at ``path`` stands, or the nearest part of the path that is there."""
        for length in range(len(path), 0, -1):
            if (known := self.known.get(tuple(path[:length]))) is not None:
                return known
        if self.tree is None:
            return Place(file=self.file)
        return Place(file=self.file, line=self.tree.line_of(path))


def read_document(path: Path) -> Document:
    """Read a YAML or JSON file whose top level is a mapping.

    ``.yaml`` and ``.yml`` are YAML, ``.json`` is JSON; any other file is JSON when it starts with a bracket.

    Raises:
        BadValue: It is missing, a folder, empty, not UTF-8, not readable as its format, or no mapping; with the
            line and column where there is one.
    """
    file = str(path)
    text = _text_of(path)
    if not text.strip():
        raise BadValue(f"{file} is empty", where=file, hint="`picual schema` shows what a recipe can hold")
    parsed = yaml_text.parse(text, file) if _is_yaml(path, text) else json_text.parse(text, file)
    if parsed.top.value is None:
        raise BadValue(f"{file} holds nothing but comments", where=file)
    document = Document(file=file, value=parsed.top.value, tree=parsed.top, problems=tuple(parsed.problems))
    _require_mapping(document)
    return document


def document_of(value: Mapping[str, Any], *, file: str = "") -> Document:
    """Return a document for a mapping that was made in Python."""
    return Document(file=file, value=_plain(value))


def _require_mapping(document: Document) -> None:
    value = document.value
    if not isinstance(value, dict):
        found = "a list" if isinstance(value, list) else f"one value, `{str(value)[:40]}`"
        raise BadValue(
            f"{document.file} holds {found}; a recipe is a mapping of names to values",
            where=str(document.place()),
            hint="it starts with `version: 1`, or is an Olive config with `input_model`",
        )


def _text_of(path: Path) -> str:
    file = str(path)
    if path.is_dir():
        raise BadValue(f"{file} is a folder, not a recipe file", where=file, hint=_recipes_in(path))
    if not path.exists():
        raise BadValue(f"there is no file {file}", where=file, hint=_files_like(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadValue(f"{file} cannot be read: {error.strerror}", where=file) from error
    for start, name in _ENCODINGS:
        if data.startswith(start):
            raise BadValue(f"{file} is {name}, not UTF-8 text", where=f"{file}, byte 0", hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadValue(
            f"{file} is not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02x}",
            where=f"{file}:{line}",
            hint=f"save it as UTF-8, for instance `iconv -f latin1 -t utf-8 {file} > utf8-{path.name}`",
        ) from error


def _is_yaml(path: Path, text: str) -> bool:
    suffix = path.suffix.lower()
    if suffix in {".yaml", ".yml"}:
        return True
    if suffix in {".json", ".jsonc", ".json5"}:
        return False
    return not text.lstrip().startswith(("{", "[", "//", "/*"))


def _recipes_in(folder: Path) -> str:
    recipes = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in {".yaml", ".yml", ".json"})
    return "in it are " + ", ".join(f"`{name}`" for name in recipes[:5]) if recipes else "name the file itself"


def _files_like(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder `{path.parent}` either"
    close = get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=3)
    return "did you mean " + " or ".join(f"`{path.parent / name}`" for name in close) + "?" if close else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
