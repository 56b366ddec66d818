"""What a Ray worker calls. It imports nothing but the standard library: Picual's code comes with the job.

Ray gets these functions by value, so a node needs Ray, Python and the libraries of the passes, not Picual.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any


def work(share: str, name: str, code: str, cache: str | None, offline: bool) -> int:
    """Run one job of the share in a process of its own; return its exit code, or minus the signal that ended it.

    The process stays for the next job of this Ray worker: what it has imported is imported once.
    """
    served = _served(share, code, cache, offline)
    try:
        served.stdin.write(f"{name}\n")
        served.stdin.flush()
        answer = served.stdout.readline()
    except BrokenPipeError:
        answer = ""
    return int(answer) if answer else served.wait()


def _served(share: str, code: str, cache: str | None, offline: bool) -> Any:
    # These functions arrive by value, so they have no module of their own to keep things in between two calls.
    kept = sys.modules.setdefault("_picual_served", types.ModuleType("_picual_served")).__dict__
    key = f"{share}|{code}|{cache}|{offline}"
    if key not in kept or kept[key].poll() is not None:
        kept[key] = _start(share, code, cache, offline)
    return kept[key]


def _start(share: str, code: str, cache: str | None, offline: bool) -> Any:
    environment = {**os.environ, "PYTHONPATH": code}
    if offline:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-m", "picual.executors.node", share]
    command += [] if cache is None else ["--cache", cache]
    with (Path(share) / "nodes.txt").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )


def look(share: str, token: str) -> dict[str, str]:
    """Return what this node is: its Python, and whether it sees the share."""
    seen = Path(share) / token
    return {
        "python": platform.python_version(), "node": platform.node(),
        "sees": "yes" if seen.is_file() and os.access(seen.parent, os.W_OK) else "",
    }  # fmt: skip


def name_of(code: int) -> str:
    """Return how a process ended, in words."""
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
