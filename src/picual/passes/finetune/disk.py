"""What a disk that is full looks like to libraries that save: told again as the system said it, with the place."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

TORCH = ("inline_container", "PytorchStreamWriter")  # its writer says where it failed and not why
LITTLE = 16 << 20  # bytes: so few are left on a disk that is full


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise ``OSError`` with its number where a library says only in words that it could not write.

    Args:
        folder: Where it writes.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = _number(str(error), folder)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _number(said: str, folder: Path) -> int | None:
    """Return the system's number of an error of writing; None for any other error."""
    if told := re.search(r"\(os error (\d+)\)", said):
        return int(told[1])
    if any(mark in said for mark in TORCH):
        return errno.ENOSPC if shutil.disk_usage(folder).free < LITTLE else errno.EFBIG
    return None
