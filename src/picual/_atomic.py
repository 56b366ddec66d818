"""Files and folders that are either wholly there or not there at all: the only place that publishes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace ``path`` with ``text`` in one step; a reader sees the old text or the new, never half.

    What is worth nothing after a power cut, as it is then made again, need not be ``durable``: that costs two
    waits for the disk.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        with _opened(temporary) as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="\n")
    except FileNotFoundError:  # most often the folder is there
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, *, durable: bool = True, indent: int | None = 2) -> None:
    """Write ``value`` as JSON in one step.

    Without ``indent`` it is written by C, in a tenth of the time: for what programs read, and often.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n", durable=durable)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``, then rename it to ``path`` if the block ends well.

    An existing ``path`` is replaced: first moved away, removed after the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o755)
    try:
        yield temporary
        publish(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def publish(folder: Path, path: Path) -> None:
    """Sync ``folder`` and rename it to ``path`` (same file system), replacing what stood there."""
    _sync_all(folder)
    rename(folder, path)
    sync_folder(path.parent)


def rename(folder: Path, path: Path) -> None:
    """Rename a folder, which replaces what stood there; the folder that it comes to is made if need be."""
    try:
        folder.rename(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(path)
    except OSError:  # most often nothing stands there
        if not path.exists():
            raise
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        path.rename(old / path.name)
        folder.rename(path)
        remove(old)


def remove(path: Path) -> None:
    """Remove a file or folder, read-only parts included; a missing one is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # what each system says of a folder
        if path.is_symlink() or not path.is_dir():
            raise
        shutil.rmtree(path, onerror=_make_writable_and_retry)


def _make_writable_and_retry(function: Any, name: str, _: Any) -> None:
    Path(name).parent.chmod(stat.S_IRWXU)
    if Path(name).exists():
        Path(name).chmod(stat.S_IRWXU)
        function(name)


def _sync_all(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            if (file := Path(root, name)).is_file():
                _sync(file)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    if os.name == "nt":
        return  # a folder cannot be opened there
    _sync(folder)
