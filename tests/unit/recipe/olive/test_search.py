from __future__ import annotations

import pytest

from picual.recipe import searching
from picual.recipe.check import check
from picual.recipe.document import document_of
from picual.recipe.dump import to_mapping, to_yaml
from picual.recipe.load import load
from picual.recipe.native import read
from picual.recipe.olive import import_config
from picual.search import samplers
from picual.search.settings import read as read_settings

ROWS = {
    "name": "rows",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "json", "data_files": "rows.json"},
    "pre_process_data_config": {"text_template": "{text} -> {tone}"},
    "dataloader_config": {"batch_size": 4},
}
SIZE = {"name": "bytes", "type": "size_on_disk", "sub_types": [{"name": "bytes", "priority": 1}]}


def config(strategy=True, passes=None, metrics=(SIZE,), **more):
    return {
        "input_model": {"type": "HfModel", "model_path": "owner/name"},
        "data_configs": [ROWS],
        "passes": {"tune": {"type": "LoRA", "r": [8, 16]}} if passes is None else passes,
        "evaluators": {"all": {"metrics": list(metrics)}},
        "evaluator": "all",
        "search_strategy": strategy,
        **more,
    }


def kinds(recipe):
    return {note.path: note.kind for note in recipe.notes}


def problems(recipe):
    return [problem.what for problem in recipe.problems]


@pytest.mark.parametrize(
    ("given", "search"),
    [
        (True, {"sampler": "grid", "trials": 2}),
        ({"execution_order": "joint", "sampler": "sequential"}, {"sampler": "grid", "trials": 2}),
        ({"execution_order": "pass-by-pass", "search_algorithm": "exhaustive"},
         {"order": "pass-by-pass", "sampler": "grid", "trials": 2}),
        ({"sampler": "random", "max_samples": 5, "seed": 3}, {"sampler": "random", "trials": 5, "seed": 3}),
        ({"sampler": "tpe", "sampler_config": {"max_samples": 5, "seed": 3, "multivariate": True}},
         {"sampler": "tpe", "trials": 5, "seed": 3}),
        ({"sampler": "optuna", "max_samples": 5}, {"sampler": "tpe", "trials": 5, "seed": 1}),
        ({"search_algorithm": "tpe", "search_algorithm_config": {"num_samples": 3, "seed": 0}},
         {"sampler": "tpe", "trials": 3, "seed": 0}),
        ({"sampler": "tpe", "max_samples": 0, "seed": 1}, {"sampler": "tpe", "seed": 1, "trials": 2}),
        ({"search_algorithm": "random"}, {"sampler": "random", "seed": 1}),
        ({"sampler": "sequential", "max_iter": 1, "max_time": 60, "stop_when_goals_met": True},
         {"sampler": "grid", "trials": 1, "timeout": 60, "stop_when_met": True}),
        ({"sampler": "random", "max_samples": 9, "max_iter": 4, "seed": 1},
         {"sampler": "random", "trials": 4, "seed": 1}),
    ],
)  # fmt: skip
def test_both_forms_of_a_strategy_are_ours(olive, given, search):
    found = olive(config(given)).search

    assert found == {"objectives": [{"minimize": "bytes"}], **search}


@pytest.mark.parametrize("place", ["engine", "top"])
def test_a_strategy_stands_under_the_engine_or_at_the_top(olive, place):
    whole = config()
    if place == "engine":
        whole["engine"] = {key: whole.pop(key) for key in ("search_strategy", "evaluator")}

    assert olive(whole).search["sampler"] == "grid"


@pytest.mark.parametrize("off", [False, None, {}])
def test_without_a_strategy_every_step_runs_once(olive, off):
    recipe = olive(config(off, {"tune": {"type": "LoRA"}}))

    assert recipe.search is None
    assert recipe.steps[0].fields["rank"] == 64
    assert kinds(recipe)["evaluators.all.metrics.0.sub_types.0.priority"] == "ignored"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"sampler": "sequental"}, "there is no sampler `sequental`"),
        ({"execution_order": "sequential"}, "`sequential` is no order of a search"),
        ({"sampler": "random", "max_samples": -1}, "`max_samples` is -1; it must be at least 0"),
        ({"sampler": "random", "max_iter": 0}, "`max_iter` is 0; it must be at least 1"),
        ({"sampler": "random", "max_time": "long"}, "`max_time` is `long`; it must be a whole number"),
        ("yes", "`search_strategy` is `yes`; it must be true, false or a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_strategy_is_named(olive, given, what):
    assert what in problems(olive(config(given)))


@pytest.mark.parametrize("evaluator", [None, "other"])
def test_a_search_without_an_evaluator_is_refused(olive, evaluator):
    recipe = olive(config(evaluator=evaluator))

    assert "a search needs an `evaluator` that says what is best" in problems(recipe)
    assert next(one.hint for one in recipe.problems if "needs an `evaluator`" in one.what).startswith(
        '`"evaluators"'
    )


def test_a_search_with_nothing_to_choose_is_none(olive):
    build = {"type": "ModelBuilder", "precision": "fp32"}
    given = {"sampler": "tpe", "sampler_config": {"max_samples": 3}}

    recipe = olive(config(given, {"merge": {"type": "MergeAdapterWeights"}, "build": build}))

    assert recipe.search is None
    notes = {note.path: note.text for note in recipe.notes}
    assert "every pass runs once" in notes["search_strategy.sampler"]
    assert "every pass runs once" in notes["search_strategy.sampler_config.max_samples"]
    assert "nothing to choose between" in notes["evaluators.all.metrics.0.sub_types.0.priority"]


def test_a_goal_makes_a_search_of_a_single_candidate(olive):
    goal = {"name": "bytes", "priority": 1, "goal": {"type": "threshold", "value": 5e6}}
    metrics = [{"name": "size", "type": "size_on_disk", "sub_types": [goal]}]

    recipe = olive(config(True, {"merge": {"type": "MergeAdapterWeights"}}, metrics))

    assert recipe.search["subject_to"] == {"size": "<= 5MB"}
    assert recipe.search["trials"] == 1


def test_a_pass_that_is_not_here_but_has_parameters_to_search_keeps_the_search(olive):
    given = {"search_algorithm": "exhaustive"}

    assert olive(config(given, {"q": {"type": "OnnxQuantization"}})).search is not None
    assert olive(config(given, {"q": {"type": "OnnxQuantization", "disable_search": True}})).search is None
    assert olive(config(given, {"c": {"type": "OnnxConversion"}})).search is None
    assert "trials" not in olive(config(given, {"q": {"type": "OnnxQuantization"}})).search


def test_values_to_search_are_search_domains(olive):
    passes = {
        "a": {"type": "LoRA", "r": [8, 16], "alpha": 8, "target_modules": ["q", "v"]},
        "b": {"type": "LoRA", "lora_r": "SEARCHABLE_VALUES", "torch_dtype": ["torch.float32", "bfloat16"]},
        "c": {"type": "LoRA", "target_modules": [["q"], ["q", "v"]], "r": "DEFAULT_VALUE", "alpha": [4]},
    }

    a, b, c = (step.fields for step in olive(config(passes=passes)).steps)

    assert (a["rank"], a["alpha"], a["modules"]) == ({"search": [8, 16]}, 8, ["q", "v"])
    assert (b["rank"], b["dtype"]) == ({"search": [16, 32, 64]}, {"search": ["float32", "bfloat16"]})
    assert (c["rank"], c["alpha"], c["modules"]) == (64, 4, {"search": [["q"], ["q", "v"]]})


def test_what_a_search_leaves_out_is_tried_over_olives_own_values(olive):
    passes = {"tune": {"type": "LoRA"}, "build": {"type": "ModelBuilder", "precision": "int4"}}

    recipe = olive(config(passes=passes))

    tune, build = (step.fields for step in recipe.steps)
    assert tune["rank"] == {"search": [16, 32, 64]}
    assert build == {
        "precision": "int4", "block": {"search": [32, 64, 128]}, "symmetric": {"search": [True, False]},
        "head": "int8",
    }  # fmt: skip
    assert recipe.search["trials"] == 18
    assert kinds(recipe)["passes.tune.r"] == "defaulted"


@pytest.mark.parametrize(
    "off",
    [
        {"strategy": {"sampler": "sequential", "include_pass_params": False}},
        {"passes": {"tune": {"type": "LoRA", "disable_search": True}}},
    ],
)
def test_own_values_are_not_searched_where_the_config_says_so(olive, off):
    recipe = olive(config(**{"passes": {"tune": {"type": "LoRA"}}, **off}))

    assert recipe.steps[0].fields["rank"] == 64
    assert recipe.search is None


@pytest.mark.parametrize(
    ("more", "entry", "reason"),
    [
        ({"strategy": False}, {}, "there is no `search_strategy`"),
        ({}, {"disable_search": True}, "`disable_search` is true"),
        ({"strategy": {"sampler": "random", "include_pass_params": False}}, {}, "`include_pass_params` is false"),
    ],
)
@pytest.mark.parametrize("value", [[8, 16], "SEARCHABLE_VALUES"])
def test_values_to_search_where_there_is_no_search_are_refused(olive, more, entry, reason, value):
    recipe = olive(config(passes={"tune": {"type": "LoRA", "r": value, **entry}}, **more))

    assert any(reason in what for what in problems(recipe))
    assert recipe.steps[0].fields["rank"] == 64


@pytest.mark.parametrize("value", [[], [{}], [None], [[1]]])
def test_a_list_of_what_is_no_value_is_refused(olive, value):
    assert olive(config(passes={"tune": {"type": "LoRA", "r": value}})).problems


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"precision": ["int4", "int8"], "int4_block_size": 32, "int4_is_symmetric": True,
          "int4_algo_config": "default"},
         {"precision": {"search": ["int4", "int8"]}, "block": 32, "symmetric": True}),
        ({"precision": "int8"}, {"precision": "int8"}),
        ({"precision": "int8", "int4_block_size": ["16", "32"]},
         {"precision": "int8", "block": {"search": [16, 32]}}),
        ({"precision": "int8", "int4_accuracy_level": [1, 2]}, {"precision": "int8", "accuracy_level": 0}),
        ({"precision": "int8", "int4_accuracy_level": [1, 4]},
         {"precision": "int8", "accuracy_level": {"search": [0, 4]}}),
        ({"precision": "int8", "int4_accuracy_level": 4, "int4_block_size": [32, 128]},
         {"precision": "int8", "block": {"search": [32, 128]}}),
        ({"precision": "int8", "int4_algo_config": ["rtn", "k_quant_last"]},
         {"precision": "int8", "head": "int8"}),
        ({"precision": "int8", "int4_op_types_to_quantize": ["MatMul"]}, {"precision": "int8"}),
        ({"precision": "int8", "extra_options": {"int4_block_size": [16, 64]}},
         {"precision": "int8", "block": {"search": [16, 64]}}),
    ],
)  # fmt: skip
def test_each_value_of_a_domain_is_read_as_a_single_one_is(olive, given, fields):
    recipe = olive(config(passes={"build": {"type": "ModelBuilder", **given}}))

    assert recipe.steps[0].fields == fields


def test_a_list_of_passes_is_a_choice_between_them(olive):
    among = [{"type": "LoRA", "r": 8}, {"type": "LoRA", "r": [16, 32]}, {"type": "QLoRA", "double_quant": True}]

    recipe = olive(config({"sampler": "random", "seed": 1, "max_samples": 4}, {"tune": among}))

    step = recipe.steps[0]
    assert (step.name, step.type, list(step.fields)) == ("tune", "", ["search"])
    first, second, third = step.fields["search"]
    assert (first["type"], first["rank"], second["rank"]) == ("lora", 8, {"search": [16, 32]})
    assert (third["type"], third["double_quant"], third["rank"]) == ("qlora", True, {"search": [16, 32, 64]})
    assert list(searching.alternatives(step)) == ["lora", "lora 2", "qlora"]


def test_passes_of_a_list_that_are_the_same_here_are_one(olive):
    among = [
        {"type": "ModelBuilder", "precision": "int8", "int4_algo_config": name} for name in ("rtn", "default")
    ]

    recipe = olive(config(passes={"build": among}))

    assert (recipe.steps[0].type, recipe.steps[0].fields) == ("build-genai", {"precision": "int8"})
    assert "the same here as number 1" in next(n.text for n in recipe.notes if n.path == "passes.build.1")


A, B, C = (
    {"type": "MergeAdapterWeights"},
    {"type": "LoRA", "r": 8},
    {"type": "ModelBuilder", "precision": "fp32"},
)


@pytest.mark.parametrize(
    ("flows", "steps"),
    [
        ([["b", "a", "c"]], ["lora", "merge-adapter", "build-genai"]),
        ([["b", "a", "c"], ["b", "c"]], ["lora", ["merge-adapter", "none"], "build-genai"]),
        ([["c"], ["b", "c"], ["a", "c"], ["a", "b", "c"]],
         [["merge-adapter", "none"], ["lora", "none"], "build-genai"]),
        ([["a", "b"], ["a", "c"]], ["merge-adapter", ["lora", "build-genai"]]),
        ([["a", "b", "c"], ["c"]], ["merge-adapter", "lora", "build-genai"]),
        ([["a", "b"], ["b", "a"]], ["merge-adapter", "lora"]),
    ],
)  # fmt: skip
def test_flows_are_steps_that_may_be_left_out_or_exchanged(olive, flows, steps):
    recipe = olive(config(passes={"a": A, "b": B, "c": C}, pass_flows=flows))

    found = [step.type or [one["type"] for one in step.fields["search"]] for step in recipe.steps]
    assert found == steps
    assert recipe.problems == ()


def test_flows_that_are_no_combinations_are_named_and_the_first_is_run(olive):
    recipe = olive(config(passes={"a": A, "b": B, "c": C}, pass_flows=[["a", "b", "c"], ["c"]]))

    assert kinds(recipe)["pass_flows"] == "later"


def test_an_optional_step_of_several_passes_keeps_them_all(olive):
    recipe = olive(config(passes={"a": A, "b": [B, {**B, "r": 4}]}, pass_flows=[["b", "a"], ["a"]]))

    among = recipe.steps[0].fields["search"]
    assert [one["type"] for one in among] == ["lora", "lora", "none"]


def test_a_searched_config_is_native_yaml_that_says_the_same(tmp_path):
    latency = {
        "name": "speed", "type": "latency", "data_config": "rows",
        "sub_types": [{"name": "avg", "priority": 2, "goal": {"type": "percent-min-improvement", "value": 20}}],
    }  # fmt: skip
    passes = {"tune": [{"type": "LoRA", "r": [8, 16]}, {"type": "LoRA", "r": 4}], "m": A, "build": {
        "type": "ModelBuilder", "precision": "int4"}}  # fmt: skip
    olive = import_config(document_of(config({"sampler": "tpe", "max_samples": 4}, passes, (SIZE, latency))),
                          folder=tmp_path)  # fmt: skip

    native = read(document_of(to_mapping(olive)), folder=tmp_path)

    (tmp_path / "recipe.yaml").write_text(to_yaml(olive))
    assert load(tmp_path / "recipe.yaml").search == native.search
    assert native.problems == olive.problems == ()
    assert native.search == olive.search
    assert [(step.name, step.type, step.fields) for step in native.steps] == [
        (step.name, step.type, step.fields) for step in olive.steps
    ]
    assert searching.space_of(native) == searching.space_of(olive)
    assert read_settings(native.search, samplers.names())[1] == []


def test_the_parts_of_a_search_know_their_lines(olive):
    recipe = olive(config({"sampler": "random", "max_samples": 3, "seed": 2}))

    assert {"search", "search.sampler", "search.trials", "search.seed", "search.minimize"} <= set(recipe.places)


def test_a_search_with_goals_has_no_mistakes_of_its_own(olive, tmp_path):
    (tmp_path / "rows.json").write_text('{"text": "a", "tone": "b"}\n')

    found = [problem.what for problem in check(olive(config()))]

    assert [what for what in found if "search" in what] == []


@pytest.mark.parametrize("key", ["plot_pareto_frontier"])
def test_the_report_draws_what_olive_plots(olive, key):
    assert kinds(olive(config(**{key: True})))[key] == "mapped"
