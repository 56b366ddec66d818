"""The encoding is part of every key: these bytes may never change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from picual import fingerprint


@dataclass(frozen=True)
class Pair:
    b: int
    a: str


@pytest.mark.parametrize(("value", "expected"), [
    (None, b"n;"), (True, b"b1;"), (0, b"i0;"), (-7, b"i-7;"), ("é;", b"s3:\xc3\xa9;;"), (b"\x00", b"y1:\x00;"),
    (1.5, b"f?\xf8\x00\x00\x00\x00\x00\x00;"), (-0.0, b"f\x00\x00\x00\x00\x00\x00\x00\x00;"),
    ([1, (2, "x")], b"l2:i1;l2:i2;s1:x;;;"),
    ({"b": 1, "a": {}, 1: None}, b"d3:i1;n;s1:a;d0:;s1:b;i1;;"),
    (MappingProxyType({"k": []}), b"d1:s1:k;l0:;;"),
    (Pair(1, "z"), b"cs4:Pair;d2:s1:a;s1:z;s1:b;i1;;;"),
])  # fmt: skip
def test_the_bytes_of_a_value(value: Any, expected: bytes) -> None:
    assert fingerprint.canonical(value) == expected


def test_the_digest_of_ingredients_as_they_are() -> None:
    value = {
        "format": 1,
        "pass": "lora",
        "fields": {"rank": 16, "dropout": 0.05, "targets": ("q", "v")},
        "data": None,
    }

    assert fingerprint.digest(value) == "ee54ddd0502116bce57bd510229491cb0884b6bf1eef94378dccad28db91d952"


def test_a_path_is_no_value(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        fingerprint.canonical({"at": tmp_path})


def test_files_are_those_that_are_there_and_linked_folders_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for file in (inside / "b" / "two", inside / "a", outside / "not-ours"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (inside / "to-outside").symlink_to(outside, target_is_directory=True)
    (inside / "to-nothing").symlink_to(tmp_path / "missing")
    (inside / "to-file").symlink_to(outside / "not-ours")

    found = [path.relative_to(inside).as_posix() for path in fingerprint.files_under(inside)]

    assert found == ["a", "b/two", "to-file"]
