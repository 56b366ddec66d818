from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from picual.recipe.check import check
from picual.recipe.registering import registry_of
from picual.recipe.schema import Recipe
from picual.registries.azureml import AzureMlModels

Olive = Callable[..., Recipe]
CLIENT = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w", "max_operation_retries": 7}
MODELS = {"type": "AzureMLModels", "name": "tone", "config": {"version": 3, "description": "small"}}
BASE: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "owner/name"},
    "passes": {"build": {"type": "ModelBuilder", "precision": "int4"}},
}


def said(recipe: Recipe, path: str) -> list[tuple[str, str]]:
    return [(note.kind, note.text) for note in recipe.notes if note.path.startswith(path)]


@pytest.mark.parametrize("nested", [True, False])
def test_a_model_of_the_configs_own_workspace_is_registered_there(olive: Olive, nested: bool) -> None:
    packaging = {"engine": {"packaging_config": MODELS}} if nested else {"packaging_config": MODELS}

    recipe = olive({**BASE, "azureml_client": CLIENT, **packaging})

    assert recipe.register == {
        "name": "tone", "version": "3", "description": "small", "subscription_id": "s", "resource_group": "g",
        "workspace_name": "w", "max_operation_retries": 7,
    }  # fmt: skip
    assert isinstance(registry_of(recipe), AzureMlModels)
    assert [one for one in check(recipe) if "register" in one.what] == []
    assert not [kind for kind, _ in said(recipe, "azureml_client") if kind == "ignored"]


def test_flat_fields_a_file_and_olives_default_name(olive: Olive) -> None:
    flat = {"type": "azuremlmodels", "description": "small", "include_runtime_packages": False}

    recipe = olive({**BASE, "azureml_client": {"aml_config_path": "ws.json"}, "packaging_config": [flat]})

    assert recipe.register == {"name": "OutputModels", "description": "small", "aml_config_path": "ws.json"}
    assert said(recipe, "packaging_config.0.name") == [("defaulted", "left out: `OutputModels`, as in Olive")]
    assert said(recipe, "packaging_config.0.include_runtime_packages")[0][0] == "ignored"


def test_a_system_may_name_the_workspace(olive: Olive) -> None:
    system = {"type": "AzureML", "config": {"aml_compute": "c", "azureml_client": CLIENT,
                                            "aml_docker_config": {"base_image": "an/image"}}}  # fmt: skip

    recipe = olive({**BASE, "systems": {"aml": system}, "packaging_config": MODELS})

    assert recipe.register == {"name": "tone", "version": "3", "description": "small", "host": "aml"}
    registry = registry_of(recipe)
    assert isinstance(registry, AzureMlModels)
    assert registry.workspace_name == "w"


def test_a_workspace_that_nothing_names_is_a_problem(olive: Olive) -> None:
    recipe = olive({**BASE, "packaging_config": MODELS})

    (problem,) = [one for one in check(recipe) if "packaging_config" in one.what]
    assert "`azureml_client`" in problem.hint
    assert recipe.register is None


@pytest.mark.parametrize("package", [{"type": "Zipfile", "name": "z"}, {"type": "AzureMLData", "name": "d"}, "x"])
def test_other_packages_are_left_out_with_a_note(olive: Olive, package: Any) -> None:
    alone = olive({**BASE, "packaging_config": package})
    both = olive({**BASE, "azureml_client": CLIENT, "packaging_config": [package, MODELS, MODELS]})

    assert alone.register is None
    assert said(alone, "packaging_config")[0] == (
        "later", "packages are not made in this version: the model's folder is complete as it is",
    )  # fmt: skip
    assert both.register is not None
    assert "registered once" in said(both, "packaging_config.2")[0][1]


def test_an_evaluation_registers_nothing(olive: Olive) -> None:
    recipe = olive({**BASE, "passes": {}, "azureml_client": CLIENT, "packaging_config": MODELS})

    assert recipe.register is None
    assert "no pass" in said(recipe, "packaging_config")[0][1]
