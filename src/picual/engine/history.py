"""The runs this store has seen, one JSON line each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def record(root: Path, facts: dict[str, Any]) -> None:
    """Append a finished run; ``time`` is added."""
    with (root / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), **facts}, ensure_ascii=False) + "\n")


def runs(root: Path) -> list[dict[str, Any]]:
    """Return the recorded runs, oldest first; a line cut short by a crash is left out."""
    file = root / "runs.jsonl"
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
