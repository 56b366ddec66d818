from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from picual.data.base import DataConfig
from picual.errors import BrokenPromise, Refused, StepsDoNotFit, UnknownName
from picual.hardware import Target
from picual.models import HfModel, model_from_wire
from picual.passes import registry, task
from picual.passes.base import Pass, PassContext
from picual.space import param


@dataclass(frozen=True, kw_only=True)
class Copy(Pass[HfModel, HfModel]):
    """Copies the config, and says what it was given."""

    name: ClassVar[str] = "copy"
    version: ClassVar[int] = 1

    how: str = param("well", help="How to go about it.")

    def check(self, model: HfModel, target: Target) -> None:
        if self.how == "refuse":
            raise Refused("not this one", hint="another")

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        (context.folder / "config.json").write_bytes((model.path / "config.json").read_bytes())
        context.changed("config", "copied")
        context.metrics["given"] = [context.seed, context.threads, sorted(context.data), context.scratch.is_dir()]
        context.progress(1, 2, "half")
        context.event("seen", target=context.target.device)
        if self.how == "elsewhere":
            return HfModel(model.path.parent / "other")
        if self.how == "nowhere":
            return HfModel(context.folder / "absent")
        if self.how == "untouched":
            return model
        return model.path if self.how == "a path" else HfModel(context.folder)  # type: ignore[return-value]  # the fault


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "copy", f"{__name__}:Copy")


def run(
    tmp_path: Path, *, how: str = "well", **changes: Any
) -> tuple[dict[str, Any], list[tuple[str, Mapping[str, Any]]]]:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    events: list[tuple[str, Mapping[str, Any]]] = []
    payload = {
        "pass": "copy", "fields": {"how": how}, "model": HfModel(model).to_wire(),
        "target": Target(device="cpu").to_wire(), "data": {"rows": DataConfig(text="a").to_wire()}, **changes,
    }  # fmt: skip
    value = task.run(
        json.loads(json.dumps(payload)), folder=tmp_path / "job", seed=5, threads=2,
        on_event=lambda name, values: events.append((name, values)),
    )  # fmt: skip
    return value, events


def test_a_pass_runs_from_its_wire_form_and_its_result_travels(tmp_path: Path) -> None:
    value, events = run(tmp_path)
    out = tmp_path / "job" / "out"
    assert model_from_wire(json.loads(json.dumps(value))["model"], out) == HfModel(out)
    assert value["journal"] == [{"changed": "config", "how": "copied"}]
    assert value["metrics"] == {"given": [5, 2, ["rows"], True]}
    assert events == [("progress", {"done": 1, "total": 2, "note": "half"}), ("seen", {"target": "cpu"})]


def test_an_untouched_input_is_a_result(tmp_path: Path) -> None:
    assert run(tmp_path, how="untouched")[0]["model"] == {"kind": "in"}


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("elsewhere", "outside the folder"),
        ("nowhere", "not there"),
        ("a path", "produces a Hugging Face model, and returned PosixPath"),
    ],
)
def test_a_result_that_is_not_what_was_promised_is_the_fault_of_the_pass(
    how: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenPromise, match=what) as caught:
        run(tmp_path, how=how)
    assert "`copy`" in caught.value.hint


def test_what_check_refuses_never_runs(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not this one"):
        run(tmp_path, how="refuse")
    assert not any((tmp_path / "job" / "out").iterdir())


def test_a_model_of_another_kind_is_not_taken(tmp_path: Path) -> None:
    wire = {"kind": "genai", "path": str(tmp_path)}
    with pytest.raises(StepsDoNotFit, match="`copy` takes a Hugging Face model"):
        run(tmp_path, model=wire)


def test_an_unknown_pass_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown pass `cop`"):
        run(tmp_path, **{"pass": "cop"})
    assert dataclasses.is_dataclass(Copy)
