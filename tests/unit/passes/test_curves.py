"""Curves from events, whole after a kill."""

from __future__ import annotations

import json
from pathlib import Path

from picual.passes.curves import curves_of


def test_a_killed_and_resumed_training_has_one_curve_and_the_later_value_of_a_step_done_twice(
    tmp_path: Path,
) -> None:
    events = [
        {"event": "loss", "step": 1, "loss": 3.0, "learning_rate": 1e-4},
        {"event": "progress", "step": "lora", "done": 1},
        {"event": "loss", "step": 2, "loss": 2.5, "learning_rate": None},
        {"event": "loss", "step": 1, "loss": 2.9, "learning_rate": 1e-4},
        {"event": "eval_loss", "step": 3, "eval_loss": 2.2},
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, events)) + '\n{"event": "lo')

    assert curves_of(file) == {
        "loss": [[1, 2.9], [2, 2.5]],
        "learning_rate": [[1, 1e-4]],
        "eval_loss": [[3, 2.2]],
    }
    assert curves_of(tmp_path / "absent.jsonl") == {}
