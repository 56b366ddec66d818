"""Search against exhaustion: how near the winner comes, and what it costs, beside random search.

    python benchmarks/search.py table --model FOLDER      measure all 48 candidates (half an hour and more)
    python benchmarks/search.py compare                   replay samplers on a table (seconds)

The task is the tone example: LoRA of two ranks and two lengths, then int4 of three block sizes, symmetric or not,
with an int8 or int4 head. The objective is the divergence from the candidate's own unquantized model, which is the
same whenever it is taken; limits are the size and the accuracy. A replay runs the product's own loop, study and
sampler with the table in the place of the models, so that what it asks for is what a run would ask for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual import api
from picual.recipe import searching
from picual.search import ranking, samplers
from picual.search.loop import Loop
from picual.search.parameters import Candidate
from picual.search.samplers.base import Outlook
from picual.search.settings import Settings
from picual.search.settings import read as read_settings
from picual.search.study import Study
from picual.search.trial import Trial

TONE = Path(api.__file__).parent / "assets" / "tone"
TABLES = Path(__file__).parents[1] / "docs" / "benchmarks"
ROWS = {"prompt": "Phrase: {phrase}\nTone (joy, sadness, fear or surprise):", "response": " {tone}<|im_end|>"}
SHARE = 0.3  # of candidates, and of pass keys, that may be asked for
MEASURING = 15.0  # seconds a candidate, as the engine reckons


def recipe(model: str) -> dict[str, Any]:
    """Return the recipe whose space is searched."""
    training = {
        "max_steps": {"search": [80, 30]}, "per_device_train_batch_size": 8, "learning_rate": 8e-4,
        "lr_scheduler_type": "cosine", "warmup_ratio": 0.1,
    }  # fmt: skip
    return {
        "version": 1,
        "model": model,
        "data": {
            "train": {"files": str(TONE / "train.jsonl"), **ROWS},
            "test": {"files": str(TONE / "test.jsonl"), **ROWS},
        },
        "passes": {
            "lora": {"data": "train", "rank": {"search": [16, 8]}, "alpha": 32, "training": training},
            "merge-adapter": {},
            "build-genai": {
                "precision": "int4", "block": {"search": [32, 64, 128]}, "symmetric": {"search": [False, True]},
                "head": {"search": ["int8", "int4"]},
            },
        },
        "metrics": {
            "divergence": {"windows": 2},
            "accuracy": {
                "data": "test", "expect": "{tone}", "match": "class", "max_new_tokens": 12, "max_samples": 120
            },
        },
        "search": {
            "objectives": [{"minimize": "divergence"}, {"maximize": "accuracy"}], "sampler": "grid", "trials": 48
        },
        "threads": 1,
    }  # fmt: skip


def main() -> None:
    """Make a table, or compare samplers on one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    table.add_argument("--model", default="smollm2-135m")
    table.add_argument("--store", type=Path, default=None)
    table.add_argument("--output", type=Path, default=Path("search-table"))
    compare = commands.add_parser("compare")
    compare.add_argument("--table", type=Path, default=None)
    compare.add_argument("--size", default="<= 100MB")
    compare.add_argument("--accuracy", default=">= 0.8")
    compare.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    if given.command == "table":
        make_table(given.model, given.store, given.output)
    else:
        newest = sorted(TABLES.glob("*search-table.json"))[-1:]
        compare_samplers(given.table or newest[0], given.size, given.accuracy, given.seeds)


def make_table(model: str, store: Path | None, output: Path) -> None:
    """Measure every candidate and write ``OUTPUT/table.json``."""
    report = api.run(recipe(model), store=store, output=output).report
    rows = [
        {"candidate": one["candidate"], "keys": one["keys"], "seconds": one["seconds"],
         "kl": one["metrics"]["divergence"]["kl"], "accuracy": one["metrics"]["accuracy"]["accuracy"],
         "size_mb": one["metrics"]["size"]["size_mb"]}
        for one in sorted(report["trials"], key=lambda one: one["number"])
    ]  # fmt: skip
    (output / "table.json").write_text(json.dumps({"model": Path(model).name, "rows": rows}, indent=1) + "\n")


class Replay:
    """One search on a table."""

    def __init__(self, rows: list[dict[str, Any]], settings: Settings, sampler: str, seed: int) -> None:
        self.rows = {json.dumps(row["candidate"], sort_keys=True): row for row in rows}
        self.settings, self.made, self.asked = settings, set[str](), 0
        space = searching.space_of(api.load(recipe("smollm2-135m")))
        with tempfile.TemporaryDirectory() as folder:
            study = Study(Path(folder) / "study.jsonl", "replay", space, settings, seed)
            Loop(study=study, sampler=samplers.load(sampler), outlook=self.outlook, attempt=self.attempt).go()
            self.trials = study.trials

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """Return what the table has of a candidate."""
        return self.rows[json.dumps(dict(candidate), sort_keys=True)]

    def outlook(self, candidate: Candidate) -> Outlook:
        """Know the size beforehand, as the engine does, and what the steps that are not made yet cost."""
        row = self.row(candidate)
        weights = zip(row["keys"], (60.0, 10.0, 10.0), strict=True)
        cost = sum(seconds for key, seconds in weights if key not in self.made)
        size = next(bound for bound in self.settings.bounds if bound.measurement.metric == "size")
        return Outlook(cost=cost + MEASURING, violations={"size": size.violation(values(row), {})})

    def attempt(self, number: int, candidate: Candidate) -> Trial:
        """Read off the table what a run would measure."""
        row = self.row(candidate)
        self.made.update(row["keys"])
        self.asked += 1
        found = values(row)
        return Trial(
            number=number, candidate=candidate, state="complete", metrics=found, losses=(row["kl"],),
            violations={str(one.measurement): one.violation(found, {}) for one in self.settings.bounds},
            keys=tuple(row["keys"]),
        )  # fmt: skip

    @property
    def best(self) -> float:
        """The best objective among trials that keep the limits; infinite without one."""
        best, _ = ranking.best(self.trials, self.settings.objectives)
        return float("inf") if best is None or best.losses[0] is None else best.losses[0]


def values(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row as metric values."""
    return {"divergence": {"kl": row["kl"]}, "accuracy": {"accuracy": row["accuracy"]},
            "size": {"size_mb": row["size_mb"]}}  # fmt: skip


def compare_samplers(table: Path, size: str, accuracy: str, seeds: int) -> None:
    """Print winner, evaluations and keys of each seed, beside random search with the same budget."""
    rows = json.loads(table.read_text())["rows"]
    trials = int(SHARE * len(rows))
    goal = {"minimize": "divergence.kl", "subject_to": {"size.size_mb": size, "accuracy.accuracy": accuracy}}
    settings, findings = read_settings({**goal, "trials": trials}, samplers.names())
    assert not findings, findings
    keys = {key for row in rows for key in row["keys"]}
    fitting = [row["kl"] for row in rows if all(one.violation(values(row), {}) <= 0 for one in settings.bounds)]
    optimum = min(fitting)
    near = sum(kl <= 1.01 * optimum for kl in fitting)
    print(
        f"{table.name}: {len(rows)} candidates, {len(keys)} pass keys;"
        f" {len(fitting)} fit: size {size}, accuracy {accuracy}"
    )
    print(
        f"optimum {optimum:.4f}, {near} within 1 %; budget {trials} evaluations, {int(SHARE * len(keys))} keys\n"
    )
    print(f"{'seed':>4}  {'sampler':8} {'best':>8} {'beyond':>8} {'asked':>6} {'keys':>5}")
    regrets: dict[str, list[float]] = {"gp": [], "random": [], "tpe": []}
    for seed in range(seeds):
        for name, regret in regrets.items():
            replay = Replay(rows, settings, name, seed)
            beyond = min(replay.best, max(fitting)) / optimum - 1
            regret.append(beyond)
            print(f"{seed:4}  {name:8} {replay.best:8.4f} {beyond:8.1%} {replay.asked:6} {len(replay.made):5}")
    for name, regret in regrets.items():
        print(f"mean regret {name:8} {statistics.mean(regret):.2%}")


if __name__ == "__main__":
    main()
