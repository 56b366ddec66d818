from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from picual.errors import PicualError
from picual.recipe.check import check
from picual.recipe.document import document_of, read_document
from picual.recipe.dump import to_mapping
from picual.recipe.olive import import_config
from picual.recipe.olive.notes import UNKNOWN

OURS = Path(__file__).parent / "configs"
ODD = (
    None, True, False, 0, -1, 3.5, float("inf"), 10**400, "", " ", "x", "{", "{a}", "<place_holder>",
    "SEARCHABLE_VALUES", [], {}, [[]], [None], ["a", 1], [{}], [{"type": "x"}], {"type": None}, {"type": "LoRA"},
    {"config": 1}, {"config": {"r": []}}, {"params": "x"}, {"params_config": []},
    {"components": {"load_dataset": 3}},
)  # fmt: skip


def test_every_value_of_a_public_config_has_a_note(public_config, account):
    document = read_document(public_config)

    recipe = import_config(document)

    assert account(document.value, recipe) == []
    assert [note.path for note in recipe.notes if note.text == UNKNOWN[1]] == []
    assert recipe.problems == ()


def test_the_steps_of_a_public_config_keep_their_names_and_places(public_config):
    document = read_document(public_config)
    recipe = import_config(document)

    flows = document.value.get("pass_flows")
    named = flows[0] if flows else list(document.value.get("passes", {}))
    told = {note.path: note.text for note in recipe.notes}
    joined = {name for name in named if told.get(f"passes.{name}", "").startswith("is a part of step")}
    moved = {name for name in named if "it comes before" in told.get(f"passes.{name}.type", "")}
    kept = [step for step in recipe.steps if step.name not in moved]
    assert [step.name for step in kept] == [name for name in named if name not in joined | moved]
    assert len(recipe.steps) == len(kept) + len(moved)
    assert all(step.place.line > 0 for step in recipe.steps)
    places = [step.place.line for step in kept]
    assert places == sorted(places)


def test_no_value_of_a_public_config_is_of_a_wrong_type_for_its_field(public_config):
    problems = check(import_config(read_document(public_config)))

    assert [one for one in problems if "must be" in one.what] == []


def test_a_config_changed_at_random_is_read_or_refused_with_a_reason(public_config, account):
    original = read_document(public_config).value
    chance = random.Random(public_config.name)
    for _ in range(6):
        value = mutated(original, chance)
        try:
            recipe = import_config(document_of(value))
        except PicualError as error:
            assert error.where or error.hint  # noqa: PT017  # most mutations are read, and go on below
            continue
        assert account(value, recipe) == [], json.dumps(value)
        check(recipe)
        to_mapping(recipe)


@pytest.mark.parametrize("name", ["seed-local", "seed-azure", "phrase-classification"])
def test_a_config_of_the_page_changed_at_random_is_read_or_refused(name, account):
    original = read_document(OURS / f"{name}.json").value
    chance = random.Random(name)
    for _ in range(60):
        value = mutated(original, chance)
        try:
            recipe = import_config(document_of(value))
        except PicualError:
            continue
        assert account(value, recipe) == [], json.dumps(value)
        check(recipe)


def mutated(value, chance):
    changed = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        spots = list(containers(changed))
        holder, key = chance.choice(spots)
        if chance.random() < 0.3:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD))
        if not changed:
            return changed
    return changed


def containers(value):
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from containers(value[key])
