"""YAML with lines, read as version 1.2 means it: `1e-4` is a number, `on` and `no` are words. Nothing is executed.

PyYAML composes the nodes; the values are ours, so no tag can construct anything but plain data.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from picual.errors import BadValue
from picual.recipe.located import DEEPEST, Located, Parsed, syntax_error

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000  # anchors can make a small file stand for a huge tree


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own name


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def parse(text: str, file: str) -> Parsed:
    """Read one YAML text.

    Raises:
        BadValue: Where the text cannot be read on, with line and column.
    """
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise _error(file, error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise syntax_error(file, "YAML", line, column, "a control character", "remove it") from None
    except RecursionError:
        raise BadValue(f"{file} has more than {DEEPEST} values inside each other", where=file) from None
    if node is None:
        return Parsed(Located(None, 1))
    reader = _Reader(file)
    reader.parsed.top = reader.value(node, 0)
    return reader.parsed


def value_of(text: str) -> Any:
    """Read one value as YAML does: ``3``, ``1e-4``, ``true``, ``[a, b]``, ``word``.

    Raises:
        BadValue: It is not valid YAML.
    """
    return parse(text, "the value").top.value


def _error(file: str, error: yaml.MarkedYAMLError) -> BadValue:
    mark = error.problem_mark or error.context_mark
    what = " ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if "'\\t'" in what:
        hint = "YAML indents with spaces, not with tabs"
    elif "mapping values are not allowed" in what or "expected <block end>" in what:
        hint = "check the indentation of this line and the one above; a text with `: ` in it needs quotes"
    elif "but found another document" in what:
        hint = "a recipe is one document: remove the `---` between them"
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    return syntax_error(file, "YAML", line, column, what, hint)


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.parsed = Parsed(Located(None, 1))
        self.count = 0

    def value(self, node: yaml.Node, depth: int) -> Located:
        self.count += 1
        if depth > DEEPEST or self.count > _MOST_VALUES:
            raise self.error(node, f"more than {DEEPEST} values inside each other, or {_MOST_VALUES} in all")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return self.list(node, depth)
        return Located(self.scalar(node), _line(node))

    def mapping(self, node: yaml.MappingNode, depth: int) -> Located:
        self.require_tag(node, "map")
        here = Located({}, _line(node))
        merged: list[Located] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged += self.merged(value_node, depth)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(
                    key_node, "a key must be one word or text", "quote it when it has braces or brackets"
                )
            key = str(key_node.value)
            part = self.value(value_node, depth + 1)
            part.line = _line(key_node)
            if key in here.parts:
                self.parsed.repeated(key, here.parts[key].line, part.line)
                continue
            here.parts[key] = part
        for source in merged:
            for name, part in source.parts.items():
                here.parts.setdefault(name, part)
        here.value = {key: part.value for key, part in here.parts.items()}
        return here

    def merged(self, node: yaml.Node, depth: int) -> list[Located]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for one in nodes:
            if not isinstance(one, yaml.MappingNode):
                raise self.error(one, "`<<` takes a mapping")
        return [self.value(one, depth + 1) for one in nodes]

    def list(self, node: yaml.SequenceNode, depth: int) -> Located:
        self.require_tag(node, "seq")
        parts = [self.value(item, depth + 1) for item in node.value]
        return Located([part.value for part in parts], _line(node), dict(enumerate(parts)))

    def scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "int":
                return _whole(text)
            if kind == "float":
                return _real(text)
        except ValueError:
            raise self.error(node, f"`{text[:40]}` is not a number") from None
        if kind == "bool" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        if kind == "null":
            return None
        if kind in {"str", "merge"}:
            return text
        self.require_tag(node, "str")
        return text

    def require_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            name = node.tag.replace(_TAG, "!!")
            raise self.error(
                node, f"the tag `{name}` is not one a recipe may use", "remove it: a recipe is plain data"
            )

    def error(self, node: yaml.Node, what: str, hint: str = "") -> BadValue:
        return syntax_error(self.file, "YAML", _line(node), node.start_mark.column + 1, what, hint)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _whole(text: str) -> int:
    for prefix, base in (("0o", 8), ("0x", 16)):
        if text.startswith(prefix):
            return int(text[2:], base)
    return int(text)


def _real(text: str) -> float:
    lowered = text.lower()
    if lowered.endswith((".inf", ".nan")):
        return float(lowered.replace(".", ""))
    return float(text)
