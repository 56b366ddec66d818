from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import Refused
from picual.hardware import Target
from picual.models import GenaiModel, HfModel, QuantizedHfModel
from picual.numerics.block_sizes import Format
from picual.passes.base import PassContext
from picual.passes.quantize.quantize import Quantize
from picual.passes.quantize.rtn import Rtn
from picual.passes.quantize.sites import Site, bytes_of, sites_of
from picual.passes.quantize.solving import best_within
from picual.space import Settings
from picual.testing.tiny import tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]
Export = Callable[..., GenaiModel]


def test_weights_of_one_kernel_are_one_site(tiny: HfModel) -> None:
    first = [site for site in sites_of(tiny) if site.layer == 0]
    parts = [[name.split(".")[-2] for name in site.names] for site in first]
    assert sorted(parts) == [["down_proj"], ["gate_proj", "up_proj"], ["o_proj"], ["q_proj", "k_proj", "v_proj"]]
    assert [site.names for site in sites_of(tiny) if site.is_head] == [("model.embed_tokens.weight",)]


def test_untied_head_is_a_site_of_its_own(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "hf", tied=False)
    assert [site.names[0] for site in sites_of(model) if site.is_head] == ["lm_head.weight"]
    assert [site.names[0] for site in sites_of(model) if site.is_table] == ["model.embed_tokens.weight"]


def test_last_matching_override_counts(tiny: HfModel) -> None:
    a_pass = Rtn(overrides=Settings({"*.mlp.*": {"bits": 8}, "model.layers.0.*": {"block": 16}}))
    formats = {site.names[0]: str(form) for site, form in a_pass.formats(tiny).items()}
    assert formats["model.layers.0.mlp.down_proj.weight"] == "int8 block 16"
    assert formats["model.layers.1.mlp.down_proj.weight"] == "int8 block 32"
    assert formats["model.layers.1.self_attn.o_proj.weight"] == "int4 block 32"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.down_porj": {"bits": 8}}, r"no quantized weight matches"),
        ({"*.down_proj": {"bits": 3}}, r"bits \(2, 4, 8\)"),
        ({"*.down_proj": {"bitz": 8}}, r"bits \(2, 4, 8\)"),
    ],
)
def test_override_that_says_nothing_is_refused(tiny: HfModel, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        Rtn(overrides=Settings(overrides)).check(tiny, Target())


@pytest.mark.parametrize("effort", ["fast", "balanced", "best"])
def test_files_keep_within_the_size(tmp_path: Path, run: Run, effort: Any, export: Export) -> None:
    model = tiny_model(tmp_path / "hf", layers=4)
    smallest = export(run(Rtn(block=64, head_block=64), model, name="small")[0], tmp_path / "small-genai").size()
    limit = smallest + 60_000
    made, _ = run(Quantize(effort=effort, max_size=limit), model)
    size = export(made, tmp_path / "genai").size()
    assert limit - 40_000 < size <= limit
    assert len({(how.bits, how.block) for how in made.stored().values()}) > 2


def test_size_out_of_reach_is_refused_with_one_in_reach(tiny: HfModel) -> None:
    with pytest.raises(Refused, match="too large") as caught:
        Quantize(max_size=60_000).check(tiny, Target())
    assert caught.value.hint is not None
    hint = caught.value.hint.split("`")[1]
    Quantize(max_size=round(float(hint.removeprefix("max_size: ").removesuffix("MB")) * 1e6)).check(tiny, Target())


def test_mean_width_is_kept(tiny: HfModel, run: Run) -> None:
    _, context = run(Quantize(effort="fast", bits_per_weight=6.0, head="int4", read_price=0), tiny)
    assert 5.5 < context.metrics["bits_per_weight"] <= 6.0


def test_large_table_is_not_left_behind_by_a_greedy_choice() -> None:
    narrow, wide = (Format(bits=bits, block=32, symmetric=False) for bits in (4, 8))
    layers = [Site((f"model.layers.{n}.mlp.down_proj.weight",), (32,), 32, n) for n in range(4)]
    head = Site(("model.embed_tokens.weight",), (256,), 32, None, is_head=True, is_table=True)
    candidates = {site: [narrow, wide] for site in (*layers, head)}
    # A byte spent on a layer saves more than one spent on the head; there is room for the head, not for both.
    costs = {site: {narrow: 0.3, wide: 0.0} for site in layers} | {head: {narrow: 2.0, wide: 0.0}}
    budget = bytes_of(head, wide) + sum(bytes_of(site, narrow) for site in layers)
    found = best_within(candidates, costs, budget)
    assert found is not None
    assert found.formats[head] == wide
    assert found.cost == pytest.approx(1.2)


def test_fast_under_a_size_heeds_what_layers_do(tiny: HfModel, run: Run) -> None:
    """Errors of `o_proj` commonly do little. In a random network they do much, and only running it shows that."""
    a_pass = Quantize(effort="fast", bits_per_weight=6.0, head="int8", read_price=0)
    made, context = run(a_pass, tiny)
    assert made.stored()["model.layers.0.self_attn.o_proj.weight"].bits == 8
    expected = {site.names[0]: form for site, form in a_pass.outlook(tiny, Target()).items()}
    assert expected["model.layers.0.self_attn.o_proj.weight"].bits == 4
    assert context.metrics["predicted_kl"] > 0


def test_size_is_kept_by_the_weights_alone_where_layers_cannot_be_run(
    tiny: HfModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise Refused("it has no list of decoder layers")

    monkeypatch.setattr("picual.passes.quantize.quantize.measured", refused)
    _, context = run(Quantize(effort="fast", bits_per_weight=6.0), tiny)
    assert 5.5 < context.metrics["bits_per_weight"] <= 6.0
    assert "predicted_kl" not in context.metrics
    assert any("by the weights alone" in line.get("note", "") for line in context.journal)
    limit: Any
    for number, limit in enumerate([
        {"effort": "balanced", "bits_per_weight": 6.0}, {"effort": "fast", "max_kl": 0.1},
        {"effort": "fast", "max_kl": 0.1, "bits_per_weight": 6.0},
    ]):  # fmt: skip
        with pytest.raises(Refused):
            run(Quantize(**limit), tiny, name=str(number))


def test_too_short_a_text_leaves_fast_to_the_weights_alone(tiny: HfModel, run: Run, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("few words")
    data = {"short": DataConfig(files=(str(tmp_path / "short.txt"),))}
    _, context = run(Quantize(effort="fast", bits_per_weight=6.0, data="short"), tiny, data=data)
    assert any("no text was looked at" in line.get("note", "") for line in context.journal)
    assert context.metrics["bits_per_weight"] <= 6.0


def test_formats_for_another_device_are_another_step(tiny: HfModel) -> None:
    assert Quantize.target_matters
    a_pass = Quantize(bits_per_weight=6.5, read_price=30.0)
    assert a_pass.outlook(tiny, Target()) != a_pass.outlook(tiny, Target(device="gpu"))


def test_killed_run_does_not_measure_again(tiny: HfModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(number: int) -> PassContext:
        for name in ("out", "scratch"):
            (tmp_path / str(number) / name).mkdir(parents=True, exist_ok=True)
        return PassContext(
            folder=tmp_path / str(number) / "out", scratch=tmp_path / "0" / "scratch", threads=1, seed=7
        )

    first = Quantize(bits_per_weight=6.0).run(tiny, once(0))
    monkeypatch.setattr("picual.passes.quantize.quantize.measured", None)
    again = Quantize(bits_per_weight=6.0).run(tiny, once(1))
    assert again.stored() == first.stored()
    with pytest.raises(TypeError):  # other fields: it would have to
        Quantize(bits_per_weight=7.0).run(tiny, once(2))
