"""Events that another process appends to a file: each once, whole, whatever a machine left that lost its power."""

from __future__ import annotations

import json
from pathlib import Path

from picual.executors.events import Tail, is_event
from picual.executors.node import _events
from picual.executors.share import FolderShare


def test_half_a_line_of_a_node_that_is_gone_spoils_no_other(tmp_path: Path) -> None:
    share = FolderShare(tmp_path)
    file = tmp_path / "jobs" / "name" / "events.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"event": "progress", "done": 1}\n{"event": "prog')

    with _events(share, "name") as append:
        append({"event": "progress", "done": 2})

    seen: list[int] = []
    Tail(file).hand_over(lambda event: seen.append(event["done"]))
    assert seen == [1, 2]
    lines = file.read_text().splitlines(keepends=True)
    assert [json.loads(line)["done"] for line in lines if is_event(line)] == [1, 2]


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    tail, seen = Tail(file), []
    file.write_text('{"done": 1}\n{"do')
    tail.hand_over(seen.append)
    with file.open("a") as stream:
        stream.write('ne": 2}\n')

    tail.hand_over(seen.append)

    assert seen == [{"done": 1}, {"done": 2}]
