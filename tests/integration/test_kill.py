"""kill -9 of driver and worker at random instants: the same command goes on, to the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.mark.parametrize("options", [[], ["--search"], ["--quantize"]])
def test_three_kills_cost_nothing_that_was_finished(options: list[str]) -> None:
    command = [sys.executable, SCRIPT, "--times", "3", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    assert ended.stdout.count("same bytes") == 3
