from __future__ import annotations

from pathlib import Path

from picual.data.base import DataConfig
from picual.data.text import text_of


def test_a_text_file_is_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert text_of(DataConfig(files=(str(tmp_path / "a.txt"),))) == "one\n\ntwo\n"


def test_rows_follow_each_other_with_the_joiner_between(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}\n')
    files = (str(tmp_path / "a.jsonl"),)
    assert text_of(DataConfig(files=files, template="{a}{b}")) == "1x\n\n2y"
    assert text_of(DataConfig(files=files, text="b", joiner="")) == "xy"
    assert text_of(DataConfig(files=files, prompt="{a}", response="{b}", joiner="|")) == "1x|2y"
