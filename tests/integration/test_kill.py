"""kill -9 of driver and worker at random instants: the same command goes on, to the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.parametrize(("times", "options"), [(3, []), (1, ["--search"]), (1, ["--quantize"])])
def test_kills_cost_nothing_that_was_finished(times: int, options: list[str]) -> None:
    command = [sys.executable, SCRIPT, "--times", str(times), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    assert ended.stdout.count("same bytes") == times
