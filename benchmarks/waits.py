"""How long a user waits for what should be instant, each against its limit; ends with 1 when one is missed.

    python benchmarks/waits.py

Nothing else should run meanwhile. The 135M model is fetched once into the default store; the rest is temporary.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from picual import api
from picual.testing import phi3_mini

PICUAL = [sys.executable, "-m", "picual.cli.main"]
REPEATS = 5


def main() -> None:
    """Time each command, and compare its median with the limit."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(64)))
        big = recipe(place, "big", str(phi3_mini.write(place / "phi3-mini")), {"lora": {"data": "rows"}})
        small = recipe(place, "small", str(api.fetch("smollm2-135m")), {})
        subprocess.run([*PICUAL, *run_of(small, place)], check=True, capture_output=True)
        limits = [
            ("picual --help", 0.3, ["--help"], 0),
            ("plan of Phi-3-mini", 2.0, ["plan", str(big), "--store", str(place / "store")], None),
            ("plan of the 135M", 2.0, ["plan", *run_of(small, place)[1:]], 0),
            ("second run of the 135M", 2.0, run_of(small, place), 0),
        ]
        missed = [name for name, limit, words, code in limits if not within(name, limit, words, code)]
    sys.exit(f"over the limit: {', '.join(missed)}" if missed else 0)


def recipe(place: Path, name: str, model: str, passes: dict[str, object]) -> Path:
    """Write a recipe: what comes first, a merge where an adapter is made, and an int4 export."""
    steps = {**passes, **({"merge-adapter": {}} if passes else {}), "build-genai": {"precision": "int4"}}
    data = {"rows": {"files": "rows.jsonl", "text": "text", "max_length": 128}}
    file = place / f"{name}.json"
    file.write_text(json.dumps({"version": 1, "model": model, "data": data, "passes": steps}))
    return file


def run_of(file: Path, place: Path) -> list[str]:
    """Return the words of the run of a recipe."""
    return ["run", str(file), "-o", str(place / "out"), "--store", str(place / "store")]


def within(name: str, limit: float, words: list[str], code: int | None) -> bool:
    """Time a command, print its median, and say whether it keeps the limit."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ended = subprocess.run([*PICUAL, *words], capture_output=True, check=False)
        seconds.append(time.perf_counter() - began)
        if code is not None and ended.returncode != code:
            sys.exit(f"{name}: exit {ended.returncode}\n{ended.stderr.decode()[-2000:]}")
    median = statistics.median(seconds)
    print(f"{name:24} {median:5.2f} s of {limit:.1f} s: {median / limit:.2f}", flush=True)
    return median <= limit


if __name__ == "__main__":
    main()
