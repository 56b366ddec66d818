from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue
from picual.recipe.document import Document, document_of, read_document


def written(tmp_path: Path, content: str | bytes, name: str = "recipe.yaml") -> Document:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("010", 10),
        ("0x1f", 31),
        ("1_000", "1_000"),
        ("on", "on"),
        ("No", "No"),
        ("yes", "yes"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30:00", "12:30:00"),
        ("'1'", "1"),
        ("!!str 5", "5"),
        (".inf", float("inf")),
        ("[a, 1, null]", ["a", 1, None]),
        ("<model>", "<model>"),
        ("=", "="),
    ],
)
def test_yaml_values_mean_what_version_1_2_says(tmp_path: Path, text: str, value: Any) -> None:
    found = written(tmp_path, f"key: {text}\n").value["key"]

    assert found == value
    assert type(found) is type(value)


def test_json_may_hold_comments_trailing_commas_tabs_escapes_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = (
        '\ufeff{\n\t"a": [1, 2.5e-1, -3,],  // one\n# two\n/* three\n */'
        ' "b": {"u": "\\u00e9\\ud83d\\ude00 \\n\t//"},\n'
        '"c": null, "d": true,\n}\n// end'
    )

    assert written(tmp_path, text, "recipe.json").value == {
        "a": [1, 0.25, -3],
        "b": {"u": "é😀 \n\t//"},
        "c": None,
        "d": True,
    }


@pytest.mark.parametrize("name", ["recipe.json", "recipe", "recipe.txt"])
def test_a_file_that_starts_with_a_brace_is_json_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    assert written(tmp_path, '{"a": 1, // c\n}', name).value == {"a": 1}


def test_a_file_without_a_known_ending_is_yaml_otherwise(tmp_path: Path) -> None:
    assert written(tmp_path, "version: 1", "recipe").value == {"version": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.yaml", "a:\n  b:\n    - 1\n    - c: 2\nd: 3\n"),
        ("recipe.json", '{"a": {\n"b":\n[1,\n {"c": 2}]},\n"d": 3}'),
    ],
)
def test_every_value_knows_its_line_and_an_absent_one_that_of_its_nearest_parent(
    tmp_path: Path, name: str, text: str
) -> None:
    document = written(tmp_path, text, name)
    lines = [document.place(path).line for path in [("a",), ("a", "b"), ("a", "b", 1, "c"), ("d",), ("a", "zz")]]

    assert lines == [1, 2, 4, 5, 1]
    assert document.place(("d",)).file == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [("r.yaml", "a: 1\nb:\n  c: 1\n  c: 2\n"), ("r.json", '{"a": 1,\n"b": {\n"c": 1,\n"c": 2}}')],
)
def test_a_key_that_stands_twice_is_a_problem_with_both_lines_and_the_first_counts(
    tmp_path: Path, name: str, text: str
) -> None:
    document = written(tmp_path, text, name)

    (problem,) = document.problems
    assert problem.where == "line 4"
    assert "`c` stands here a second time (first on line 3)" in problem.what
    assert document.value["b"] == {"c": 1}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.json", '{"a": 1', "line 1, column 8: the file ends before the `}` that closes line 1"),
        ("r.json", '{"a": [1 2]}', "line 1, column 10: expected `,` or `]`, found `2`"),
        ("r.json", "{\n'a': 1}", "line 2, column 1: expected a key in double quotes"),
        ("r.json", '{"a": True}', "JSON writes it `true`"),
        ("r.json", '{"a": "x\n"}', "line 1, column 7: the text that starts here has no closing"),
        ("r.json", '{"a": 1} {', "line 1, column 10: nothing may follow"),
        ("r.json", '{"a" 1}', "expected `:` after the key `a`, found `1`"),
        ("r.json", "{,}", "expected a key in double quotes, found `,`"),
        ("r.json", '{"a": 01}', "expected a value, found `01`"),
        ("r.json", '{"a": "\\ud800"}', "half of a pair"),
        ("r.json", '{"a": "\\x"}', "unknown escape"),
        ("r.json", '{"a": 1 /* }', "no closing `*/`"),
        ("r.json", "[" * 5000, "more than 100 values inside each other"),
        ("r.json", '{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("r.yaml", "a:\n\tb: 1\n", "line 2, column 1: while scanning"),
        ("r.yaml", "a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("r.yaml", "a: !!python/object/apply:os.system [ls]\n", "the tag `!!python/object/apply:os.system`"),
        ("r.yaml", "a: !mine 1\n", "the tag `!mine` is not one a recipe may use"),
        ("r.yaml", "a: {{name}}\n", "a key must be one word or text"),
        ("r.yaml", "a: &x [*x]\n", "values inside each other"),
        ("r.yaml", "[" * 3000, "values inside each other"),
        ("r.yaml", "a: 1\n---\nb: 2\n", "expected a single document"),
        ("r.yaml", "a: \x07\n", "line 1, column 4: a control character"),
        ("r.yaml", "# nothing\n", "holds nothing but comments"),
        ("r.yaml", "- 1\n", "holds a list; a recipe is a mapping"),
        ("r.yaml", "word\n", "holds one value, `word`"),
        ("r.json", "", "is empty"),
        ("r.yaml", " \n ", "is empty"),
    ],
)
def test_text_that_cannot_be_read_says_where_and_why(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(BadValue) as caught:
        written(tmp_path, text, name)

    assert expected in str(caught.value)
    assert name in str(caught.value)


def test_anchors_that_stand_for_millions_of_values_are_refused_at_once(tmp_path: Path) -> None:
    rows = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))

    with pytest.raises(BadValue, match="100000 in all"):
        written(tmp_path, "a0: &a0 [1]\n" + rows)


def test_yaml_anchors_and_merge_keys_are_plain_values(tmp_path: Path) -> None:
    document = written(tmp_path, "base: &base {b: 1, c: 2}\nown: {<<: *base, c: 3}\n")

    assert document.value["own"] == {"b": 1, "c": 3}


def test_a_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1")

    with pytest.raises(BadValue, match="there is no file") as caught:
        read_document(tmp_path / "recipy.yaml")
    assert f"did you mean `{tmp_path / 'recipe.yaml'}`?" in caught.value.hint


def test_a_folder_names_the_recipes_in_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1")

    with pytest.raises(BadValue, match="is a folder") as caught:
        read_document(tmp_path)
    assert "`recipe.yaml`" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a":\n"caf\xe9"}', "byte 10 (line 2) is 0xe9"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04", "a zip file"),
    ],
)
def test_a_file_that_is_not_utf_8_says_which_byte_and_how_to_mend_it(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    with pytest.raises(BadValue, match="not UTF-8") as caught:
        written(tmp_path, content)

    assert expected in caught.value.what
    assert "UTF-8" in caught.value.hint


def test_a_mapping_from_python_is_a_document_without_lines(tmp_path: Path) -> None:
    document = document_of({"files": (tmp_path, "b"), 1: {"c": None}})

    assert document.value == {"files": [str(tmp_path), "b"], "1": {"c": None}}
    assert document.place(("files",)).line == 0
