"""Where a job takes minutes to begin: how many there are, that they make what many make, and what fails in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from picual import api
from picual.errors import NotMeasured, NotVerified, StepFailed
from picual.executors import registry
from picual.executors.base import Executor, OnEvent
from picual.executors.host import Host, Surroundings
from picual.executors.inline import InlineExecutor
from picual.executors.job import Job, Result
from picual.models import GenaiModel, HfModel
from picual.passes import registry as pass_registry
from picual.passes.base import PassContext
from picual.passes.export.genai import BuildGenai

Write = Callable[..., dict[str, Any]]


class Counting(InlineExecutor):
    """Runs jobs here and remembers them."""

    jobs: ClassVar[list[Job]] = []

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        Counting.jobs.append(Job.read(folder))
        return super().run(folder, on_event)


@dataclass(frozen=True, kw_only=True)
class Dear(Host):
    """This machine, as if each job took minutes to begin."""

    kind: ClassVar[str] = "dear"
    gathers: ClassVar[bool] = True

    def executor(self, around: Surroundings) -> Executor:
        del around
        return Counting()


@dataclass(frozen=True, kw_only=True)
class Spoilt(BuildGenai):
    """Exports, then a bit of the weights falls over."""

    name: ClassVar[str] = "spoilt"

    def run(self, model: HfModel, context: PassContext) -> GenaiModel:
        made = super().run(model, context)
        data = context.folder / "model.onnx.data"
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 0x70
        data.write_bytes(content)
        return made


@dataclass(frozen=True, kw_only=True)
class Failing(BuildGenai):
    """Fails when it runs."""

    name: ClassVar[str] = "failing"

    def run(self, model: HfModel, context: PassContext) -> GenaiModel:
        raise StepFailed("planted")


@pytest.fixture
def dear(tiny_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setitem(registry.BUILT_IN, "dear", f"{__name__}:Dear")
    monkeypatch.setitem(pass_registry.BUILT_IN, "spoilt", f"{__name__}:Spoilt")
    monkeypatch.setitem(pass_registry.BUILT_IN, "failing", f"{__name__}:Failing")
    monkeypatch.setattr(Counting, "jobs", [])
    text = tmp_path / "text.txt"
    text.write_text("a line of some words. " * 40)

    def write(**changes: Any) -> dict[str, Any]:
        written = tiny_recipe(**changes)
        metrics = {"size": {}, "divergence": {"file": str(text)}, "perplexity": {"file": str(text)}}
        return written | {"hosts": {"cloud": {"type": "dear"}}, "host": "cloud", "metrics": metrics}

    return write


def kinds() -> list[list[str]]:
    return [[link["kind"] for link in job.payload.get("links", [{"kind": job.kind}])] for job in Counting.jobs]


def test_steps_with_their_checks_are_one_job_and_measurements_another(dear: Write, tmp_path: Path) -> None:
    written = dear()

    outcome = api.run(written)

    first, second = kinds()
    assert [kind for kind in first if kind != "verify"] == ["pass", "pass", "pass"]
    assert first.index("verify") == 1
    assert set(second) == {"evaluate"}
    assert outcome.report["verdict"] == "verified"
    assert all(step["checks"] and not step["cached"] for step in outcome.report["steps"])
    api.run(written)
    assert len(Counting.jobs) == 2

    apart = {key: value for key, value in written.items() if key not in {"host", "hosts"}}
    apart |= {"store": str(tmp_path / "other"), "output": str(tmp_path / "apart")}
    there = api.run(apart, executor=InlineExecutor)
    assert [step["key"] for step in there.report["steps"]] == [step["key"] for step in outcome.report["steps"]]
    assert there.report["best"] == outcome.report["best"]
    for file in there.model.iterdir():
        assert file.read_bytes() == (outcome.model / file.name).read_bytes(), file.name


def test_only_what_is_missing_is_in_the_job(dear: Write) -> None:
    written = dear()
    api.run(written)
    written["passes"]["build-genai"] = {"precision": "int8"}
    Counting.jobs.clear()

    api.run(written)

    first, second = kinds()
    assert first[:2] == ["prepare", "pass"]
    assert first.count("pass") == 1
    assert set(second) == {"evaluate"}


def test_a_fresh_run_does_each_piece_once(dear: Write) -> None:
    written = dear()
    api.run(written)
    before = kinds()
    Counting.jobs.clear()

    again = api.run(written, fresh=True)

    assert kinds() == before
    assert not any(step["cached"] for step in again.report["steps"])


def test_a_step_that_fails_is_named_and_those_before_it_are_kept(dear: Write, tmp_path: Path) -> None:
    written = dear(export="failing")

    with pytest.raises(StepFailed, match="planted") as caught:
        api.run(written)

    assert "step 3 `failing`" in str(caught.value)
    assert len(Counting.jobs) == 1
    assert [step["name"] for step in api.report(tmp_path / "out")["steps"]][:2] == ["lora", "merge-adapter"]
    Counting.jobs.clear()
    with pytest.raises(StepFailed, match="planted"):
        api.run(written)
    assert [link["label"] for link in Counting.jobs[0].payload["links"]][:2] == ["prepare failing", "failing"]


def test_a_check_that_is_not_passed_ends_the_job(dear: Write, tmp_path: Path) -> None:
    written = dear(export="spoilt")

    with pytest.raises(NotVerified, match="step 3 `spoilt`"):
        api.run(written)

    assert len(Counting.jobs) == 1
    assert not (tmp_path / "out" / "model").exists()
    assert [step["name"] for step in api.report(tmp_path / "out")["steps"]][:2] == ["lora", "merge-adapter"]


def test_a_metric_that_fails_keeps_no_other_from_being_taken(dear: Write, tmp_path: Path) -> None:
    written = dear()
    (tmp_path / "short.txt").write_text("few words")
    written["metrics"]["divergence"] = {"file": str(tmp_path / "short.txt")}

    with pytest.raises(NotMeasured, match="`divergence` of final"):
        api.run(written)

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["best"]["perplexity"]["perplexity"] > 0
    assert found["baseline"]["perplexity"]["perplexity"] > 0


def test_a_trial_is_two_jobs_and_shared_steps_are_done_once(dear: Write) -> None:
    written = dear()
    written["passes"]["build-genai"] = {"precision": "int4", "block": {"search": [16, 32]}}
    written["search"] = {"minimize": "divergence", "trials": 2, "parallel": 2}
    del written["metrics"]["perplexity"]

    outcome = api.run(written)

    passes = [kind for kinds_of_job in kinds() for kind in kinds_of_job if kind == "pass"]
    assert len(passes) == 4, "an adapter, its merging, and two exports"
    assert outcome.report["verdict"] == "verified"
