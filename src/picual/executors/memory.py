"""How much memory a process tree holds, looked at from outside."""

from __future__ import annotations

from pathlib import Path

import psutil


def tree_memory(pid: int) -> tuple[int, int]:
    """Return (resident, anonymous) bytes of a process and all its children.

    Anonymous pages are what cannot be dropped: a memory-mapped checkpoint is resident but free to go, so
    only the anonymous count says how close to the edge a step is. Where the system does not tell them apart
    (outside Linux), both are the resident size.
    """
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    sizes = [_one(process.pid) for process in processes]
    return sum(resident for resident, _ in sizes), sum(anonymous for _, anonymous in sizes)


def _one(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}/status")
    try:
        if not status.exists():
            resident = int(psutil.Process(pid).memory_info().rss)
            return resident, resident
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    except (OSError, psutil.NoSuchProcess):
        return 0, 0  # it ended between two looks
    return _kilobytes(fields.get("VmRSS")), _kilobytes(fields.get("RssAnon"))


def _kilobytes(field: str | None) -> int:
    return int(field.split()[0]) * 1024 if field else 0
