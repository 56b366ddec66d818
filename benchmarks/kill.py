"""Kill a run at random instants, driver or worker, and continue it: nothing finished is repeated, no byte differs.

    python benchmarks/kill.py --times 20
    python benchmarks/kill.py --times 10 --search      a search: no finished trial again, the same winner

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

import psutil

from picual.testing.tiny import tiny_model

ROWS = 24
STEPS = 60
PICUAL = [sys.executable, "-m", "picual.cli.main"]


def main() -> None:
    """Run once unbroken, then as often as asked with a kill in the middle."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--times", type=int, default=20)
    asked.add_argument("--search", action="store_true")
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = asked.parse_args()
    chance = random.Random(given.seed)
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder), search=given.search)
        whole = Path(folder) / "whole"
        began = time.monotonic()
        finish(recipe, whole)
        seconds = time.monotonic() - began
        print(f"unbroken: {seconds:.1f} s", flush=True)
        for number in range(given.times):
            whom = ("driver", "worker")[number % 2]
            print(f"{number + 1}: {kill_once(recipe, Path(folder), whole, whom, seconds, chance)}", flush=True)


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


def kill_once(recipe: Path, folder: Path, whole: Path, whom: str, seconds: float, chance: random.Random) -> str:
    """Start a run, kill it, continue it, compare; return what happened in one line."""
    place = Path(tempfile.mkdtemp(dir=folder))
    run = start(recipe, place)
    instant = chance.uniform(0.3, seconds)
    time.sleep(instant)
    killed = kill(run, whom)
    run.wait()
    before = finished(place)
    finish(recipe, place)
    after = finished(place)
    repeated = [key for key, created in before.items() if after.get(key) != created]
    if repeated:
        sys.exit(f"done again after the {whom} was killed at {instant:.2f} s: {repeated}")
    if trials(place) != trials(whole):
        sys.exit(
            f"other trials after the {whom} was killed at {instant:.2f} s: {trials(place)}, not {trials(whole)}"
        )
    different = [name for name, digest in digests(whole).items() if digests(place).get(name) != digest]
    if different:
        sys.exit(f"other bytes after the {whom} was killed at {instant:.2f} s: {different}")
    return f"{whom} killed at {instant:.2f} s ({killed}), {len(before)} pieces of work were kept, same bytes"


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
