from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picual.errors import BadValue
from picual.recipe.document import document_of
from picual.recipe.olive import import_config
from picual.recipe.schema import Place

FLAT = {
    "input_model": {"type": "HfModel", "model_path": "owner/name", "load_kwargs": {"torch_dtype": "float16"}},
    "systems": {
        "here": {
            "type": "LocalSystem",
            "accelerators": [{"device": "gpu", "execution_providers": ["CUDAExecutionProvider"], "memory": "4GB"}],
        }
    },
    "data_configs": [
        {
            "name": "rows",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "owner/rows", "split": "train", "subset": "en"},
            "pre_process_data_config": {
                "text_cols": "text",
                "strategy": "join",
                "max_seq_len": 64,
                "max_samples": 9,
            },
            "dataloader_config": {"batch_size": 1},
        }
    ],
    "passes": {
        "tune": {
            "type": "LoRA",
            "r": 8,
            "alpha": 4,
            "train_data_config": "rows",
            "training_args": {"max_steps": 2},
        },
        "build": {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 16, "int4_accuracy_level": 4},
    },
    "target": "here",
    "host": "here",
    "output_dir": "models",
    "cache_dir": "cache",
    "log_severity_level": 2,
}
ENGINE_KEYS = ("target", "host", "output_dir", "cache_dir", "log_severity_level")


def nest(entry, nested):
    return {"type": entry["type"], nested: {key: value for key, value in entry.items() if key != "type"}}


def written(choices):
    """Return the same config with each object nested or flat, as the choices say."""
    config = copy.deepcopy(FLAT)
    if choices[0]:
        config["input_model"] = nest(config["input_model"], "config")
    if choices[1]:
        config["systems"]["here"] = nest(config["systems"]["here"], "config")
    for number, part in enumerate(("load_dataset_config", "pre_process_data_config", "dataloader_config")):
        if choices[2 + number]:
            config["data_configs"][0][part] = {"params": config["data_configs"][0][part]}
    for number, name in enumerate(("tune", "build")):
        if choices[5 + number]:
            config["passes"][name] = nest(config["passes"][name], "config")
    if choices[7]:
        config["engine"] = {key: config.pop(key) for key in ENGINE_KEYS}
    if choices[8]:
        config["data_configs"] = {"rows": config["data_configs"][0]}
    return config


def meaning(config):
    """Return the recipe without what tells where it stands."""
    recipe = import_config(document_of(config))
    steps = tuple(dataclasses.replace(step, places={}, place=Place()) for step in recipe.steps)
    return dataclasses.replace(recipe, steps=steps, notes=(), places={}, data_places={})


@given(st.lists(st.booleans(), min_size=9, max_size=9))
def test_nested_and_flat_objects_mean_the_same_one_by_one(choices):
    assert meaning(written(choices)) == meaning(FLAT)


def test_the_flat_form_means_what_it_says():
    recipe = meaning(FLAT)

    assert recipe.model.options == {}
    assert (recipe.target.device, recipe.target.memory) == ("gpu", 4 * 10**9)
    assert (recipe.data["rows"].name, recipe.data["rows"].subset) == ("owner/rows", "en")
    assert (recipe.data["rows"].text, recipe.data["rows"].strategy) == ("text", "join")
    assert (recipe.data["rows"].max_length, recipe.data["rows"].max_samples) == (64, 9)
    assert recipe.steps[0].fields["rank"] == 8
    assert recipe.steps[1].fields == {"precision": "int4", "block": 16, "accuracy_level": 4}
    assert (recipe.output, recipe.store, recipe.log_level) == ("models", "cache", "warning")


def test_a_key_that_stands_nested_and_flat_counts_nested_and_the_other_is_named(olive):
    config = copy.deepcopy(FLAT)
    config["passes"]["tune"] = {"type": "LoRA", "r": 8, "config": {"r": 16}}

    recipe = olive(config)

    assert recipe.steps[0].fields["rank"] == 16
    note = next(note for note in recipe.notes if note.path == "passes.tune.r")
    assert (note.kind, note.text) == ("ignored", "`passes.tune.config.r` says it already")


@pytest.mark.parametrize("name", ["LoRA", "lora", "LORA", "  Lora  "])
def test_types_are_read_without_regard_to_case_and_blanks_around(olive, name):
    assert olive({"passes": {"one": {"type": name}}}).steps[0].type == "lora"


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("passes", "LoRA"), ("passes", 3), ("systems", ["here"]), ("engine", "fast"), ("evaluators", 1),
        ("data_configs", "rows"), ("input_model", "owner/name"),
    ],
)  # fmt: skip
def test_a_section_of_the_wrong_shape_is_refused(section, value):
    with pytest.raises(BadValue, match=f"`{section}` must be") as caught:
        import_config(document_of({**FLAT, section: value}, file="olive.json"))
    assert caught.value.where == "olive.json"


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_section_is_one_that_is_left_out(olive, empty):
    recipe = olive({"passes": empty, "systems": empty, "evaluators": empty, "engine": empty, "data_configs": None})

    assert recipe.steps == ()
    assert recipe.problems == ()


def test_passes_may_be_a_list_and_the_same_type_may_stand_twice(olive):
    recipe = olive({"passes": [{"type": "LoRA"}, {"merge": {"type": "MergeAdapterWeights"}}, {"type": "LoRA"}]})

    assert [(step.name, step.type) for step in recipe.steps] == [
        ("LoRA", "lora"), ("merge", "merge-adapter"), ("LoRA_2", "lora"),
    ]  # fmt: skip


def test_without_a_search_the_first_of_alternatives_is_the_step(olive):
    recipe = olive({"passes": {"tune": [{"type": "LoRA", "r": 2}, {"type": "QLoRA", "r": 3}]}})

    assert [(step.name, step.type, step.fields["rank"]) for step in recipe.steps] == [("tune", "lora", 2)]
    assert ("passes.tune.1", "ignored") in {(note.path, note.kind) for note in recipe.notes}


def test_the_first_flow_orders_the_steps_and_drops_the_others(olive):
    passes = {"a": {"type": "LoRA"}, "b": {"type": "MergeAdapterWeights"}, "c": {"type": "ModelBuilder"}}

    recipe = olive({"passes": passes, "pass_flows": [["b", "a"], ["c"]]})

    assert [step.name for step in recipe.steps] == ["b", "a"]
    assert {note.path: note.kind for note in recipe.notes}["passes.c"] == "ignored"


def test_a_pass_that_is_not_here_keeps_its_name_and_its_parameters(olive):
    recipe = olive({"passes": {"q": {"type": "ConvertHfToGGUF", "config": {"factor": 2}, "lora_r": 4}}})

    step = recipe.steps[0]
    assert (step.type, step.fields) == ("ConvertHfToGGUF", {"factor": 2, "lora_r": 4})
    note = next(note for note in recipe.notes if note.path == "passes.q")
    assert (note.kind, "ConvertHfToGGUF" in note.text) == ("later", True)


def test_qlora_keeps_what_it_says_about_4_bits(olive):
    settings = {
        "double_quant": True, "quant_type": "fp4", "compute_dtype": "torch.bfloat16", "lora_r": 4,
        "target_modules": ["qkv_proj"], "torch_dtype": "float32", "save_quant_config": False,
    }  # fmt: skip

    recipe = olive({"passes": {"q": {"type": "QLoRA", "config": settings}}})

    step = recipe.steps[0]
    assert step.type == "qlora"
    assert step.fields == {
        "double_quant": True, "quant_type": "fp4", "compute_dtype": "bfloat16", "dtype": "float32", "rank": 4,
        "alpha": 16, "dropout": 0.05, "modules": ["qkv_proj"],
    }  # fmt: skip
    notes = {note.path.removeprefix("passes.q.config."): note.kind for note in recipe.notes}
    assert notes["double_quant"] == notes["quant_type"] == notes["compute_dtype"] == "mapped"
    assert notes["save_quant_config"] == "mapped"


def test_loftq_is_qlora_with_another_start(olive):
    recipe = olive({"passes": {"q": {"type": "LoftQ", "config": {"loftq_iter": 3}, "r": 8, "lora_alpha": 8}}})

    step = recipe.steps[0]
    assert step.type == "qlora"
    assert step.fields == {
        "init": "loftq", "loftq_iterations": 3, "rank": 8, "alpha": 8, "dropout": 0.05
    }  # fmt: skip
    notes = {note.path: note.kind for note in recipe.notes}
    assert notes["passes.q.config.loftq_iter"] == "mapped"


def test_qlora_in_float16_multiplies_in_what_is_fast_here(olive):
    recipe = olive({"passes": {"q": {"type": "QLoRA", "compute_dtype": "float16", "torch_dtype": "float16"}}})

    assert (recipe.steps[0].fields["compute_dtype"], recipe.steps[0].fields["dtype"]) == ("auto", "float16")
    assert ("passes.q.compute_dtype", "replaced") in {(note.path, note.kind) for note in recipe.notes}


def test_a_misspelled_parameter_is_named_with_the_one_it_may_have_been(olive):
    recipe = olive({"passes": {"one": {"type": "LoRA", "lora_dropuot": 0.5}}})

    note = next(note for note in recipe.notes if note.path == "passes.one.lora_dropuot")
    assert "did you mean `lora_dropout`" in note.text
