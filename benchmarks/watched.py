"""A whole process: its seconds, and the anonymous resident memory of its tree, sampled from outside."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from picual.executors.memory import tree_memory

SAMPLE = 0.02  # seconds


@dataclass(frozen=True)
class Taken:
    """One process."""

    seconds: float
    memory: int  # bytes at the peak
    printed: str


def watched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Taken:
    """Run a command to its end; one that fails ends this program with what it printed."""
    peak, start = 0, time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid)[1])
            time.sleep(SAMPLE)
        seconds = time.monotonic() - start
        log.seek(0)
        printed = log.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}:\n{printed[-4000:]}")
    return Taken(seconds, peak, printed)
