"""Checkpoints in a share: whole generations only, whenever the node dies."""

from __future__ import annotations

from pathlib import Path

from picual.executors.checkpoints import Checkpoints


def test_what_was_kept_comes_back_and_what_was_not_does_not(tmp_path: Path) -> None:
    live, kept = tmp_path / "live", tmp_path / "kept"
    (live / "deep").mkdir(parents=True)
    (live / "deep" / "a").write_text("1")
    (live / "b").write_text("2")
    checkpoints = Checkpoints(kept, live)

    assert checkpoints.keep()
    assert not checkpoints.keep()  # nothing changed
    (live / "deep" / "a").write_text("11")
    (live / "b").unlink()
    assert checkpoints.keep()
    (live / "c").write_text("3")  # the node dies here
    fresh = tmp_path / "elsewhere"
    fresh.mkdir()
    Checkpoints(kept, fresh).restore()

    assert (fresh / "deep" / "a").read_text() == "11"
    assert sorted(path.name for path in fresh.rglob("*")) == ["a", "deep"]


def test_half_a_generation_is_never_taken(tmp_path: Path) -> None:
    live, kept = tmp_path / "live", tmp_path / "kept"
    live.mkdir()
    (live / "a").write_text("whole")
    Checkpoints(kept, live).keep()
    half = kept / "2"
    half.mkdir()
    (half / "a").write_text("ha")  # the node died before it named this one

    fresh = tmp_path / "elsewhere"
    fresh.mkdir()
    again = Checkpoints(kept, fresh)
    again.restore()
    (fresh / "a").write_text("whole and more")

    assert again.keep()
    assert (kept / "current").read_text() == "2"
    assert (kept / "2" / "a").read_text() == "whole and more"


def test_a_folder_that_changes_while_it_is_copied_waits_for_the_next_time(tmp_path: Path) -> None:
    live, kept = tmp_path / "live", tmp_path / "kept"
    live.mkdir()
    (live / "a").write_text("1")

    class Busy(Checkpoints):
        def _copy(self, name: str, place: Path, *, changed: bool) -> None:
            super()._copy(name, place, changed=changed)
            (live / "a").write_text("11")

    assert not Busy(kept, live).keep()
    assert not (kept / "current").exists()
    assert Checkpoints(kept, live).keep() is False or (kept / "1" / "a").read_text() == "11"
