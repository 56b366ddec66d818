from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from picual.recipe.document import read_document
from picual.recipe.json_schema import schema
from picual.recipe.load import dialect_of

EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD: dict[str, Any] = {
    "version": 1,
    "model": {"path": "models/phi", "layout": "phi3"},
    "target": {"device": "gpu", "provider": "CUDAExecutionProvider", "memory": "8GB"},
    "hosts": {"cloud": {"type": "azureml", "compute": "big"}},
    "data": {"tone": {"files": "tone.jsonl", "template": "{phrase}"}, "two": {"files": ["a", "b"], "text": "x"}},
    "passes": {
        "lora": {"data": "tone", "training": {"max_steps": 1}, "host": "cloud"},
        "merge-adapter": None,
        "small": {"type": "build-genai", "precision": "int4"},
    },
    "metrics": {"accuracy": {"data": "tone"}, "speed": {"type": "latency"}, "size": None},
    "register": {"host": "cloud", "name": "tone", "version": 3, "tags": {"team": "one"}},
    "log": "debug",
}


@pytest.fixture
def validator() -> jsonschema.Draft202012Validator:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def changed(path: str, value: Any) -> dict[str, Any]:
    recipe = json.loads(json.dumps(GOOD))
    here = recipe
    *parents, last = path.split(".")
    for parent in parents:
        here = here[parent]
    here[last] = value
    return recipe


def test_a_good_recipe_is_valid(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(GOOD)
    validator.validate({"version": 1, "model": "owner/name"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("modle", "x"),
        ("model.uri", "two"),
        ("model", 1),
        ("target.provider", "CPUExecutionProvidr"),
        ("target.device", "tpu"),
        ("data.tone.strategy", "joined"),
        ("data.tone.files", 3),
        ("passes.lora.rnk", 3),
        ("passes.lora.training", [1]),
        ("passes.merge-adapter", {"dtype": "float61"}),
        ("passes.small.type", "build-gen"),
        ("passes.small.blok", 32),
        ("passes.laro", {}),
        ("metrics.speed.type", "late"),
        ("metrics.acuracy", {}),
        ("register.nmae", "tone"),
        ("register", {"host": "cloud"}),
        ("log", "loud"),
        ("seed", "1"),
    ],
)
def test_a_mistake_is_not_valid(validator: jsonschema.Draft202012Validator, path: str, value: Any) -> None:
    assert not validator.is_valid(changed(path, value))


def test_a_search_domain_is_valid_where_a_field_declares_one(validator: jsonschema.Draft202012Validator) -> None:
    assert validator.is_valid(changed("passes.small.block", {"search": [32, 64]}))


def test_the_help_of_a_field_is_its_description() -> None:
    found = schema()

    dtype = found["$defs"]["passes.merge-adapter"]["properties"]["dtype"]
    assert dtype["anyOf"][0]["enum"] == ["keep", "float32", "float16", "bfloat16"]
    assert "keep" in dtype["description"]
    assert dtype["default"] == "keep"
    assert json.loads(json.dumps(found)) == found


SEARCHED = {
    "version": 1,
    "model": "smollm2-135m",
    "passes": {
        "build-genai": {"precision": {"search": ["int8"]}, "block": {"search": {"low": 16, "high": 32}}},
        "again": {"search": [{"type": "build-genai"}, {"type": "none"}]},
    },
    "search": {"minimize": "size", "subject_to": {"size": ["<= 1GB"]}, "sampler": "gp"},
}


def test_a_search_is_valid_and_mistakes_in_it_are_not(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(SEARCHED)
    for path, value in [(("search", "sampler"), "hyperband"), (("search", "minimise"), "size"),
                        (("passes", "again"), {"search": []})]:  # fmt: skip
        wrong = json.loads(json.dumps(SEARCHED))
        wrong[path[0]][path[1]] = value
        assert not validator.is_valid(wrong), path


def test_every_example_recipe_is_valid(validator: jsonschema.Draft202012Validator) -> None:
    files = [*EXAMPLES.rglob("*.yaml"), *EXAMPLES.rglob("*.json")]
    recipes = [value for file in files if "version" in (value := _mapping(file)) and dialect_of(value) == "picual"]

    for recipe in recipes:
        validator.validate(recipe)


def _mapping(file: Path) -> dict[str, Any]:
    if file.suffix == ".yaml":
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return read_document(file).value if isinstance(found, dict) else {}
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
