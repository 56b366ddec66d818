from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from picual.passes.finetune.checkpoints import STATE, Tally, is_whole, newest, seal, tally_of


def checkpoint(scratch: Path, step: int, *, sealed: bool = True) -> Path:
    folder = scratch / f"checkpoint-{step}"
    folder.mkdir()
    (folder / STATE).write_text('{"global_step": 1}')
    (folder / "optimizer.pt").write_bytes(bytes(1000))
    if sealed:
        seal(folder, Tally(loss=step / 2, steps=step, tokens=10, seconds=4.0))
    return folder


def test_the_newest_is_the_one_of_the_last_step_not_of_the_last_name(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    assert newest(tmp_path) == tmp_path / "checkpoint-100"
    assert len(list(tmp_path.iterdir())) == 3
    assert tally_of(tmp_path / "checkpoint-9") == Tally(loss=4.5, steps=9, tokens=10, seconds=4.0)
    assert tally_of(tmp_path / "checkpoint-9").tokens_per_s == 2.5


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(bytes(content))


SPOILT: dict[str, Callable[[Path], object]] = {
    "a file cut short": lambda folder: (folder / "optimizer.pt").write_bytes(bytes(500)),
    "a bit turned": lambda folder: flip(folder / "optimizer.pt"),
    "a file missing": lambda folder: (folder / STATE).unlink(),
    "half a seal": lambda folder: (folder / "seal.json").write_text('{"files": {"opt'),
    "no seal": lambda folder: (folder / "seal.json").unlink(),
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_one_that_is_not_whole_is_removed_and_the_one_before_it_taken(how: str, tmp_path: Path) -> None:
    before, last = checkpoint(tmp_path, 3), checkpoint(tmp_path, 6)
    SPOILT[how](last)
    assert not is_whole(last)
    assert newest(tmp_path) == before
    assert not last.exists()
