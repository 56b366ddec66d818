"""A search on a tiny model through the real engine: what it places, what it drops, what it says at the end."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest

from picual import api, report
from picual.errors import JobLost, NothingFits, StepFailed
from picual.executors.base import OnEvent
from picual.executors.inline import InlineExecutor
from picual.executors.job import Job, Result
from picual.metrics import registry as metric_registry
from picual.metrics.base import Metric, MetricContext
from picual.models import GenaiModel, HfModel, Model
from picual.passes import registry as pass_registry
from picual.passes.base import PassContext
from picual.passes.export.genai import BuildGenai
from picual.space import param

Write = Callable[..., dict[str, Any]]
FAULT = "fault.txt"


@dataclass(frozen=True, kw_only=True)
class OddExport(BuildGenai):
    """Exports, with a fault planted on demand."""

    name: ClassVar[str] = "odd-export"
    fault: str = param("none", help="What goes wrong.")

    def run(self, model: HfModel, context: PassContext) -> GenaiModel:
        if self.fault == "raises":
            raise ValueError("planted")
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        made = super().run(model, context)
        (context.folder / FAULT).write_text(self.fault)
        return made


@dataclass(frozen=True, kw_only=True)
class Score(Metric):
    """A number by the block size and the planted fault."""

    name: ClassVar[str] = "score"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "score"
    higher_is_better: ClassVar[bool] = True
    extra: ClassVar[str] = ""

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        file = model.path / FAULT
        match file.read_text() if file.exists() else "none":
            case "no score":
                return {"other": 1.0}
            case "not a number":
                return {"score": math.nan}
            case "huge":
                return {"score": math.inf}
        return {"score": 0.5}


class ForkExecutor(InlineExecutor):
    """Runs a job in a fork of the test, which knows what was planted; a killed one is lost like any worker."""

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        child = os.fork()
        if child == 0:
            super().run(folder, lambda _event: None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            raise JobLost(f"the worker was killed by signal {os.WTERMSIG(status)}")
        return Result.read(folder)


class MeetingExecutor(InlineExecutor):
    """Begins a pass only when another one is about to begin; what is global is then used in turn."""

    meeting = threading.Barrier(2, timeout=60)
    turn = threading.Lock()

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        if Job.read(folder).kind == "pass":
            self.meeting.wait()
        with self.turn:
            return super().run(folder, on_event)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pass_registry.BUILT_IN, "odd-export", f"{__name__}:OddExport")
    monkeypatch.setitem(metric_registry.BUILT_IN, "score", f"{__name__}:Score")
    for registry, kind in ((pass_registry, OddExport), (metric_registry, Score)):
        load = registry.load
        monkeypatch.setattr(
            registry, "load", lambda name, kind=kind, load=load: kind if name == kind.name else load(name)
        )


def with_search(recipe: dict[str, Any], search: dict[str, Any], **export: Any) -> dict[str, Any]:
    """Return a recipe of the export alone, with what it searches."""
    export = export or {"block": {"search": [16, 32]}, "symmetric": {"search": [False, True]}}
    passes = {"build-genai": {"precision": "int4", **export}}
    return {**recipe, "passes": passes, "search": search, "metrics": {"divergence": {"windows": 2, "length": 64}}}


def inline(recipe: dict[str, Any]) -> api.Outcome:
    """Run in this process, where imports are paid once; one candidate at a time, as jobs share what is global."""
    return api.run({**recipe, "search": {"parallel": 1, **recipe["search"]}}, executor=InlineExecutor)


def test_the_best_candidate_is_placed_verified_and_reported(tiny_recipe: Write, tmp_path: Path) -> None:
    recipe = with_search(tiny_recipe(), {"minimize": "divergence", "trials": 10})

    outcome = api.run(recipe)

    found = outcome.report
    jsonschema.validate(found, report.schema())
    trials = sorted(found["trials"], key=lambda one: one["metrics"]["divergence"]["kl"])
    assert found["verdict"] == "verified"
    assert len(trials) == found["search"]["asked"] == found["search"]["candidates"] == 4
    assert found["search"]["best"] == trials[0]["number"]
    assert found["trials"][0]["rank"] == 1
    assert found["best"]["divergence"]["kl"] == trials[0]["metrics"]["divergence"]["kl"]
    assert found["best"]["size"]["size_mb"] == trials[0]["metrics"]["size"]["size_mb"]
    assert found["steps"][0]["key"] == trials[0]["keys"][0]
    assert found["steps"][0]["checks"]
    manifest = json.loads((outcome.output / "manifest.json").read_text())
    assert manifest["key"] == trials[0]["keys"][-1]
    assert manifest["recipe"]["passes"]["build-genai"]["block"] == trials[0]["candidate"]["build-genai.block"]


def test_candidates_are_made_beside_each_other(tiny_recipe: Write) -> None:
    recipe = with_search(tiny_recipe(), {"minimize": "divergence", "trials": 2, "parallel": 2, "sampler": "grid"})

    found = api.run({**recipe, "threads": 1}, executor=MeetingExecutor).report

    assert [one["state"] for one in found["trials"]] == ["complete", "complete"]


def test_a_second_run_does_nothing_and_a_larger_budget_goes_on(tiny_recipe: Write) -> None:
    recipe = with_search(tiny_recipe(), {"minimize": "divergence", "trials": 2, "sampler": "grid"})
    first = inline(recipe)

    second = inline(recipe)
    more = inline({**recipe, "search": {**recipe["search"], "trials": 4}})

    assert not second.result.worked
    assert [one["candidate"] for one in second.report["trials"]] == [
        one["candidate"] for one in first.report["trials"]
    ]
    assert len(more.report["trials"]) == 4
    assert {one["number"]: one["candidate"] for one in more.report["trials"] if one["number"] <= 2} == {
        one["number"]: one["candidate"] for one in first.report["trials"]
    }


def test_limits_rule_out_what_is_too_large_before_it_is_made(tiny_recipe: Write) -> None:
    whole = inline(with_search(tiny_recipe(), {"minimize": "divergence", "trials": 4}))
    sizes = sorted(one["metrics"]["size"]["size_mb"] for one in whole.report["trials"])
    limit = (sizes[0] + sizes[-1]) / 2
    recipe = with_search(
        tiny_recipe(), {"minimize": "divergence", "subject_to": {"size": f"<= {limit}"}, "trials": 4}
    )

    found = inline({**recipe, "output": recipe["output"] + "2", "store": recipe["store"] + "2"}).report

    dropped = [one for one in found["trials"] if one["state"] == "dropped"]
    assert 0 < len(dropped) == found["search"]["dropped"] == 4 - found["search"]["asked"]
    assert all("size forecast" in one["why"] and one["metrics"]["size"]["size_mb"] > limit for one in dropped)
    (kept,) = found["constraints"]
    assert kept["met"]
    assert kept["value"] == found["best"]["size"]["size_mb"] <= limit


def test_nothing_fits_is_exit_6_with_the_closest_and_the_gap(tiny_recipe: Write, tmp_path: Path) -> None:
    recipe = with_search(tiny_recipe(), {"minimize": "divergence", "subject_to": {"size": "<= 0.001MB"}})

    with pytest.raises(NothingFits, match=r"closest: build-genai\.block=32.*beyond `<= 0\.001MB`") as caught:
        inline(recipe)

    found = api.report(tmp_path / "out")
    (limit,) = found["constraints"]
    assert caught.value.exit_code == 6
    assert found["verdict"] == "NothingFits"
    assert limit["gap"] == pytest.approx(limit["value"] - 0.001)
    assert found["search"]["asked"] == 0
    assert not (tmp_path / "out" / "model").exists()


def test_limits_that_nothing_keeps_move_an_earlier_model_aside(tiny_recipe: Write, tmp_path: Path) -> None:
    recipe = with_search(tiny_recipe(), {"minimize": "divergence", "trials": 1}, block=32)
    inline(recipe)

    with pytest.raises(NothingFits):
        inline({**recipe, "search": {"subject_to": {"divergence": "<= 1e-9"}}})

    assert not (tmp_path / "out" / "model").exists()
    assert (tmp_path / "out" / "earlier" / "model" / "genai_config.json").is_file()
    inline(recipe)
    assert (tmp_path / "out" / "model").exists()
    assert not (tmp_path / "out" / "closest").exists()


def test_a_limit_that_was_forecast_fits_as_the_hint_says(tiny_recipe: Write) -> None:
    recipe = with_search(tiny_recipe(), {"subject_to": {"size": "<= 0.001MB", "divergence": "<= 9"}}, block=32)

    with pytest.raises(NothingFits, match=r"divergence\.kl was not measured") as caught:
        inline(recipe)
    bound = caught.value.hint.split("`size.size_mb: ")[1].split("`")[0]
    loosened = {**recipe, "search": {"subject_to": {"size": bound, "divergence": "<= 9"}}}

    assert "come nearer" in caught.value.hint
    assert inline(loosened).report["verdict"] == "verified"


def test_a_closest_candidate_that_was_made_is_kept_beside_and_the_hint_would_fit_it(
    tiny_recipe: Write, tmp_path: Path
) -> None:
    recipe = with_search(tiny_recipe(), {"subject_to": {"divergence": "<= 1e-9"}, "trials": 2}, block=32)

    with pytest.raises(NothingFits) as caught:
        inline(recipe)
    bound = caught.value.hint.split("`divergence.kl: ")[1].split("`")[0]
    loosened = {**recipe, "search": {"subject_to": {"divergence": bound}}}

    assert (tmp_path / "out" / "closest" / "genai_config.json").is_file()
    assert not (tmp_path / "out" / "model").exists()
    assert inline(loosened).report["verdict"] == "verified"


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(
    ("fault", "state", "why"),
    [
        ("no score", "complete", "no value for score.score"),
        ("not a number", "failed", "came out as nan"),
        ("huge", "failed", "came out as inf"),
        ("raises", "failed", "ValueError: planted"),
        ("killed", "failed", "JobLost"),
    ],
)
def test_a_bad_candidate_is_ranked_last_and_the_search_ends_normally(
    tiny_recipe: Write, fault: str, state: str, why: str
) -> None:
    recipe = with_search(tiny_recipe(), {"maximize": "score", "trials": 3})
    recipe["passes"] = {"odd-export": {"precision": "int4", "fault": {"search": [fault, "none"]}}}
    recipe["metrics"] = {"score": {}}

    found = api.run(recipe, executor=InlineExecutor if fault != "killed" else ForkExecutor).report

    bad = found["trials"][-1]
    assert found["verdict"] == "verified"
    assert found["trials"][0]["candidate"] == {"odd-export.fault": "none"}
    assert bad["candidate"] == {"odd-export.fault": fault}
    assert bad["state"] == state
    assert not bad["feasible"]
    assert why in bad["why"]


def test_a_share_of_nothing_stops_the_search_and_says_where_to_look(tiny_recipe: Write) -> None:
    recipe = with_search(tiny_recipe(), {"subject_to": {"accuracy": ">= 0.99 * unquantized"}}, block=32)
    recipe["data"]["rows"] |= {"text": None, "prompt": "{text}", "response": "tone {text}"}
    recipe["metrics"] = {"accuracy": {"data": "rows", "split": "all", "max_samples": 2}}

    with pytest.raises(StepFailed, match=r"`accuracy\S*` of the unquantized model is 0") as caught:
        inline(recipe)

    assert "predictions.jsonl" in caught.value.hint


@pytest.mark.usefixtures("planted")
def test_when_every_candidate_fails_the_first_says_why(tiny_recipe: Write) -> None:
    recipe = with_search(tiny_recipe(), {"maximize": "score"})
    recipe["passes"] = {"odd-export": {"precision": "int4", "fault": {"search": ["raises"]}}}
    recipe["metrics"] = {"score": {}}

    with pytest.raises(StepFailed, match="ValueError: planted"):
        api.run(recipe, executor=InlineExecutor)


def test_a_choice_between_passes_is_tried_each_way(tiny_recipe: Write) -> None:
    recipe = tiny_recipe()
    wide = {"type": "build-genai", "precision": {"search": ["int8", "fp32"]}}
    recipe["passes"] = {"build-genai": {"search": [wide, {"type": "build-genai", "precision": "int4"}]}}
    recipe["metrics"] = {"divergence": {"windows": 2, "length": 64, "reference": "baseline"}}
    recipe["search"] = {"minimize": "divergence"}

    found = inline(recipe).report

    assert [one["candidate"] for one in found["trials"]] == [
        {"build-genai": "build-genai", "build-genai[build-genai].precision": "fp32"},
        {"build-genai": "build-genai", "build-genai[build-genai].precision": "int8"},
        {"build-genai": "build-genai 2"},
    ]
