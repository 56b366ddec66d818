"""This Picual as a wheel: pip installs it, and the same code gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import picual
from picual.executors.wheel import requirements, write_wheel


def test_pip_installs_it_and_it_is_this_version(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "one")
    again = write_wheel(tmp_path / "two")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]

    subprocess.run([*command, str(tmp_path / "site"), str(wheel)], check=True)

    assert wheel.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        assert {one.date_time for one in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # whenever it is written
    source = Path(picual.__file__).parent
    for name in ("executors/node.py", "assets/report.schema.json"):
        assert (tmp_path / "site" / "picual" / name).read_bytes() == (source / name).read_bytes()


def test_an_extra_brings_what_it_needs_and_no_other() -> None:
    found = requirements(["finetune"])

    names = {one.split(">")[0] for one in found}
    assert {"click", "peft", "torch"} <= names
    assert not any(one.startswith("picual") for one in found)
    assert "bitsandbytes" not in names
