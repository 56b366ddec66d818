"""Every weight trained, then an adapter of another method on top, merged by weight and exported: all verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from picual import api
from picual.errors import NotVerified, RecipeProblems
from picual.executors.inline import InlineExecutor

Write = Callable[..., dict[str, Any]]


def recipe(write: Write, method: str, **merge: Any) -> dict[str, Any]:
    written = write()
    lora = {**written["passes"]["lora"], "method": method}
    full = {"data": "rows", "training": {"max_steps": 2, "learning_rate": 1e-3}}
    written["passes"] = {
        "full-finetune": full, "lora": lora, "merge-adapter": merge, "build-genai": {"precision": "fp32"},
    }  # fmt: skip
    return written


@pytest.mark.parametrize(("method", "merge"), [("dora", {}), ("loha", {"weights": [0.5]}), ("lokr", {})])
def test_a_run_with_a_method_ends_verified(tiny_recipe: Write, method: str, merge: dict[str, Any]) -> None:
    outcome = api.run(recipe(tiny_recipe, method, **merge), executor=InlineExecutor)

    assert outcome.report["verdict"] == "verified"
    steps = {step["name"]: step for step in outcome.report["steps"]}
    names = {name: {check["name"] for check in step["checks"]} for name, step in steps.items()}
    assert {"trained-moved", "trained-near", "prompt-eos"} <= names["full-finetune"]
    assert {"adapter-moved", "adapter-shapes"} <= names["lora"]
    assert "merge-delta" in names["merge-adapter"]
    assert all(check["passed"] for step in steps.values() for check in step["checks"])


def test_what_contradicts_is_said_before_anything_runs(tiny_recipe: Write) -> None:
    written = recipe(tiny_recipe, "dora")
    written["passes"]["lora"]["use_rslora"] = True
    with pytest.raises(RecipeProblems) as caught:
        api.run(written, executor=InlineExecutor)
    assert "asks for the method `rslora`, and `method` is `dora`" in str(caught.value)


def test_weights_for_another_number_of_adapters_are_refused(tiny_recipe: Write) -> None:
    written = recipe(tiny_recipe, "lora", weights=[1.0, 2.0])
    with pytest.raises(Exception, match="`weights` holds 2 numbers, and the chain has 1 adapter") as caught:
        api.run(written, executor=InlineExecutor)
    assert not isinstance(caught.value, NotVerified)
