"""Hints that hold a path work when pasted, whatever the path is made of."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from picual.data.formats import file_rows
from picual.engine.search import every_trial
from picual.errors import BadValue
from picual.sources.resolve import resolve


def words_of(hint: str) -> list[str]:
    """Return the words of the command in a hint, as a shell splits it."""
    quoted = re.search("`([^`]+)`", hint)
    return shlex.split(quoted[1] if quoted else hint)


def test_the_report_of_a_search_is_one_word(tmp_path: Path) -> None:
    assert words_of(every_trial(tmp_path / "it's my out")) == ["picual", "report", str(tmp_path / "it's my out")]


def test_rows_in_another_encoding_can_be_rewritten_as_told(tmp_path: Path) -> None:
    file = tmp_path / "my $HOME rows.jsonl"
    file.write_bytes(b'{"text": "\xe4"}\n')
    with pytest.raises(BadValue) as caught:
        list(file_rows(file))

    subprocess.run(caught.value.hint, shell=True, check=True, cwd=tmp_path)

    assert (tmp_path / "utf8.jsonl").read_text() == '{"text": "\xe4"}\n'


def test_the_folder_of_a_model_is_one_word(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "model.safetensors").touch()
    with pytest.raises(BadValue) as caught:
        resolve(str(tmp_path / "my model" / "model.safetensors"), folder=tmp_path)

    assert words_of(caught.value.hint) == ["--model", str(tmp_path / "my model")]
