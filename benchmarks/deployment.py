"""Does what was trained survive to int4: accuracy and divergence on a tone task, over several seeds, in pairs.

    python benchmarks/deployment.py MODEL ROWS.jsonl [--seeds 4] [--epochs 2] [--quantize '{"effort": "balanced"}']
        [--train 120] [--ways lora qlora integers]

ROWS hold ``phrase`` and ``tone``; each seed trains on others, two thirds or as many as asked, and is tested on
the rest. Three ways:

* LoRA, merged, quantized: against the live float32 adapter.
* QLoRA (nf4), merged onto the base as it was trained and onto the original one, quantized: against its live one.
* LoRA on integers (quantized first): deployed as integers and adapter, and merged and quantized again.

Accuracy: the share of rows whose tone's first token is the likeliest of the four. Divergence: the mean KL of the
deployed model from the live one in nats, over the positions that training learnt, and over all. Every deployed
model is run by ONNX Runtime, and calibrated on the rows it was trained on. Differences are taken row by row; the
interval is Student's t, 95 %, over the seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from watched import watched

from picual.data.base import fill
from picual.hardware import machine
from picual.models import HfAdapter, HfModel, Model, QuantizedHfModel
from picual.models.detect import open_folder
from picual.models.session import open_session
from picual.numerics.divergence import Divergence

PROMPT, RESPONSE = "Phrase: {phrase}\nTone (joy, sadness, fear or surprise):", " {tone}<|im_end|>"
TONES = ("joy", "sadness", "fear", "surprise")
MERGE: dict[str, Any] = {"merge-adapter": {}}
EXPORT: dict[str, Any] = {"build-genai": {}}
FORM = {"rank": 16, "alpha": 32}
TRAINING = {
    "per_device_train_batch_size": 8, "learning_rate": 8e-4, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Rows of one seed in files."""

    train: Path
    test: list[dict[str, Any]]


@dataclass
class Seen:
    """One model on the test rows."""

    accuracy: float
    logits: list[Any]
    learnt: list[int]  # for each row the first position whose next token was learnt


@dataclass(frozen=True)
class Lost:
    """What a deployed model loses on the live one."""

    points: float  # of accuracy gained, %
    learnt: float  # mean KL over positions that were learnt, nats
    everywhere: float


def main() -> None:
    """Go through the seeds and print what each way loses."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", type=Path)
    asked.add_argument("rows", type=Path)
    asked.add_argument("--seeds", type=int, default=4)
    asked.add_argument("--epochs", type=int, default=2)
    asked.add_argument("--train", type=int, help="rows to train on; left out: two thirds")
    asked.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    asked.add_argument("--quantize", type=json.loads, default={"effort": "balanced", "data": "rows"})
    given = asked.parse_args()
    found: dict[str, list[Lost]] = {}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows = split(given.rows, seed, Path(folder), given.train)
            run = Runs(given, seed, rows, Path(folder))
            for name, lost in (one for way in given.ways for one in WAYS[way](run)):
                found.setdefault(name, []).append(lost)
                print(f"seed {seed}, {len(rows.test)} rows: {name}: {lost.points:+.2f} points, "
                      f"KL {lost.learnt:.2e}, over all positions {lost.everywhere:.2e}", flush=True)  # fmt: skip
    for name, values in found.items():
        print(
            f"{name}: {interval([lost.points for lost in values])} points, "
            f"KL {interval([lost.learnt for lost in values], '.4f')}, "
            f"over all positions {interval([lost.everywhere for lost in values], '.4f')}"
        )


class Runs:
    """Recipes of one seed, over one store."""

    def __init__(self, given: Any, seed: int, rows: Rows, place: Path) -> None:
        self._given, self._seed, self._rows, self._place = given, seed, rows, place
        self.model: Path = given.model
        self.quantize: dict[str, Any] = {"quantize": given.quantize}

    def training(self) -> dict[str, Any]:
        """Return the fields of a training pass."""
        return {"data": "rows", **FORM, "training": {**TRAINING, "num_train_epochs": self._given.epochs}}

    def of(self, passes: dict[str, Any]) -> Path:
        """Run a recipe and return the folder of its model."""
        out = self._place / f"out-{len(list(self._place.glob('out-*')))}"
        data = {"rows": {"files": [str(self._rows.train)], "prompt": PROMPT, "response": RESPONSE}}
        recipe = {
            "version": 1, "model": str(self._given.model.resolve()), "data": data, "passes": passes,
            "seed": self._seed,
        }  # fmt: skip
        file = self._place / "recipe.json"
        file.write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "picual.cli.main", "run", str(file), "-o", str(out)]
        watched([*command, "--store", str(self._place / "store")])
        return out / "model"

    def against(self, live: Seen, passes: dict[str, Any]) -> Lost:
        """Return points of accuracy over the live model, and the divergence from it."""
        found = self.seen(open_folder(self.of(passes)))
        learnt, everywhere = Divergence(), Divergence()
        for expected, logits, first in zip(live.logits, found.logits, live.learnt, strict=True):
            everywhere.add(expected, logits)
            learnt.add(expected[first:-1], logits[first:-1])
        return Lost(100 * (found.accuracy - live.accuracy), learnt.mean_kl, everywhere.mean_kl)

    def seen(self, model: Model) -> Seen:
        """Return a model's accuracy and its logits on every test row."""
        session = open_session(model, threads=machine().cores)
        classes = [session.encode(f" {tone}")[0] for tone in TONES]
        right, kept, learnt = 0, [], []
        for row in self._rows.test:
            ids = session.encode(fill(PROMPT, row))
            logits = np.asarray(session.logits(np.asarray(ids + session.encode(fill(RESPONSE, row)))), np.float32)
            right += TONES[int(np.argmax(logits[len(ids) - 1, classes]))] == row["tone"]
            kept.append(logits)
            learnt.append(len(ids) - 1)
        session.close()
        return Seen(right / len(self._rows.test), kept, learnt)


Ways = Iterator[tuple[str, Lost]]


def lora(run: Runs) -> Ways:
    """Yield what merging and int4 take from a LoRA adapter."""
    trained: dict[str, Any] = {"lora": run.training()}
    live = run.seen(HfAdapter(run.of(trained), HfModel(run.model)))
    yield "LoRA, merged, int4", run.against(live, trained | MERGE | run.quantize | EXPORT)


def qlora(run: Runs) -> Ways:
    """Yield what int4 takes from a QLoRA adapter merged onto the base as it was trained, and as it was before."""
    trained: dict[str, Any] = {"qlora": run.training()}
    original = {"merge-adapter": {"base": "original"}}
    live = run.seen(HfAdapter(run.of(trained), HfModel(run.model)))
    yield "QLoRA, merged as trained, int4", run.against(live, trained | MERGE | run.quantize | EXPORT)
    yield "QLoRA, merged on the original, int4", run.against(live, trained | original | run.quantize | EXPORT)


def integers(run: Runs) -> Ways:
    """Yield what deployment takes from an adapter that was trained on the integers that are deployed."""
    trained: dict[str, Any] = {**run.quantize, "lora": run.training()}
    live = run.seen(HfAdapter(run.of(trained), QuantizedHfModel(run.of(run.quantize))))
    exact = {"build-genai": {"accuracy_level": 0}}
    again = {"again": {"type": "quantize", **run.quantize["quantize"]}}
    yield "LoRA on integers, deployed, level 0", run.against(live, trained | exact)
    yield "LoRA on integers, deployed, level 4", run.against(live, trained | EXPORT)
    yield "LoRA on integers, merged, quantized again", run.against(live, trained | MERGE | again | EXPORT)


WAYS: dict[str, Callable[[Runs], Ways]] = {"lora": lora, "qlora": qlora, "integers": integers}


def split(file: Path, seed: int, place: Path, count: int | None) -> Rows:
    """Train on ``count`` rows, or two thirds, drawn by the seed; the rest is kept from training."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["tone"] in TONES]
    random.Random(seed).shuffle(rows)
    count = len(rows) - len(rows) // 3 if count is None else count
    train = place / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), encoding="utf-8")
    return Rows(train, rows[count:])


def interval(values: Sequence[float], form: str = "+.2f") -> str:
    """Return mean and 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{form}} ({mean - half:{form}} to {mean + half:{form}})"


if __name__ == "__main__":
    main()
