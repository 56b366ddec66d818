"""Where jobs run. Executors differ only in how a job's folder gets to a worker and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from picual.executors.job import Result

OnEvent = Callable[[Mapping[str, Any]], None]


class Executor(Protocol):
    """Runs the job in a folder. A protocol: other packages implement it."""

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Run the job described in ``folder`` and return how it ended.

        Args:
            folder: Holds ``job.json``; gets ``out/``, ``events.jsonl`` and ``result.json``.
            on_event: Called with every event as it arrives.

        Raises:
            Interrupted: The user pressed Ctrl-C; the worker is stopped.
        """
        ...

    def close(self) -> None:
        """Stop workers and give back what they hold."""
        ...
