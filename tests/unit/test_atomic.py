"""Folders that appear whole, replace whole ones, and go whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from picual import _atomic


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "file.txt").write_text(text)
    return folder


def test_a_renamed_folder_replaces_the_one_that_stood_there(tmp_path: Path) -> None:
    old, new = filled(tmp_path / "place", "old"), filled(tmp_path / "new", "new")
    (old / "file.txt").chmod(0o444)

    _atomic.rename(new, old)

    assert (old / "file.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_folder_is_renamed_to_where_no_folder_is_yet(tmp_path: Path) -> None:
    _atomic.rename(filled(tmp_path / "new", "new"), tmp_path / "a" / "b" / "place")

    assert (tmp_path / "a" / "b" / "place" / "file.txt").read_text() == "new"


def test_a_folder_that_is_not_there_replaces_nothing(tmp_path: Path) -> None:
    old = filled(tmp_path / "place", "old")

    with pytest.raises(FileNotFoundError):
        _atomic.rename(tmp_path / "missing", old)

    assert (old / "file.txt").read_text() == "old"


def test_files_links_and_read_only_folders_are_removed_and_what_is_missing_is_no_error(tmp_path: Path) -> None:
    kept = filled(tmp_path / "kept", "kept")
    closed = filled(tmp_path / "closed", "closed")
    (closed / "file.txt").chmod(0o444)
    closed.chmod(0o555)
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_text("")

    for name in ("closed", "link", "file", "missing"):
        _atomic.remove(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file.txt").read_text() == "kept"
