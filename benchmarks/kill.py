"""Kill a run at random instants, driver or worker, and continue it: nothing finished is repeated, no byte differs.

    python benchmarks/kill.py --times 20
    python benchmarks/kill.py --times 10 --search      a search: no finished trial again, the same winner
    python benchmarks/kill.py --times 20 --quantize    in the quantizer: no finished layer again

Prints one line a kill and ends with 1 at the first difference. The seed is printed: give it again with --seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from picual.executors.worker import PARENT_POLL
from picual.testing.tiny import tiny_model

ROWS = 24
STEPS = 60
LAYERS = 8  # of the model to quantize
MEASURING = "measuring what each layer can bear"  # as the quantizer's progress says it
PICUAL = [sys.executable, "-m", "picual.cli.main"]


def main() -> None:
    """Run once unbroken, then as often as asked with a kill in the middle."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--times", type=int, default=20)
    asked.add_argument("--search", action="store_true")
    asked.add_argument("--quantize", choices=("balanced", "fast"), nargs="?", const="balanced")
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = asked.parse_args()
    chance = random.Random(given.seed)
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.quantize:
            recipe = write_quantizing(Path(folder), given.quantize)
        else:
            recipe = write_recipe(Path(folder), search=given.search)
        whole = Path(folder) / "whole"
        began = time.monotonic()
        finish(recipe, whole)
        seconds = time.monotonic() - began
        print(f"unbroken: {seconds:.1f} s", flush=True)
        for number in range(given.times):
            whom = ("driver", "worker")[number % 2]
            if given.quantize:
                told = kill_quantizer(recipe, Path(folder), whole, whom, chance)
            else:
                told = kill_once(recipe, Path(folder), whole, whom, chance.uniform(0.3, seconds))
            print(f"{number + 1}: {told}", flush=True)


def write_recipe(folder: Path, *, search: bool) -> Path:
    """Write a tiny model, its data and the recipe, and return the recipe's file."""
    model = tiny_model(folder / "model")
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "line {n} of a tiny set"}}\n' for n in range(ROWS)))
    training = {"max_steps": STEPS, "per_device_train_batch_size": 2, "save_steps": 5}
    recipe = {
        "version": 1,
        "model": str(model.path),
        "data": {"rows": {"files": "rows.jsonl", "text": "text", "max_length": 64}},
        "passes": {
            "lora": {"data": "rows", "rank": 4, "dropout": 0.1, "dtype": "float32", "training": training},
            "merge-adapter": {},
            "build-genai": {"precision": "int4"},
        },
        "metrics": {"size": {}},
        "threads": 1,
    }
    if search:
        recipe |= {
            "passes": {
                "lora": {"data": "rows", "rank": {"search": [4, 2]}, "dtype": "float32", "training": training},
                "merge-adapter": {},
                "build-genai": {
                    "precision": "int4", "block": {"search": [32, 16]}, "symmetric": {"search": [False, True]},
                },
            },
            "metrics": {"divergence": {"windows": 2, "length": 64}},
            "search": {"minimize": "divergence", "trials": 5},
        }  # fmt: skip
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe))
    return file


def write_quantizing(folder: Path, effort: str) -> Path:
    """Write a tiny model of some layers, a text and the recipe that quantizes it, and return the recipe's file."""
    model = tiny_model(folder / "model", layers=LAYERS)
    (folder / "text.txt").write_text("".join(f"Line {n} of a text says {n * n}.\n" for n in range(300)))
    fields = {"effort": effort, "bits_per_weight": 6.0}
    recipe = {
        "version": 1,
        "model": str(model.path),
        "data": {"text": {"files": "text.txt"}},
        "passes": {
            "quantize": fields if effort == "fast" else {**fields, "data": "text"},
            "build-genai": {},
        },
        "threads": 1,
    }
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe))
    return file


def kill_once(recipe: Path, folder: Path, whole: Path, whom: str, instant: float) -> str:
    """Start a run, kill it, continue it, compare; return what happened in one line."""
    place = Path(tempfile.mkdtemp(dir=folder))
    run = start(recipe, place)
    time.sleep(instant)
    killed = kill(run, whom)
    run.wait()
    kept = go_on(recipe, place, whole, f"the {whom} was killed at {instant:.2f} s")
    return f"{whom} killed at {instant:.2f} s ({killed}), {kept} pieces of work were kept, same bytes"


def kill_quantizer(recipe: Path, folder: Path, whole: Path, whom: str, chance: random.Random) -> str:
    """Do the same some time after one of the quantizer's words: loading libraries takes longer than its work."""
    place = Path(tempfile.mkdtemp(dir=folder))
    said = progress(whole)
    measuring = sum(event["note"] == MEASURING for event in said)
    word = chance.randint(chance.choice((1, measuring + 1)), len(said))  # measuring has more words than rounding
    late = chance.uniform(0, 2 * (said[-1]["time"] - said[0]["time"]) / len(said))
    after = f"the {whom} was killed {late:.2f} s after word {word} of {len(said)}"
    run = start(recipe, place)
    while len(progress(place)) < word and run.poll() is None:
        time.sleep(0.01)
    time.sleep(late)
    killed = kill(run, whom)
    run.wait()
    time.sleep(2 * PARENT_POLL)  # a worker whose driver was killed goes on until it looks
    layers, costs = finished_layers(place), any((place / "store").glob("**/scratch/costs.json"))
    kept = go_on(recipe, place, whole, after)
    again = [name for name, written in layers.items() if layers_of_result(place)[name] != written]
    if again:
        sys.exit(f"written again after {after}: {again}")
    if costs and any(event["note"] == MEASURING for event in progress(place)):
        sys.exit(f"measured again after {after}")
    measured = ", what was measured" if costs else ""
    return (
        f"{after.removeprefix('the ')} ({killed}), {kept} pieces of work, {len(layers)} files{measured} were kept,"
        " same bytes"
    )


def go_on(recipe: Path, place: Path, whole: Path, after: str) -> int:
    """Continue a killed run and compare it with the unbroken one; return how many pieces of work it found done."""
    before = finished(place)
    finish(recipe, place)
    now = finished(place)
    repeated = [key for key, created in before.items() if now.get(key) != created]
    if repeated:
        sys.exit(f"done again after {after}: {repeated}")
    if trials(place) != trials(whole):
        sys.exit(f"other trials after {after}: {trials(place)}, not {trials(whole)}")
    different = [name for name, digest in digests(whole).items() if digests(place).get(name) != digest]
    if different:
        sys.exit(f"other bytes after {after}: {different}")
    return len(before)


def start(recipe: Path, place: Path) -> subprocess.Popen[bytes]:
    """Start the command."""
    command = [*PICUAL, "run", str(recipe), "-o", str(place / "out"), "--store", str(place / "store")]
    place.mkdir(exist_ok=True)
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(recipe: Path, place: Path) -> None:
    """Run the command to its end, which must be a success."""
    run = start(recipe, place)
    if run.wait() != 0:
        sys.exit(f"exit {run.returncode}:\n{(place / 'log.txt').read_text()[-4000:]}")


def kill(run: subprocess.Popen[bytes], whom: str) -> str:
    """Kill the driver, or its worker if there is one yet."""
    workers = psutil.Process(run.pid).children() if run.poll() is None else []
    if run.poll() is not None:
        return "it had finished"
    if whom == "worker" and workers:
        workers[0].send_signal(signal.SIGKILL)
        return "worker"
    run.kill()
    return "driver"


def finished(place: Path) -> dict[str, str]:
    """Return when each piece of work in the store was finished, by key."""
    files = (place / "store" / "entries").glob("v*/*/[!.]*/manifest.json")  # a dot: not published yet
    manifests = [json.loads(file.read_text()) for file in files]
    return {f"{found['label']} {found['key']}": found["created"] for found in manifests}


def finished_layers(place: Path) -> dict[str, int]:
    """Return when each file of an interrupted quantizer that is whole was written, by name."""
    records = (place / "store").glob("**/scratch/*.safetensors.done.json")
    files = [record.with_name(record.name.removesuffix(".done.json")) for record in records]
    return {file.name: file.stat().st_mtime_ns for file in files}


def layers_of_result(place: Path) -> dict[str, int]:
    """Return when each file of the quantized checkpoint was written, by name."""
    (description,) = (place / "store" / "entries").glob("v*/*/[!.]*/content/quantization.json")
    return {file.name: file.stat().st_mtime_ns for file in description.parent.glob("*.safetensors")}


def events(place: Path) -> list[dict[str, Any]]:
    """Return what happened in the last run there."""
    file = place / "out" / "run" / "events.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    starts = [number for number, event in enumerate(found) if event["event"] == "run" and "steps" in event]
    return found[starts[-1] :] if starts else []


def progress(place: Path) -> list[dict[str, Any]]:
    """Return what the quantizer said of its progress in the last run there."""
    return [event for event in events(place) if event["event"] == "progress" and event["step"] == "quantize"]


def trials(place: Path) -> list[tuple[int, str, str]]:
    """Return number, state and candidate of each trial, best first; none without a search."""
    report = json.loads((place / "out" / "report.json").read_text())
    return [(one["number"], one["state"], json.dumps(one["candidate"])) for one in report["trials"]]


def digests(place: Path) -> dict[str, str]:
    """Return the digest of each file of the finished model."""
    model = place / "out" / "model"
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(model.iterdir())}


if __name__ == "__main__":
    main()
