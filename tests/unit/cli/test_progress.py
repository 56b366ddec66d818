from __future__ import annotations

from typing import Any

import pytest

from picual.cli import progress
from picual.cli.progress import Bar, Clock, Lines, duration


def event(step: str, done: float, total: float = 10) -> dict[str, Any]:
    return {"event": "progress", "step": step, "done": done, "total": total, "note": "loss 1.0"}


def test_the_time_left_follows_the_pace_of_this_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    clock = Clock()

    assert clock.left(event("lora", 4)) is None  # resumed at 40 %: no pace yet
    now = 130.0
    assert clock.left(event("lora", 7)) == pytest.approx(30)
    now = 131.0
    assert clock.left(event("merge", 1)) is None


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (125, "2 min 05 s"), (7320, "2 h 02 min")])
def test_durations_read_like_a_clock(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lines_are_plain_and_sparse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = Lines()
    lines({"event": "step", "status": "start", "step": "lora", "number": 1, "of": 3})
    for second in range(30):
        now = float(second)
        lines(event("lora", second / 3))
    lines({"event": "step", "status": "done", "step": "lora", "cached": False, "seconds": 3.0, "checks": 4})

    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "[1/3] lora"
    assert len([line for line in shown if "%" in line]) == 2
    assert "left" in shown[1]
    assert shown[-1].endswith("3.0 s, 4 checks passed")


def test_a_trial_is_named_by_its_settings_if_it_has_any(capsys: pytest.CaptureFixture[str]) -> None:
    for candidate in ({}, {"quantize.bits": 4}):
        Lines()({"event": "trial", "status": "start", "number": 1, "of": 2, "candidate": candidate})

    assert capsys.readouterr().err.splitlines() == ["trial 1 of 2", "trial 1 of 2: bits 4"]


def test_a_bar_moves_and_ends_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar({"event": "run", "status": "start", "steps": []})
    bar(event("lora", 5))
    bar({"event": "metric", "metric": "size", "stage": "final", "value": 1.5})
    bar({"event": "run", "status": "verified", "seconds": 1.0})

    assert "size of final: 1.5" in capsys.readouterr().err
