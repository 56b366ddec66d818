"""Learned layers leave less error than GPTQ, those that are learned are the most sensitive, the rest is GPTQ's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from picual import api
from picual.models import HfModel, QuantizedHfModel
from picual.models.quantized_weights import open_weight
from picual.numerics import autoround
from picual.passes.base import PassContext
from picual.passes.quantize.autoround import AutoRound
from picual.passes.quantize.calibration import windows_of
from picual.passes.quantize.gptq import Gptq
from picual.passes.quantize.network import LayeredNetwork
from picual.space import Settings
from picual.testing.tiny import tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]


def first_layers_error(model: HfModel, made: QuantizedHfModel, tokens: int) -> float:
    """Squared error of the first layer's output on calibration text, from the stored integers."""
    context = PassContext(folder=model.path, scratch=model.path)
    network = LayeredNetwork(model, windows_of(model, None, tokens, context))
    with torch.no_grad(), network.layer(0) as layer:
        wanted = layer.forward(network.states.clone())
        for name in made.stored():
            if ".layers.0." in name:
                weight = open_weight(made, name)
                layer.replace(name, torch.from_numpy(weight.rows(0, weight.how.shape[0])))
        return float((layer.forward(network.states.clone()) - wanted).square().sum())


def changed_layers(one: QuantizedHfModel, other: QuantizedHfModel) -> list[int]:
    files = sorted(file.name for file in one.path.glob("layer-*"))
    return [
        n for n, file in enumerate(files) if (one.path / file).read_bytes() != (other.path / file).read_bytes()
    ]


def test_learned_layer_leaves_less_error_than_gptq_and_rounding(tiny: HfModel, run: Run) -> None:
    nearest, _ = run(Gptq(block=32, tokens=2048, sweeps=0), tiny, name="plain")
    calibrated, _ = run(Gptq(block=32, tokens=2048), tiny, name="gptq")
    learned, context = run(AutoRound(block=32, tokens=2048, share=1.0), tiny, name="learned")
    errors = [first_layers_error(tiny, made, 2048) for made in (learned, calibrated, nearest)]
    assert errors[0] < 0.99 * errors[1] < 0.99 * errors[2]
    assert sum("of GPTQ's error" in entry.get("note", "") for entry in context.journal) == 2


def test_most_sensitive_layers_are_learned_and_the_rest_is_gptqs(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "hf", layers=4)
    whole = AutoRound._most_sensitive

    def third(self: AutoRound, *given: Any) -> set[int]:
        found = whole(self, *given)
        assert len(found) == 1
        chosen.append(found)
        return found

    chosen: list[set[int]] = []
    monkeypatch.setattr(AutoRound, "_most_sensitive", third)
    calibrated, _ = run(Gptq(tokens=1024), model, name="gptq")
    learned, _ = run(AutoRound(tokens=1024, share=0.25), model, name="learned")
    first = changed_layers(calibrated, learned)[0]
    assert {first} == chosen[0]  # those after it stand on other states, and differ too


def test_layer_whose_rounding_hurts_most_is_learned(tmp_path: Path, run: Run) -> None:
    model = tiny_model(tmp_path / "hf", layers=4)
    few = Settings({"model.layers.2.*": {"bits": 2}})
    _, context = run(AutoRound(tokens=1024, share=0.25, steps=3, overrides=few), model)
    assert [entry["note"][:7] for entry in context.journal if "learning" in entry.get("note", "")] == ["layer 2"]


def test_nothing_learned_is_gptq(tiny: HfModel, run: Run) -> None:
    calibrated, _ = run(Gptq(tokens=1024), tiny, name="gptq")
    learned, _ = run(AutoRound(tokens=1024, share=0.0), tiny, name="learned")
    assert changed_layers(calibrated, learned) == []


def test_learning_that_is_worse_on_all_of_the_text_is_not_kept(
    tiny: HfModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated, _ = run(Gptq(tokens=1024), tiny, name="gptq")
    monkeypatch.setattr(  # what a few windows alone may say is better
        autoround,
        "learn_rounding",
        lambda weights, grids, *_, **__: ([torch.ones_like(w) for w in weights], grids),
    )
    spoilt, _ = run(AutoRound(tokens=1024, share=1.0), tiny, name="spoilt")
    assert changed_layers(calibrated, spoilt) == []


def test_recipe_with_learned_layers_passes_its_gate(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "hf", layout="phi3")
    outcome = api.run({
        "version": 1, "model": str(model.path), "metrics": {"size": {}}, "threads": 1,
        "passes": {"autoround": {"tokens": 1024, "steps": 5, "share": 1.0}, "build-genai": {}},
        "output": str(tmp_path / "out"), "store": str(tmp_path / "store"),
    })  # fmt: skip
    checks = {check["name"] for step in outcome.report["steps"] for check in step["checks"]}
    assert {"quantized-distance", "export-integers"} <= checks
