from __future__ import annotations

from pathlib import Path

import pytest

from picual.recipe.check import check
from picual.recipe.document import read_document
from picual.recipe.olive import import_config

PUBLIC = Path(__file__).parents[5] / "shared" / "data" / "olive-configs"
GPTQ = {"type": "GptqQuantizer", "group_size": 32}


@pytest.fixture
def read(olive):
    """Return an importer of passes whose recipe passes the check."""

    def import_(passes):
        recipe = olive({"input_model": {"type": "HfModel", "model_path": "owner/name"}, "passes": passes})
        assert [one.what for one in check(recipe)] == []
        return recipe

    return import_


def note(recipe, path):
    return next((one.kind, one.text) for one in recipe.notes if one.path == path)


@pytest.mark.parametrize("type_", ["QuaRot", "SpinQuant"])
def test_rotations_become_rotate_and_it_is_said_what_differs(read, type_):
    recipe = read({"q": {"type": type_, "seed": 3, "rotate_mode": "hadamard"}, "g": GPTQ})

    assert [(step.type, dict(step.fields)) for step in recipe.steps] == [
        ("rotate", {"seed": 3}), ("gptq", {"block": 32}),
    ]  # fmt: skip
    kind, text = note(recipe, "passes.q.type")
    assert kind == "replaced"
    assert "`residual: true`" in text
    assert ("Olive's are trained" in text) is (type_ == "SpinQuant")
    assert note(recipe, "passes.q.seed")[0] == "mapped"
    assert note(recipe, "passes.q.rotate_mode")[0] == "mapped"


def test_what_olive_does_while_the_model_runs_has_no_effect_and_says_so(read):
    given = {
        "type": "QuaRot", "w_bits": 16, "a_bits": 4, "k_bits": 4, "w_rtn": True, "rotate": True,
        "calibration_data_config": "rows", "rotate_mode": "random",
    }  # fmt: skip

    recipe = read({"q": given})

    (step,) = recipe.steps
    assert (step.type, dict(step.fields)) == ("rotate", {})
    assert "while the model runs" in note(recipe, "passes.q.a_bits")[1]
    assert "while the model runs" in note(recipe, "passes.q.k_bits")[1]
    assert "the quantizer after it" in note(recipe, "passes.q.w_rtn")[1]
    assert note(recipe, "passes.q.rotate_mode")[0] == "replaced"


def test_public_config_that_rotates_starts_with_our_rotation():
    file = PUBLIC / "new-28-qdq_config_vitis_ai_reason.json"
    if not file.is_file():
        pytest.skip("the public configs are not here")

    recipe = import_config(read_document(file))

    assert [step.type for step in recipe.steps[:2]] == ["rotate", "gptq"]
    assert not any("`QuaRot`" in problem.what for problem in check(recipe))
