"""Tasks of lm-eval, run by lm-eval's own harness: its prompts, its scoring, its numbers.

What it measures: what the tasks say. ``tasks`` names tasks of the harness, or of ``folder``: task files of one's
own, in YAML, whose data files are found relative to that folder. Tasks whose data lie in local files work offline.
The score is the number that ``number`` names; left out, each task's first number, averaged over the tasks.
When: to compare with published figures. A task file with ``!function`` runs code, and takes ``--trust``.
Cost: as the tasks; ``limit`` cuts them short.
Source: EleutherAI, lm-evaluation-harness.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from picual import _lazy
from picual.errors import BadValue, EnvironmentFault, StepFailed, UnknownName, nearest
from picual.metrics.base import Metric, MetricContext, require_counts
from picual.metrics.classification import NORMAL, wilson
from picual.metrics.lm_eval_model import as_harness_model
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model
from picual.models.session import open_session
from picual.space import param

USUAL_LENGTH = 2048  # of a context, where the model's files say nothing
BOOTSTRAPS = 1000  # of numbers whose error has no formula


@dataclass(frozen=True, kw_only=True)
class LmEval(Metric):
    """Tasks of lm-eval."""

    name: ClassVar[str] = "lm-eval"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    extra: ClassVar[str] = "lm-eval"
    imports: ClassVar[tuple[str, ...]] = ("lm_eval",)
    cost: ClassVar[int] = 3

    tasks: tuple[str, ...] = param((), help="Names of tasks; left out: all of `folder`.")
    folder: str | None = param(None, help="Folder with task files (YAML) of one's own.", role="code")
    limit: int | None = param(None, help="Use at most this many rows of each task.")
    shots: int | None = param(None, help="Solved examples in the prompt; left out: what the task says.")
    chat: bool = param(False, help="Put the prompts through the model's chat template.")
    number: str | None = param(
        None, help="Number that stands for the metric, such as `acc_norm`, or `TASK.acc_norm` of several tasks."
    )
    better: Literal["higher", "lower"] = param("higher", help="Which way is better.")

    def __post_init__(self) -> None:
        """Refuse counts below 1, and a folder that is not there."""
        require_counts(self, "limit")
        if self.shots is not None and self.shots < 0:
            raise BadValue(f"`shots` is {self.shots}; it must be at least 0", hint="leave out `shots`")
        if self.folder is not None and not list(_task_files(self.folder)):
            raise BadValue(f"`folder`: there is no task file in `{self.folder}`", hint="a task file ends in .yaml")

    def rises(self) -> bool:
        """Say whether a higher number is a better one."""
        return self.better == "higher"

    def user_code(self) -> str | None:
        """Return the first task file that names a function."""
        files = _task_files(self.folder) if self.folder is not None else ()
        return next((str(file) for file in files if "!function" in file.read_text(encoding="utf-8")), None)

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return ``score``, every number of every task, their intervals, and which rows were right.

        Raises:
            MissingDependency: lm-eval is not installed.
            UnknownName: There is no such task.
            EnvironmentFault: The data of a task cannot be fetched.
        """
        _lazy.need("lm_eval", extra=self.extra, by=self.name)
        if not self.tasks and self.folder is None:
            raise BadValue("`lm-eval` needs `tasks` or `folder`", hint="tasks: [arc_easy]")
        if (code := self.user_code()) is not None and not context.trust:
            raise BadValue(f"`{code}` runs code, and does so only when it is trusted", hint="add `--trust`")
        with (
            _inside(self.folder),
            contextlib.closing(open_session(model, threads=context.threads)) as session,
        ):
            harness = as_harness_model(session, _length(model), context.on_progress)
            return self._values(self._evaluated(harness, context))

    def _evaluated(self, harness: Any, context: MetricContext) -> dict[str, Any]:
        from lm_eval import simple_evaluate

        manager, tasks = self._manager()
        try:
            found: dict[str, Any] = simple_evaluate(
                model=harness, tasks=tasks, task_manager=manager, num_fewshot=self.shots, limit=self.limit,
                apply_chat_template=self.chat, bootstrap_iters=BOOTSTRAPS, confirm_run_unsafe_code=context.trust,
            )  # fmt: skip
        except OSError as error:  # what `datasets` raises when it finds nothing, and when it reaches nobody
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EnvironmentFault(
                f"`{self.name}`: the data of the tasks cannot be read: {first}",
                hint="check the network, or use a task file of your own with `dataset_path: json`",
            ) from error
        return found

    def _manager(self) -> tuple[Any, list[str]]:
        """Return lm-eval's task manager, and the tasks to run."""
        from lm_eval.tasks import TaskManager

        own = None if self.folder is None else TaskManager(include_path=self.folder, include_defaults=False)
        known = [] if own is None else [str(name) for name in own.all_subtasks]
        if own is not None and set(self.tasks) <= set(own.all_tasks):
            return own, list(self.tasks) or known
        every = TaskManager(include_path=self.folder)  # reading the harness's own thousands takes seconds
        for name in self.tasks:
            if name not in every.all_tasks:
                raise UnknownName(
                    f"lm-eval knows no task `{name}`", hint=nearest(name, known or list(every.all_tasks))
                )
        return every, list(self.tasks)

    def _values(self, found: Mapping[str, Any]) -> dict[str, Any]:
        rows = {task: found["results"][task] for task in found["configs"] if task in found["results"]}
        numbers: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        firsts: dict[str, str] = {}  # name of each task's first number
        for task, row in rows.items():
            for name, value, error in _numbers(row):
                full = name if len(rows) == 1 else f"{task}.{name}"
                firsts.setdefault(task, full)
                numbers[full] = value
                if error is not None:
                    intervals[full] = [value - NORMAL * error, value + NORMAL * error]
        if not numbers:
            raise StepFailed("the tasks gave no number", hint="name a `metric_list` in the task file")
        score, chosen = self._score(numbers, list(firsts.values()))
        counts = {task: found["n-samples"][task]["effective"] for task in rows}
        values = {"score": score, **numbers, "count": sum(counts.values()), "tasks": list(rows)}
        if chosen in intervals:
            intervals["score"] = intervals[chosen]
        hits = _hits(found.get("samples", {}).get(next(iter(rows)), []), chosen) if len(rows) == 1 else ""
        if hits:  # a share of rows: the harness's error is 0 where all are right
            intervals[chosen] = intervals["score"] = list(wilson(hits.count("1"), len(hits)))
            values["hits"] = hits
        return {**values, "intervals": intervals}

    def _score(self, numbers: Mapping[str, float], firsts: Sequence[str]) -> tuple[float, str]:
        if self.number is not None and self.number not in numbers:
            raise BadValue(f"the tasks gave no number `{self.number}`", hint=nearest(self.number, list(numbers)))
        chosen = self.number or firsts[0]
        if self.number is None:
            return sum(numbers[name] for name in firsts) / len(firsts), chosen if len(firsts) == 1 else ""
        return numbers[chosen], chosen


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """Yield name, value and standard error of one task's numbers; lm-eval writes `acc,none`, `acc_stderr,none`."""
    for name, value in row.items():
        metric, comma, kept = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = row.get(f"{metric}_stderr,{kept}")
        shown = metric if kept == "none" else f"{metric}:{kept}"
        yield shown, float(value), float(error) if isinstance(error, int | float) else None


def _hits(samples: Sequence[Mapping[str, Any]], number: str) -> str:
    """Return a 1 for each right row and a 0 for each other one, where the number says no more than that."""
    metric, _, kept = number.partition(":")
    rows = sorted(
        (one for one in samples if one.get("filter", "none") == (kept or "none")), key=lambda one: one["doc_id"]
    )
    marks: list[Any] = [one.get(metric) for one in rows]
    return "".join("01"[int(mark)] for mark in marks) if all(mark in {0, 1} for mark in marks) else ""


def _task_files(folder: str) -> Iterator[Path]:
    yield from sorted(Path(folder).rglob("*.yaml"))


@contextlib.contextmanager
def _inside(folder: str | None) -> Iterator[None]:
    """Work in a folder, so that task files name their data relative to it; and in one process."""
    place = contextlib.chdir(folder) if folder is not None else contextlib.nullcontext()
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # its pool would fork a process with loaded runtimes
    try:
        with place:
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _length(model: Model) -> int:
    """Return the length of a model's context in tokens."""
    match model:
        case HfCheckpoint():
            config = model.config()
            return int(config.get("text_config", config).get("max_position_embeddings", USUAL_LENGTH))
        case HfAdapter():
            return _length(model.root())
        case GenaiModel():
            return int(model.config()["model"].get("context_length", USUAL_LENGTH))
    return USUAL_LENGTH
