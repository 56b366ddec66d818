"""What Olive's quantizers say of single weights: `overrides`, `modules_to_not_convert` and `dynamic`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual.recipe.olive.group_sizes import block_of
from picual.recipe.olive.mixed import MOST_BITS
from picual.recipe.olive.notes import Ledger, Path_
from picual.recipe.olive.reader import Found, Reader, flag_of, whole_number

_HEADS = ("lm_head", "embed_out")
_TABLES = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_OUTSIDE = ("vis", "audio", "projector")  # parts beside the decoder, of which nothing is quantized
_WIDTHS = (2, 4, 8)
NO_FLOATS = "beside integers no layer stays in float"
TABLE = "an embedding has 8 bits, or those of the head where it is tied to it"
_SIMPLE = re.compile(r"\^?(\w|\.\*|\\\.|-)+\$?")  # a regular expression that a pattern says as well


@dataclass
class Singles:
    """What is said of single weights, in our words.

    Attributes:
        ledger: Of the import.
        overrides: By name or pattern.
        head: Of the head, which has fields of its own; None: nothing is said of it.
    """

    ledger: Ledger
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    head: dict[str, Any] | None = None

    def read(self, reader: Reader) -> None:
        """Take all that a pass says of single weights."""
        self._overrides(reader)
        self._left_out(reader)
        self._dynamic(reader)

    def _overrides(self, reader: Reader) -> None:
        found = reader.given("overrides")
        if found is None:
            return
        if not isinstance(found.value, Mapping):
            reader.wrong_type(found, "a mapping of names to `bits` and `group_size`")
            return
        self.ledger.mapped(found.path, "what is said of single weights")
        for name, given in found.value.items():
            self._one(reader, Found((*found.path, name), given), name)

    def _one(self, reader: Reader, found: Found, name: str) -> None:
        if not isinstance(found.value, Mapping):
            reader.wrong_type(found, "a mapping of `bits`, `group_size` and `symmetric`")
            return
        fields, changed = self._fields(found)
        self._put(found.path, name, fields, "; ".join(changed))

    def _fields(self, found: Found) -> tuple[dict[str, Any], list[str]]:
        """Return what is said of one weight in our words, and what of it is not as Olive has it."""
        given, fields, changed = found.value, {}, []
        bits = whole_number(given.get("bits"))
        if bits is not None and bits > MOST_BITS:
            changed.append(f"{bits} bits become {MOST_BITS}: {NO_FLOATS}")
            fields["bits"] = MOST_BITS
        elif bits in _WIDTHS:
            fields["bits"] = bits
        elif given.get("bits") is not None:
            what = f"`bits` is {given['bits']}; it must be 2, 4 or 8"
            self.ledger.problem((*found.path, "bits"), what, "give it 4 or 8")
        size = whole_number(given.get("group_size")) if given.get("group_size") != -1 else -1
        if size is not None:
            fields["block"], told = block_of(size)
            changed += [told] if told else []
        symmetric = flag_of(given.get("symmetric", given.get("sym")))
        if symmetric is not None:
            fields["symmetric"] = symmetric
        return fields, changed

    def _put(self, path: Path_, name: str, fields: dict[str, Any], changed: str) -> None:
        kind: Any = "replaced" if changed else "mapped"
        more = f"; {changed}" if changed else ""
        if is_head(name):
            self.head = fields
            self.ledger.note(path, kind, f"becomes `head`{more}")
        elif is_table(name) and fields.get("bits", MOST_BITS) == MOST_BITS:
            self.ledger.note(path, kind, f"{TABLE}{more}")
        elif fields:
            self.overrides[name] = fields
            self.ledger.note(path, kind, f"becomes `overrides`: `{name}`{more}")
        else:
            self.ledger.note(path, "ignored", "nothing is said of it")

    def _left_out(self, reader: Reader) -> None:
        found = reader.given("modules_to_not_convert")
        if found is None:
            return
        names = [found.value] if isinstance(found.value, str) else found.value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            reader.wrong_type(found, "a list of names")
            return
        for name in names:
            if is_head(name):
                self.head = {"bits": MOST_BITS}
            elif not is_table(name) and not is_outside(name):
                self.overrides[f"*{name}*"] = {"bits": MOST_BITS}
        text = f"they get {MOST_BITS} bits: {NO_FLOATS}" if names else "none is left out"
        self.ledger.note(found.path, "replaced" if names else "mapped", text)

    def _dynamic(self, reader: Reader) -> None:
        found = reader.given("dynamic")
        if found is None:
            return
        if not isinstance(found.value, Mapping):
            reader.wrong_type(found, "a mapping of patterns to `bits` and `group_size`")
            return
        self.ledger.mapped(found.path, "what is said of single weights")
        for given, said in found.value.items():
            path = (*found.path, given)
            sign, _, pattern = given.rpartition(":")
            if not _SIMPLE.fullmatch(pattern) or not isinstance(said, Mapping):
                text = "a regular expression that is no simple pattern: say it in `overrides`, as `*.down_proj`"
                self.ledger.note(path, "later", text)
                continue
            name = pattern.replace(r"\.", ".").replace(".*", "*").lstrip("^").rstrip("$")
            if is_outside(name):
                self.ledger.note(path, "mapped", "only the decoder is quantized")
            elif sign == "-":
                self._put(path, name, {"bits": MOST_BITS}, f"it gets {MOST_BITS} bits: {NO_FLOATS}")
            else:
                fields, changed = self._fields(Found(path, said))
                self._put(path, name, fields, "; ".join(changed))


def is_head(name: str) -> bool:
    """Say whether a name, or a pattern, is that of the head."""
    return name.rpartition(".")[2].strip("*") in _HEADS


def is_table(name: str) -> bool:
    """Say whether a name, or a pattern, is that of the embedding."""
    return name.rpartition(".")[2].strip("*") in _TABLES


def is_outside(name: str) -> bool:
    """Say whether a name is of a part beside the decoder."""
    return any(part in name.lower() for part in _OUTSIDE)
