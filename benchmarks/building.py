"""What a data-free int4 build takes, in turn with ONNX Runtime GenAI's own builder: seconds and memory.

    python benchmarks/building.py MODEL [--rounds 3] [--fields '{"precision": "int4"}']

Each is a whole process; memory is the anonymous resident memory of its process tree, sampled from outside. Ours is
``picual run`` with an empty store but for the graph without weights, so its verification is in the whole; the
build step alone is what the report says of it. Before the rounds ours runs with an empty store: truly cold, for
which there is no limit. Ends with 1 where one is missed. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from watched import Taken, watched

from picual.store.local import Store

STEP, WHOLE, MEMORY = 0.6, 1.3, 0.35  # largest shares of the peer's


def main() -> None:
    """Run both in turn and compare."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", type=Path)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--fields", type=json.loads, default={"precision": "int4"}, help="Of build-genai, as JSON.")
    given = asked.parse_args()
    steps, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cold, _ = build(given.model, given.fields, place)
        print(f"truly cold: {cold.seconds:.1f} s", flush=True)
        for number in range(given.rounds):
            theirs.append(peer(given.model, place))
            forget_all_but_graphs(place / "store")
            whole, step = build(given.model, given.fields, place)
            ours.append(whole)
            steps.append(step)
            print(
                f"{number + 1}: theirs {theirs[-1].seconds:.1f} s, {theirs[-1].memory / 1e6:.0f} MB; our build "
                f"step {step:.1f} s, with verification {whole.seconds:.1f} s, {whole.memory / 1e6:.0f} MB",
                flush=True,
            )
    rows = [
        (
            "build step, seconds",
            statistics.median(s / t.seconds for s, t in zip(steps, theirs, strict=True)),
            STEP,
        ),
        (
            "whole, seconds",
            statistics.median(o.seconds / t.seconds for o, t in zip(ours, theirs, strict=True)),
            WHOLE,
        ),
        ("whole, memory", max(one.memory for one in ours) / min(one.memory for one in theirs), MEMORY),
    ]
    for name, ratio, most in rows:
        print(f"{name}: x{ratio:.2f} of theirs, at most {most}: {'held' if ratio <= most else 'missed'}")
    sys.exit(1 if any(ratio > most for _, ratio, most in rows) else 0)


def peer(model: Path, place: Path) -> Taken:
    """Build with the runtime's own builder, its defaults for int4 on a CPU."""
    out = place / "peer"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(out)]
    return made([*command, "-p", "int4", "-e", "cpu", "-c", str(place / "cache")], out / "model.onnx")


def build(model: Path, fields: dict[str, Any], place: Path) -> tuple[Taken, float]:
    """Build with ours; return the whole process and the seconds of the build step."""
    recipe = place / "recipe.json"
    passes = {"build-genai": fields}
    recipe.write_text(json.dumps({"version": 1, "model": str(model.resolve()), "passes": passes}))
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "picual.cli.main", "run", str(recipe), "-o", str(out)]
    taken = made([*command, "--store", str(place / "store")], out / "model" / "model.onnx")
    report = json.loads((out / "report.json").read_text())
    return taken, sum(step["seconds"] for step in report["steps"])


def made(command: list[str], file: Path) -> Taken:
    """Run a command to its end, which must have made a file."""
    taken = watched(command)
    if not file.exists():
        sys.exit(f"{' '.join(command)} made no {file.name}:\n{taken.printed[-4000:]}")
    return taken


def forget_all_but_graphs(store: Path) -> None:
    """Leave only what `prepare` made in a store."""
    for entry in Store(store).entries():
        if not entry.manifest.label.startswith("prepare "):
            shutil.rmtree(entry.folder)
    (store / "digests.jsonl").unlink(missing_ok=True)  # so that the model is hashed again


if __name__ == "__main__":
    main()
