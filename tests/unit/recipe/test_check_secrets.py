"""What looks like a secret is refused, and not repeated."""

from __future__ import annotations

from typing import Any

import pytest

from picual import api

PLANTED = "PlantedSecretThatNobodyMaySee0123456789"


@pytest.mark.parametrize(("recipe", "path", "what"), [
    ({"model": f"https://a.blob.core.windows.net/c/m?sv=1&sig={PLANTED}"}, "model.uri", "a signed address"),
    ({"hosts": {"one": {"type": "azureml", "tags": {"t": f"hf_{PLANTED}"}}}}, "hosts.one.tags.t", "a token"),
    ({"tracking": f"https://me:{PLANTED}@server/"}, "tracking", "a password in an address"),
    ({"hosts": {"one": {"type": "environment", "environment_variables": {"K": f"AccountKey={PLANTED}"}}}},
     "hosts.one.environment_variables.K", "the key of a storage account"),
])  # fmt: skip
def test_a_secret_in_a_recipe_is_refused(recipe: dict[str, Any], path: str, what: str) -> None:
    whole = {"version": 1, "model": "a/model", "passes": {"build-genai": {}}, **recipe}

    found = [problem for problem in api.check(whole) if what in problem.what]

    assert len(found) == 1
    assert f"`{path}`" in found[0].what or path.rpartition(".")[0] in found[0].what
    assert PLANTED not in str(found)
    assert found[0].hint


def test_words_that_only_speak_of_secrets_are_none() -> None:
    recipe = {"version": 1, "model": "hf_models/signed", "passes": {"build-genai": {}}}

    assert not [problem for problem in api.check(recipe) if "holds" in problem.what]
