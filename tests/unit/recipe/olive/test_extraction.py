from __future__ import annotations

import pytest

LORA = {"type": "LoRA", "r": 8}
BUILD = {"type": "ModelBuilder", "precision": "int4"}
EXTRACT = {"type": "ExtractAdapters", "make_inputs": True, "save_format": "onnx_adapter", "odd": 1}


def read(olive, passes):
    return olive({"input_model": {"type": "HfModel", "model_path": "owner/name"}, "passes": passes})


def note(recipe, path):
    return next((one.kind, one.text) for one in recipe.notes if one.path == path)


@pytest.mark.parametrize("nested", [False, True])
def test_adapters_that_were_never_merged_need_no_extraction(olive, nested):
    given = {"type": EXTRACT["type"], "config": {k: v for k, v in EXTRACT.items() if k != "type"}}
    recipe = read(olive, {"l": LORA, "b": BUILD, "e": given if nested else EXTRACT})

    assert [step.type for step in recipe.steps] == ["lora", "build-genai"]
    inside = "passes.e.config" if nested else "passes.e"
    kind, text = note(recipe, "passes.e.type")
    assert kind == "mapped"
    assert "files of their own already" in text
    assert note(recipe, f"{inside}.make_inputs")[0] == "mapped"
    assert "picual extract-adapters" in note(recipe, f"{inside}.save_format")[1]
    assert note(recipe, f"{inside}.odd")[0] == "ignored"


@pytest.mark.parametrize("passes", [
    {"l": LORA, "m": {"type": "MergeAdapterWeights"}, "b": BUILD, "e": EXTRACT}, {"b": BUILD, "e": EXTRACT},
    {"e": EXTRACT},
])  # fmt: skip
def test_where_there_is_no_adapter_beside_the_graph_it_is_said_how_there_would_be(olive, passes):
    recipe = read(olive, passes)

    assert recipe.steps[-1].type == "ExtractAdapters"
    kind, text = note(recipe, "passes.e")
    assert kind == "later"
    assert "without `merge-adapter` between" in text


def test_integers_before_an_adapter_go_over_as_they_are(olive):
    recipe = read(olive, {"q": {"type": "Rtn", "bits": 4}, "l": LORA, "b": BUILD, "e": EXTRACT})

    assert [step.type for step in recipe.steps] == ["rtn", "lora", "build-genai"]
    assert "precision" not in recipe.steps[-1].fields
