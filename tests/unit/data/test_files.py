from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from picual.data.base import DataConfig
from picual.data.files import check_columns, count_rows, first_rows, rows
from picual.errors import BadValue

ROWS = [{"phrase": "one, two", "Best Answer": "ja\nwohl"}, {"phrase": "größer", "Best Answer": '"x"'}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def config(tmp_path: Path, name: str, content: str | bytes, **fields: object) -> DataConfig:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DataConfig(files=(str(path),), **fields)  # type: ignore[arg-type]  # each test gives what fits


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl", "\n" + LINES.replace("\n", "\r\n") + "\n\n"),
        ("rows.json", LINES),  # JSON lines under the name of JSON
        ("rows.json", json.dumps(ROWS)),
        ("rows.json", json.dumps(ROWS, indent=2)),
        ("rows.json", json.dumps({"version": "1", "data": ROWS, "tags": []}, indent=2)),
        ("rows.json", json.dumps({"data": ROWS})),
        ("rows", "\ufeff" + json.dumps(ROWS)),
        ("rows.csv", 'phrase,Best Answer\n"one, two","ja\nwohl"\ngrößer,"""x"""\n'),
        ("rows.tsv", 'phrase\tBest Answer\none, two\t"ja\nwohl"\ngrößer\t"""x"""\n'),
    ],
)
def test_every_form_of_a_file_gives_the_same_rows(name: str, content: str, tmp_path: Path) -> None:
    data = config(tmp_path, name, content)
    assert rows(data) == ROWS
    assert first_rows(data, 1) == ROWS[:1]
    assert count_rows(data) == 2


def test_a_text_file_is_one_row_and_keeps_every_character(tmp_path: Path) -> None:
    text = "first\r\nsecond {brace}\n\n  last without line end"
    assert rows(config(tmp_path, "book.txt", text)) == [{"text": text}]


def test_a_single_chat_in_a_json_file_is_a_row_and_not_a_list_of_rows(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert rows(config(tmp_path, "chat.json", json.dumps(chat), chat="messages")) == [chat]
    assert rows(config(tmp_path, "chat.jsonl", json.dumps(chat))) == [chat]


def test_files_follow_each_other_up_to_max_samples(tmp_path: Path) -> None:
    one, two = config(tmp_path, "a.jsonl", LINES), config(tmp_path, "b.jsonl", LINES)
    both = DataConfig(files=one.files + two.files, max_samples=3)
    assert rows(both) == [*ROWS, ROWS[0]]
    assert count_rows(both) == 3


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("a.jsonl", "", "is empty", ""),
        ("a.jsonl", "\n \n", "has no rows", ""),
        ("a.json", "[]", "has no rows", ""),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe4"}\n', "is not UTF-8: byte 0xe4 at line 2", ":2:8"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2 of `a.jsonl` is no JSON object", ":2:1"),
        ("a.jsonl", '{"a": 1}\n{"a": 1\n', "line 2 of `a.jsonl` is not JSON", ":2:8"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "line 2 of `a.json` is not JSON", ":2:7"),
        ("a.json", '[{"a": 1}, 7]', "row 2 of `a.json` is no JSON object", ""),
        ("a.json", '"text"', "holds no list of objects", ""),
        ("a.csv", "a,b\n1,2\n3\n", "line 3 of `a.csv` has 1 cells, its header 2", ":3"),
        ("a.csv", "a,a\n1,2\n", "has the column `a` twice", ":1"),
        ("a.csv", "a,b\n", "has no rows", ""),
        ("a.csv", 'a,b\n"1"x,2\n', "line 2 of `a.csv` is no row of a table", ":2"),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(
    name: str, content: str | bytes, what: str, where: str, tmp_path: Path
) -> None:
    data = config(tmp_path, name, content)
    with pytest.raises(BadValue, match="`a\\.") as caught:
        rows(data)
    assert what in caught.value.what
    assert caught.value.where.endswith(f"{name}{where}")
    assert caught.value.hint
    assert [problem.field for problem in check_columns(data)] == ["files"]


def test_a_missing_file_and_a_folder_are_no_data_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(BadValue, match=r"no file|folder"):
            rows(DataConfig(files=(str(path),)))


def test_a_column_that_no_row_has_is_named_with_the_nearest_name(tmp_path: Path) -> None:
    problems = check_columns(config(tmp_path, "a.jsonl", LINES, template="{phrse} {Best Answer}"))
    assert problems == [("template", "the data has no column `phrse`", "did you mean `phrase`?")]


def test_a_column_that_one_row_lacks_is_named_with_the_row(tmp_path: Path) -> None:
    content = LINES * 9 + '{"phrase": "alone"}\n'
    problems = check_columns(config(tmp_path, "a.jsonl", content, prompt="{phrase}", response="{Best Answer}"))
    assert [(one.field, one.what) for one in problems] == [
        ("response", "row 19 of the data has no column `Best Answer`")
    ]


def test_a_data_set_that_names_no_column_reads_text(tmp_path: Path) -> None:
    assert not check_columns(config(tmp_path, "a.txt", "a story"))
    assert check_columns(config(tmp_path, "a.jsonl", LINES))[0].what == "the data has no column `text`"


def test_the_count_of_rows_says_about_how_long_they_are(tmp_path: Path) -> None:
    content = json.dumps({"t": "x" * 400}) + "\n" + json.dumps({"t": "x" * 40})
    lines = config(tmp_path, "a.jsonl", content, text="t", max_length=64)
    assert (count_rows(lines).tokens, count_rows(lines).longest) == (110, 64)
    joined = DataConfig(files=lines.files, text="t", strategy="join", max_length=4096)
    assert count_rows(joined).longest == 110


def test_a_hub_data_set_is_read_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"a": "1"}\n{"a": "2"}\n')
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    script = (
        "import sys; from picual.data.base import DataConfig; from picual.data.files import rows\n"
        "from picual.errors import PicualError\n"
        "for split in ('train[:1]', 'nothing'):\n"
        "    try: print(rows(DataConfig(name=sys.argv[1], split=split)))\n"
        "    except PicualError as error: print(type(error).__name__, error.what)\n"
        "try: rows(DataConfig(name='nobody/has-this'))\n"
        "except PicualError as error: print(type(error).__name__, error.what)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, second, third = done.stdout.splitlines()
    assert first == "[{'a': '1'}]", done.stderr
    assert second.startswith("BadValue data set"), done.stderr
    assert third.split()[0] in {"EnvironmentFault", "BadValue"}, done.stderr
    assert "nobody/has-this" in third


def test_reading_files_imports_no_library() -> None:
    script = "import sys, picual.data.files; print(sorted({'torch', 'datasets', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
