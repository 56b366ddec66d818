from __future__ import annotations

import pytest

from picual.passes import registry
from picual.recipe.check import check

FIRST = {"train_data_config": "rows", "r": 8, "alpha": 4, "target_modules": ["q_proj"]}


@pytest.fixture
def read(olive, tmp_path):
    """Return an importer of one pass whose recipe passes the check; its fields and its notes by parameter."""

    def import_(**given):
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n')
        recipe = olive({
            "input_model": {"type": "HfModel", "model_path": "owner/name"},
            "data_configs": [{
                "name": "rows", "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(rows)},
                "pre_process_data_config": {"text_cols": ["text"]},
            }],
            "passes": {"a": {**FIRST, **given}},
        })  # fmt: skip
        assert [one.what for one in check(recipe)] == []
        (step,) = recipe.steps
        notes = {one.path.removeprefix("passes.a."): (one.kind, one.text) for one in recipe.notes}
        return step.type, dict(step.fields), notes

    return import_


@pytest.mark.parametrize("type_", ["DoRA", "LoHa", "LoKr"])
def test_a_method_is_lora_with_its_name(read, type_):
    kind, fields, notes = read(type=type_)
    assert kind == "lora"
    dropout = 0.05 if type_ == "DoRA" else 0.0
    assert fields == {
        "method": type_.lower(), "rank": 8, "alpha": 4, "modules": ["q_proj"], "dropout": dropout, "data": "rows",
    }  # fmt: skip
    assert notes["type"] == ("mapped", "becomes `lora`")
    assert registry.build("lora", fields).method == type_.lower()


def test_the_dropout_of_outputs_is_ours_of_such_a_method(read):
    _, fields, notes = read(type="LoHa", rank_dropout=0.2, lora_dropout=0.3)
    assert fields["dropout"] == 0.2
    assert notes["rank_dropout"] == ("mapped", "becomes `passes.a.dropout`")
    assert notes["lora_dropout"][0] == "ignored"
    _, fields, notes = read(type="DoRA", lora_dropout=0.3)
    assert fields["dropout"] == 0.3
    assert notes["lora_dropout"][0] == "mapped"


@pytest.mark.parametrize(
    ("type_", "name", "same", "other"),
    [
        ("LoHa", "module_dropout", 0.0, 0.1), ("LoHa", "init_weights", True, False),
        ("LoHa", "rank_pattern", {}, {"q_proj": 2}), ("LoKr", "decompose_factor", -1, 4),
        ("LoKr", "decompose_both", False, True), ("LoKr", "rank_dropout_scale", True, False),
    ],
)  # fmt: skip
def test_what_is_so_anyway_is_told_from_what_is_not(read, type_, name, same, other):
    assert read(type=type_, **{name: same})[2][name][0] == "mapped"
    kind, text = read(type=type_, **{name: other})[2][name]
    assert kind == "ignored"
    assert text


@pytest.mark.parametrize(
    "name", ["use_effective_conv2d", "exclude_modules", "layers_to_transform", "layers_pattern"]
)
def test_what_has_no_counterpart_says_why(read, name):
    given = {"use_effective_conv2d": True, "exclude_modules": ["k_proj"], "layers_to_transform": [0]}
    kind, text = read(type="LoKr", **{name: given.get(name, ["layers"])})[2][name]
    assert kind == "ignored"
    assert len(text) > 20


def test_the_strength_of_rslora_is_not_that_of_another_method(read):
    _, fields, notes = read(type="DoRA", use_rslora=True)
    assert fields["use_rslora"] is False
    assert notes["use_rslora"][0] == "ignored"
    assert registry.build("lora", fields).method == "dora"
