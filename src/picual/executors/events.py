"""The events of a job, read from a file that another process appends to."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from picual.executors.base import OnEvent


def is_event(line: str) -> bool:
    """Say whether a line is whole, and an event."""
    try:
        return line.endswith("\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Tail:
    """Hands over what is new in a file of JSON lines; half a line waits until it is whole.

    Args:
        file: Which need not be there yet.
        position: Bytes of it that are old.
    """

    def __init__(self, file: Path, position: int = 0) -> None:
        self._file, self._position = file, position

    def hand_over(self, on_event: OnEvent) -> None:
        """Call ``on_event`` with every new event."""
        if not self._file.exists():
            return
        with self._file.open("rb") as lines:
            lines.seek(self._position)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # the worker is writing it, or died while it did
                self._position += len(line)
                with contextlib.suppress(ValueError):  # what a machine left that lost its power
                    on_event(json.loads(line))
