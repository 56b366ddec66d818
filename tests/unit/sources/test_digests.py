from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from picual import fingerprint
from picual.sources import digests
from picual.sources.digests import DigestMemory

Aged = Callable[[Path], Path]


@pytest.fixture
def file(tmp_path: Path, aged: Aged) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    return aged(path)


@pytest.fixture
def memory(tmp_path: Path) -> DigestMemory:
    return DigestMemory(tmp_path / "store" / "digests.jsonl")


def test_a_digest_is_the_files_sha256_and_is_remembered_by_the_next_process(
    file: Path, memory: DigestMemory
) -> None:
    assert memory.known(file) is None
    assert memory.of(file) == hashlib.sha256(b"one").hexdigest()
    assert memory.path is not None
    assert DigestMemory(memory.path).known(file) == hashlib.sha256(b"one").hexdigest()


def test_a_remembered_file_is_not_read_again(file: Path, memory: DigestMemory) -> None:
    memory.of(file)
    status = file.stat()
    file.write_bytes(b"two")  # same size and inode
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert memory.of(file) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_hashed_anew(change: str, file: Path, memory: DigestMemory, aged: Aged) -> None:
    memory.of(file)
    status = file.stat()
    if change == "size":
        file.write_bytes(b"three")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        file.write_bytes(b"two")
    else:
        other = file.with_name("other")
        other.write_bytes(b"two")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(file)
    assert memory.known(file) is None
    assert memory.of(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_younger_than_the_clocks_tick_is_not_remembered(
    tmp_path: Path, memory: DigestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "TICK", 3_600_000_000_000)
    young = tmp_path / "young"
    young.write_bytes(b"one")
    memory.of(young)
    assert memory.known(young) is None


@pytest.mark.parametrize(
    "junk",
    [b"\x80\xff\x00garbage\n", b'{"file": "x"}\n', b"[]\n", b"1\n", b'{"file": 1, "stamp": 3, "sha256": "zz"}\n'],
)
def test_a_corrupt_memory_is_ignored_and_still_takes_new_digests(
    junk: bytes, file: Path, memory: DigestMemory
) -> None:
    assert memory.path is not None
    memory.path.parent.mkdir()
    memory.path.write_bytes(junk)
    assert memory.known(file) is None
    memory.of(file)
    assert DigestMemory(memory.path).known(file) == hashlib.sha256(b"one").hexdigest()


def test_half_a_line_left_by_a_crash_costs_that_line_only(
    file: Path, tmp_path: Path, memory: DigestMemory, aged: Aged
) -> None:
    memory.of(file)
    assert memory.path is not None
    with memory.path.open("ab") as stream:
        stream.write(b'{"file": "/ha')
    second = tmp_path / "second"
    second.write_bytes(b"two")
    DigestMemory(memory.path).of(aged(second))
    again = DigestMemory(memory.path)
    assert again.known(file) == hashlib.sha256(b"one").hexdigest()
    assert again.known(second) == hashlib.sha256(b"two").hexdigest()


def test_two_processes_may_remember_at_once(tmp_path: Path, memory: DigestMemory, aged: Aged) -> None:
    code = (
        "import sys; from pathlib import Path; from picual.sources.digests import DigestMemory\n"
        "memory = DigestMemory(Path(sys.argv[1]))\n"
        "for name in sys.argv[2:]: memory.of(Path(name))"
    )
    names = [[str(aged(_written(tmp_path / f"{who}-{n}"))) for n in range(150)] for who in "ab"]
    command = [sys.executable, "-c", code, str(memory.path)]
    workers = [subprocess.Popen([*command, *mine]) for mine in names]
    assert [worker.wait() for worker in workers] == [0, 0]
    for name in [*names[0], *names[1]]:
        assert memory.known(Path(name)) == fingerprint.file_digest(Path(name))


def _written(path: Path) -> Path:
    path.write_bytes(path.name.encode())
    return path


def test_superseded_lines_are_dropped_some_day(
    file: Path, memory: DigestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LINES_TO_SPARE", 3)
    for number in range(8):
        os.utime(file, (number, number))
        memory.of(file)
    assert memory.path is not None
    assert DigestMemory(memory.path).known(file) is not None
    lines = memory.path.read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [str(file)]


def test_a_folders_digest_is_of_the_files_that_are_the_model(
    tmp_path: Path, memory: DigestMemory, aged: Aged
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "modeling.py"):
        aged(_written(folder / name))
    assert memory.known_folder(folder) is None
    before = memory.folder(folder)
    assert memory.known_folder(folder) == before
    for name in ("README.md", "training_args.bin", "trainer_state.json"):
        _written(folder / name)
    assert memory.known_folder(folder) == before
    for name in ("config.json", "modeling.py"):
        (folder / name).write_text("changed")
        assert memory.known_folder(folder) is None
        assert memory.folder(folder) != before
        aged(folder / name)
        memory.of(folder / name)
    assert memory.known_folder(folder, [folder / "tokenizer.json"]) == fingerprint.folder_digest(
        {"tokenizer.json": hashlib.sha256(b"tokenizer.json").hexdigest()}
    )


def test_a_memory_without_a_file_remembers_within_itself(file: Path) -> None:
    memory = DigestMemory(None)
    memory.of(file)
    assert memory.known(file) == hashlib.sha256(b"one").hexdigest()
