"""Jobs in this very process: for debugging, and for tests that want one stack trace."""

from __future__ import annotations

import json
from pathlib import Path

from picual.executors.base import OnEvent
from picual.executors.job import Result
from picual.executors.worker import run_job


class InlineExecutor:
    """Runs each job where it is called. Memory is not watched: the driver would be the one to stop."""

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Run the job, then hand over its events."""
        events = folder / "events.jsonl"
        seen = events.stat().st_size if events.exists() else 0
        result = run_job(folder)
        with events.open(encoding="utf-8") as lines:
            lines.seek(seen)
            for line in lines:
                on_event(json.loads(line))
        return result

    def close(self) -> None:
        """Nothing is held."""
