"""Scales of inputs: moved where they belong, worth their while, the same bytes after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from picual import api
from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfModel, QuantizedHfModel
from picual.models.session import open_session
from picual.passes.base import PassContext
from picual.passes.quantize.awq import Awq
from picual.passes.quantize.rtn import Rtn
from picual.space import Settings
from picual.testing.tiny import Layout, tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]
NORM, READERS = "model.layers.0.input_layernorm.weight", ("q_proj", "k_proj", "v_proj")


def outlying(folder: Path, **fields: Any) -> HfModel:
    """A model whose first norm makes four inputs twenty times as large as the rest, as language models do."""
    from safetensors.torch import load_file, save_file

    model = tiny_model(folder, **fields)
    tensors = load_file(model.path / "model.safetensors")
    tensors[NORM][[3, 17, 40, 41]] *= 20
    for part in READERS:
        tensors[f"model.layers.0.self_attn.{part}.weight"][:, [3, 17, 40, 41]] /= 4
    save_file(tensors, model.path / "model.safetensors", metadata={"format": "pt"})
    return model


def divergence(model: HfModel, made: QuantizedHfModel) -> float:
    """Mean KL in nats a token on text that calibration has not seen."""
    found = []
    for one in (model, made):
        session = open_session(one, threads=1)
        ids = np.array(session.encode("Nobody is in a hurry on the river where the ferry waits for the mail."))
        found.append(torch.log_softmax(torch.from_numpy(session.logits(ids)), -1))
        session.close()
    return float((found[0].exp() * (found[0] - found[1])).sum(-1).mean())


def test_large_inputs_gain_by_scales(run: Run, tmp_path: Path) -> None:
    model = outlying(tmp_path / "hf")
    plain = divergence(model, run(Rtn(block=64), model, name="rtn")[0])
    none = Awq(block=64, compensate=False, ratios=0, duo_scaling=False)
    unscaled = divergence(model, run(none, model, name="unscaled")[0])
    scaled = divergence(model, run(Awq(block=64, compensate=False), model, name="scaled")[0])
    compensated = divergence(model, run(Awq(block=64), model, name="compensated")[0])
    assert compensated < scaled < 0.8 * unscaled < 0.8 * plain


@pytest.mark.parametrize(("layout", "kv_heads"), [("phi3", 4), ("gemma", 2)])
def test_recipe_with_scales_passes_its_gate_and_runs(tmp_path: Path, layout: Layout, kv_heads: int) -> None:
    model = tiny_model(tmp_path / "hf", layout=layout, kv_heads=kv_heads)
    outcome = api.run({
        "version": 1, "model": str(model.path), "passes": {"awq": {"tokens": 1024}, "build-genai": {}},
        "metrics": {"size": {}}, "threads": 1, "output": str(tmp_path / "out"), "store": str(tmp_path / "store"),
    })  # fmt: skip
    checks = {check["name"] for step in outcome.report["steps"] for check in step["checks"]}
    assert {"scaled-distance", "scaled-slope", "export-integers", "export-norms-and-biases"} <= checks


def test_layer_without_integers_computes_the_same_once_it_is_scaled(tmp_path: Path) -> None:
    from picual.models.links import links_of
    from picual.passes.quantize.folding import fold
    from picual.passes.quantize.network import LayeredNetwork

    for layout in ("llama", "phi3", "gemma"):
        model = tiny_model(tmp_path / layout, layout=layout, kv_heads=4)
        random = torch.Generator().manual_seed(1)
        network = LayeredNetwork(model, torch.randint(0, 255, (2, 32), generator=random))
        links = links_of(model.tensors(), model.config())[:4]
        with torch.no_grad(), network.layer(0) as layer:
            before = layer.forward(network.states.clone())
            norms = fold(layer, network.states, links, lambda link, *_: torch.linspace(0.5, 2, link.width))
            after = layer.forward(network.states.clone())
        assert norms is not None
        assert len(norms) == 2
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_scale_that_something_else_reads_is_taken_back(tmp_path: Path) -> None:
    from picual.models.layout import TensorSlice
    from picual.models.links import Link
    from picual.passes.quantize.folding import fold
    from picual.passes.quantize.network import LayeredNetwork

    network = LayeredNetwork(tiny_model(tmp_path), torch.arange(64)[None])
    forgets_values = Link(
        TensorSlice(NORM, 0, 64), tuple(f"model.layers.0.self_attn.{part}.weight" for part in ("q_proj", "k_proj"))
    )
    with torch.no_grad(), network.layer(0) as layer:
        before = layer.forward(network.states.clone())
        scales = torch.linspace(0.5, 2, 64)
        assert fold(layer, network.states, [forgets_values], lambda *_: scales) is None
        assert torch.equal(layer.forward(network.states.clone()), before)


def test_what_is_not_scaled_is_said(run: Run, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "hf")
    wide = Settings({"model.layers.1.self_attn.o_proj": {"bits": 8}})  # with so many, there is nothing to say
    _, context = run(Awq(tokens=1024, overrides=wide), model)
    skipped = {entry["skipped"]: entry["why"] for entry in context.journal if "skipped" in entry}
    assert list(skipped) == ["model.layers.0.self_attn.o_proj"]
    assert all("several query heads" in why for why in skipped.values())


def test_queries_and_keys_are_not_cut(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from picual.numerics import awq

    cuts: dict[int, list[bool]] = {}
    whole = awq.rounded

    def watched(weight: torch.Tensor, moments: torch.Tensor, **fields: Any) -> Any:
        cuts[len(weight)] = fields["cut"].tolist()
        return whole(weight, moments, **fields)

    monkeypatch.setattr(awq, "rounded", watched)
    run(Awq(tokens=1024), tiny_model(tmp_path / "hf"))
    assert cuts[128] == [False] * 96 + [True] * 32  # 64 rows of queries, 32 of keys, 32 of values
    assert cuts[192] == [True] * 192
    run(Awq(tokens=1024, clip=False), tiny_model(tmp_path / "hf"), name="uncut")
    assert not any(cuts[192])


def test_network_that_is_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "hf")
    file = model.path / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"model_type": "llama"', '"model_type": "cohere"'))
    with pytest.raises(Refused, match="`cohere`") as caught:
        Awq().check(HfModel(model.path), Target())
    assert "gptq" in str(caught.value.hint)
