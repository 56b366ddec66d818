"""What happened, one JSON line at a time: to the run's folder, and to whoever shows it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Listener = Callable[[Mapping[str, Any]], None]

DURABLE = ("run", "trial")  # whose end must survive a power cut; what is said between them is in the store, too


class EventLog:
    """``events.jsonl`` of a run, appended to, and the listeners that see each event as it comes."""

    def __init__(self, file: Path, listeners: tuple[Listener, ...] = ()) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("a", encoding="utf-8")
        self._listeners = listeners
        self._lock = threading.Lock()  # trials may run beside each other

    def emit(self, name: str, /, **values: Any) -> None:
        """Record an event that happens now."""
        self.forward({"time": round(time.time(), 3), "event": name, **values})

    def forward(self, event: Mapping[str, Any]) -> None:
        """Record an event that a worker reported."""
        with self._lock:
            self._stream.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._stream.flush()
            if event["event"] in DURABLE and event.get("status") != "start":
                os.fsync(self._stream.fileno())
            for listener in self._listeners:
                listener(event)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
