"""A training that is killed, at an instant nobody chose, and started again ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from picual import fingerprint
from picual.data.base import DataConfig
from picual.models import HfModel
from picual.passes.finetune import checkpoints
from picual.passes.finetune.lora import Lora
from picual.space import Settings, values_of

# Runs one pass from its wire form and appends a line to a file at each step, as a worker does.
WORKER = """
import json, sys, time
from pathlib import Path
from picual.passes import task
folder = Path(sys.argv[1])
log = (folder / "log").open("a")
def on_event(name, values):
    log.write(json.dumps([name, dict(values)]) + "\\n")
    log.flush()
    if name == "progress":
        time.sleep(0.02)  # a tiny model would be done before anybody could kill it
payload = json.loads((folder / "payload.json").read_text())
value = task.run(payload, folder=folder, seed=7, threads=1, on_event=on_event)
(folder / "value.json").write_text(json.dumps(value))
"""


def prepare(folder: Path, model: HfModel, data: DataConfig, training: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    a_pass = Lora(data="tones", rank=4, dropout=0.3, dtype="float32", training=Settings(training))
    payload = {
        "pass": "lora", "fields": values_of(a_pass), "model": model.to_wire(), "data": {"tones": data.to_wire()},
    }  # fmt: skip
    (folder / "payload.json").write_text(json.dumps(payload))
    (folder / "log").write_text("")
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "errors").open("ab") as errors:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], stderr=errors, env=environment)


def finish(folder: Path) -> dict[str, Any]:
    worker = start(folder)
    assert worker.wait(120) == 0, (folder / "errors").read_text()
    value: dict[str, Any] = json.loads((folder / "value.json").read_text())
    return value


def kill_after(folder: Path, steps: int, seconds: float) -> None:
    """Start the worker and kill it some time after so many signs of life."""
    worker = start(folder)
    while (folder / "log").read_text().count("\n") < steps:
        assert worker.poll() is None, (folder / "errors").read_text()
        time.sleep(0.005)
    time.sleep(seconds)
    worker.send_signal(signal.SIGKILL)
    worker.wait()


def bytes_of(folder: Path) -> dict[str, str]:
    out = folder / "out"
    return {file.name: fingerprint.file_digest(file) for file in fingerprint.files_under(out)}


TRAININGS: dict[str, dict[str, Any]] = {
    "grouped by length, several batches a step": {
        "num_train_epochs": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "group_by_length": True, "save_steps": 2, "learning_rate": 1e-2, "warmup_ratio": 0.2,
    },
    "a learning rate that follows the evaluation of each epoch": {
        "num_train_epochs": 6, "per_device_train_batch_size": 4, "eval_strategy": "epoch", "save_steps": 1,
        "learning_rate": 0.3, "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0}, "load_best_model_at_end": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(TRAININGS))
def test_a_killed_training_goes_on_to_the_same_bytes(
    name: str, llama: HfModel, tones: DataConfig, tmp_path: Path
) -> None:
    seed = int(os.environ.get("PICUAL_KILL_SEED", str(time.time_ns() % 10_000)))
    dice = random.Random(seed)
    whole = prepare(tmp_path / "whole", llama, tones, TRAININGS[name])
    expected = finish(whole)

    broken = prepare(tmp_path / "broken", llama, tones, TRAININGS[name])
    for kills in range(6):  # an instant before the first checkpoint leaves nothing to resume: try later ones too
        if kills >= 2 and '"resumed"' in (broken / "log").read_text():
            break
        start = 2 + 3 * max(0, kills - 1)
        kill_after(
            broken, (broken / "log").read_text().count("\n") + dice.randint(start, start + 12), dice.random() * 0.2
        )
    found = finish(broken)

    assert bytes_of(broken) == bytes_of(whole), f"seed {seed}"
    for key in ("train_loss", "eval_loss", "steps"):
        assert found["metrics"].get(key) == pytest.approx(expected["metrics"].get(key), rel=1e-12), f"seed {seed}"
    log = [json.loads(line) for line in (broken / "log").read_text().splitlines()]
    assert any(event == "resumed" for event, _ in log), f"seed {seed}: nothing was resumed"


def test_half_a_checkpoint_is_passed_over(llama: HfModel, tones: DataConfig, tmp_path: Path) -> None:
    training = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 4}
    whole = prepare(tmp_path / "whole", llama, tones, training)
    finish(whole)
    scratch = whole / "scratch"
    last = scratch / "checkpoint-6"
    optimizer = (last / "optimizer.pt").read_bytes()
    (last / "optimizer.pt").write_bytes(optimizer[: len(optimizer) // 2])

    broken = prepare(tmp_path / "broken", llama, tones, training)
    scratch.rename(broken / "scratch")
    finish(broken)

    assert bytes_of(broken) == bytes_of(whole)
    log = [json.loads(line) for line in (broken / "log").read_text().splitlines()]
    assert [values["step"] for event, values in log if event == "resumed"] == [4]
    assert checkpoints.newest(broken / "scratch") == broken / "scratch" / "checkpoint-6"
