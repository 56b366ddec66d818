"""JSON as people write it: with comments and trailing commas, every value knowing its line.

Beyond RFC 8259: comments (`// ...`, `# ...`, `/* ... */`), a comma before a closing bracket, tabs inside strings.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Any

from picual.errors import BadValue
from picual.recipe.located import DEEPEST, Located, Parsed, syntax_error

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[^\s,:{}\[\]\"#]+")
_PLAIN = re.compile(r'[^"\\\n\r]+')
_BLANK = re.compile(r"(?:[ \t\r\n\f]|//[^\n]*|#[^\n]*|/\*.*?\*/)+", re.DOTALL)
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_FOREIGN_WORDS = {"True": "true", "False": "false", "None": "null"}


def parse(text: str, file: str) -> Parsed:
    """Read one JSON text.

    Raises:
        BadValue: Where the text cannot be read on, with line and column.
    """
    return _Reader(text, file).read()


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.parsed = Parsed(Located(None, 1))

    def read(self) -> Parsed:
        self.blank()
        self.parsed.top = self.value(0)
        self.blank()
        if self.at < len(self.text):
            raise self.error(f"nothing may follow the closing bracket, found {self.found()}")
        return self.parsed

    def value(self, depth: int) -> Located:
        if depth > DEEPEST:
            raise self.error(f"more than {DEEPEST} values inside each other")
        letter = self.text[self.at : self.at + 1]
        if letter == "{":
            return self.mapping(depth)
        if letter == "[":
            return self.list(depth)
        line = self.line()
        if letter == '"':
            return Located(self.string(), line)
        return Located(self.word(), line)

    def mapping(self, depth: int) -> Located:
        here = Located({}, self.line())
        self.at += 1
        while not self.closes("}", here):
            if self.text[self.at : self.at + 1] != '"':
                raise self.error(f"expected a key in double quotes, found {self.found()}", self.about_quotes())
            line = self.line()
            key = self.string()
            self.blank()
            if self.text[self.at : self.at + 1] != ":":
                raise self.error(f"expected `:` after the key `{key}`, found {self.found()}")
            self.at += 1
            self.blank()
            part = self.value(depth + 1)
            part.line = line
            if key in here.parts:
                self.parsed.repeated(key, here.parts[key].line, line)
                continue
            here.parts[key] = part
            here.value[key] = part.value
        return here

    def list(self, depth: int) -> Located:
        here = Located([], self.line())
        self.at += 1
        while not self.closes("]", here):
            part = self.value(depth + 1)
            here.parts[len(here.value)] = part
            here.value.append(part.value)
        return here

    def closes(self, bracket: str, here: Located) -> bool:
        """Take the comma between two parts, or the closing bracket; say whether it was the bracket."""
        self.blank()
        if here.parts and not self._after_comma(bracket):
            return True
        if self.text[self.at : self.at + 1] == bracket:
            self.at += 1
            return True
        if self.at >= len(self.text):
            raise self.error(f"the file ends before the `{bracket}` that closes line {here.line}")
        return False

    def _after_comma(self, bracket: str) -> bool:
        letter = self.text[self.at : self.at + 1]
        if letter == ",":
            self.at += 1
            self.blank()
            return True
        if letter == bracket:
            self.at += 1
            return False
        if not letter:
            return True  # the end of the file, which the caller names
        raise self.error(f"expected `,` or `{bracket}`, found {self.found()}")

    def string(self) -> str:
        opened = self.at
        self.at += 1
        pieces: list[str] = []
        while True:
            if plain := _PLAIN.match(self.text, self.at):
                pieces.append(plain.group())
                self.at = plain.end()
            letter = self.text[self.at : self.at + 1]
            if letter == '"':
                self.at += 1
                return "".join(pieces)
            if letter != "\\":
                self.at = opened
                raise self.error(
                    'the text that starts here has no closing `"` on its line', "a line break is `\\n`"
                )
            pieces.append(self.escape())

    def escape(self) -> str:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter in _ESCAPES and letter:
            self.at += 2
            return _ESCAPES[letter]
        if letter != "u":
            raise self.error(f"unknown escape `\\{letter}`", "a backslash is `\\\\`")
        code = self.four_digits()
        if 0xD800 <= code < 0xDC00 and self.text[self.at : self.at + 2] == "\\u":
            low = self.four_digits()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            code = low
        if 0xD800 <= code < 0xE000:
            raise self.error(f"`\\u{code:04x}` is half of a pair", "write the character itself")
        return chr(code)

    def four_digits(self) -> int:
        digits = self.text[self.at + 2 : self.at + 6]
        if not re.fullmatch("[0-9a-fA-F]{4}", digits):
            raise self.error("`\\u` takes four hexadecimal digits")
        self.at += 6
        return int(digits, 16)

    def word(self) -> Any:
        match = _WORD.match(self.text, self.at)
        if match is None:
            raise self.error(f"expected a value, found {self.found()}")
        word = match.group().split("//")[0].split("/*")[0]
        value: Any
        if word in _WORDS:
            value = _WORDS[word]
        elif number := _NUMBER.fullmatch(word):
            value = self.number(word, whole=number.group(2) is None and number.group(3) is None)
        elif word in _FOREIGN_WORDS:
            raise self.error(f"expected a value, found `{word}`", f"JSON writes it `{_FOREIGN_WORDS[word]}`")
        else:
            raise self.error(f"expected a value, found `{word[:40]}`", "a text stands in double quotes")
        self.at += len(word)
        return value

    def number(self, word: str, *, whole: bool) -> int | float:
        try:
            return int(word) if whole else float(word)
        except ValueError:
            raise self.error(f"a number of {len(word)} digits") from None

    def blank(self) -> None:
        if match := _BLANK.match(self.text, self.at):
            self.at = match.end()
        if self.text.startswith("/*", self.at):
            raise self.error("the comment that starts here has no closing `*/`")

    def line(self) -> int:
        return bisect_right(self.starts, self.at)

    def found(self) -> str:
        if self.at >= len(self.text):
            return "the end of the file"
        match = _WORD.match(self.text, self.at)
        return f"`{match.group()[:40] if match else self.text[self.at]}`"

    def about_quotes(self) -> str:
        return "JSON quotes with `\"`, not with `'`" if self.text[self.at : self.at + 1] == "'" else ""

    def error(self, what: str, hint: str = "") -> BadValue:
        line = self.line()
        return syntax_error(self.file, "JSON", line, self.at - self.starts[line - 1] + 1, what, hint)
