"""What a run shows while it works: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from picual.cli.render import number

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 10.0  # seconds between two plain lines of progress
Say = Callable[[str], None]


def listeners() -> tuple[Callable[[Mapping[str, Any]], None], ...]:
    """Return what listens to a run's events and shows them on stderr."""
    return (Bar() if sys.stderr.isatty() else Lines(),)


class Lines:
    """Plain lines: a step's start and end, and a sign of life every ten seconds."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._clock = Clock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Print one event, if it is worth a line."""
        if event["event"] != "progress":
            _milestone(event, lambda line: click.echo(line, err=True))
            return
        left = self._clock.left(event)
        if time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            ends = f", {duration(left)} left" if left is not None else ""
            click.echo(f"      {event['step']}: {_share(event):.0%} {event['note']}{ends}", err=True)


class Bar:
    """A bar for the work under way; the milestones scroll by above it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._clock = Clock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Move the bar, or print a milestone."""
        if event["event"] == "run" and event["status"] != "start":
            self._close()
            return
        progress = self._open()
        if event["event"] != "progress":
            _milestone(event, lambda line: progress.console.print(line, highlight=False, markup=False))
            return
        left = self._clock.left(event)
        progress.update(
            progress.task_ids[0], description=str(event["step"]), completed=_share(event), note=str(event["note"]),
            left=f"{duration(left)} left" if left is not None else "",
        )  # fmt: skip

    def _open(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (
                TextColumn("      {task.description}"), BarColumn(24), TaskProgressColumn(),
                TextColumn("{task.fields[note]}"), TextColumn("{task.fields[left]}"),
            )  # fmt: skip
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task("", total=1.0, note="", left="")
            self._progress.start()
        return self._progress

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Clock:
    """How long the work under way will take still, from the pace it kept so far."""

    def __init__(self) -> None:
        self._work = ""
        self._began = (0.0, 0.0)  # time and share at the first sign of this piece of work

    def left(self, event: Mapping[str, Any]) -> float | None:
        """Return seconds, or None before there is a pace to go by."""
        now, share = time.monotonic(), _share(event)
        if event["step"] != self._work or share < self._began[1]:
            self._work, self._began = event["step"], (now, share)
        since, before = self._began
        if share <= before or now - since < 1:
            return None
        return (now - since) / (share - before) * (1 - share)


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _milestone(event: Mapping[str, Any], say: Say) -> None:
    match event["event"]:
        case "step" if event["status"] == "start":
            say(f"[{event['number']}/{event['of']}] {event['step']}")
        case "step" if event["status"] == "done":
            how = "in the store already" if event["cached"] else f"{event['seconds']:.1f} s"
            say(f"      {event['step']}: {how}, {event['checks']} checks passed")
        case "trial" if event["status"] == "start":
            settings = ", ".join(
                f"{name.rpartition('.')[2]} {value}" for name, value in event["candidate"].items()
            )
            say(f"trial {event['number']} of {event['of']}" + (f": {settings}" if settings else ""))
        case "trial":
            say(f"      {_ending(event)}")
        case "submitted":
            say(f"      {event['step']}: job {event['job']} on {event['host']}")
        case "remote":
            say(f"      {event['step']}: {event['status']}")
        case "environment" if event["status"] == "start":
            say(f"      making the environment of {event['requirements']}")
        case "warning":
            say(f"warning: {event['path']}: {event['text']}")
        case "registered":
            how = "" if event["new"] else " already"
            say(f"      registered{how} as {event['name']}:{event['version']}")
        case "metric":
            say(f"      {event['metric']} of {event['stage']}: {number(event['value'])}")


def _ending(event: Mapping[str, Any]) -> str:
    if event["why"]:
        return f"{event['state']}: {event['why']}"
    return "best so far" if event["best"] else "not better" if event["feasible"] else "beyond a limit"


def _share(event: Mapping[str, Any]) -> float:
    return min(float(event["done"]) / max(float(event["total"]), 1e-9), 1.0)
