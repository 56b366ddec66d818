"""What is wrong in a config, or says two things, is told in words that are true, with what may have been meant."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from picual.recipe.check import check
from picual.recipe.dump import to_yaml
from picual.recipe.load import load
from picual.recipe.olive.reader import unquoted

TEXT = {"text_cols": "t"}
FILES = {"train": "a.json", "validation": "b.json"}
USING = {"tune": {"type": "LoRA", "train_data_config": "rows"}}


def notes(recipe):
    return {note.path: (note.kind, note.text) for note in recipe.notes}


def problems(recipe):
    return {problem.what: problem.hint for problem in recipe.problems}


def rows(load=None, pre=None, **more):
    return {
        "name": "rows", "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", **(load or {})},
        "pre_process_data_config": {**TEXT, **(pre or {})}, **more,
    }  # fmt: skip


def test_a_data_set_without_rows_that_nothing_uses_is_left_out(olive, tmp_path):
    (tmp_path / "a.json").write_text('{"t": "x"}')
    unused = {"name": "u3", "type": "HuggingfaceContainer", "pre_process_data_config": TEXT}
    config = {
        "input_model": {"type": "HfModel", "model_path": "owner/name"},
        "data_configs": [unused, rows({"data_files": "a.json"})],
        "passes": USING,
    }

    recipe = olive(config)

    assert list(recipe.data) == ["rows"]
    assert notes(recipe)["data_configs.0"] == ("ignored", "nothing uses it, and it names no rows")
    assert not any(path.startswith("data_configs.0.") for path in notes(recipe))
    (tmp_path / "again.yaml").write_text(to_yaml(load(config, folder=tmp_path)))
    assert check(recipe) == check(load(tmp_path / "again.yaml")) == []


def test_a_data_set_without_rows_that_a_step_uses_is_a_mistake(olive):
    recipe = olive({
        "input_model": {"type": "HfModel", "model_path": "owner/name"},
        "data_configs": [{"name": "rows", "type": "HuggingfaceContainer"}], "passes": USING,
    })  # fmt: skip

    assert "it says neither `files` nor `name`" in [problem.what for problem in check(recipe)]


def test_a_public_config_without_mistakes_has_none_when_it_is_converted(public_config, tmp_path):
    recipe = load(public_config)
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))

    assert check(recipe) or check(load(tmp_path / "again.yaml", folder=public_config.parent)) == []


@pytest.mark.parametrize(
    ("files", "split", "chosen", "said"),
    [
        (FILES, None, ["b.json"], "left out: `validation`, as Olive does"),
        ({"test": "c.json", "train": "a.json"}, None, ["c.json"], "left out: `test`, the first of `data_files`"),
        (FILES, "train", ["a.json"], "the rows of the files are the split `train`"),
        (FILES, "train+validation", ["a.json", "b.json"], "the split `train+validation`"),
    ],
)  # fmt: skip
def test_of_files_by_split_those_of_the_split_are_rows(olive, tmp_path, files, split, chosen, said):
    given = {"data_files": files} if split is None else {"data_files": files, "split": split}
    recipe = olive({"data_configs": [rows(given)], "passes": USING})

    assert recipe.data["rows"].files == tuple(str(tmp_path / file) for file in chosen)
    kind, text = notes(recipe)[
        "data_configs.0.load_dataset_config.split" if split else "data_configs.0.pre_process_data_config.split"
    ]
    assert (kind, said in text) == ("mapped" if split else "defaulted", True)


def test_a_split_without_files_is_a_mistake(olive):
    recipe = olive({"data_configs": [rows({"data_files": FILES, "split": "validaton"})], "passes": USING})

    assert problems(recipe) == {"`data_files` has no split `validaton`": "did you mean `validation`?"}


@pytest.mark.parametrize(("most", "taken"), [(1000, 500), (500, 500), (20, 20), (None, 500)])
def test_of_two_numbers_of_rows_the_smaller_counts(olive, most, taken):
    pre = {} if most is None else {"max_samples": most}
    split = {"data_files": "a.json", "split": "train[:500]"}
    recipe = olive({"data_configs": [rows(split, pre)], "passes": USING})

    told = notes(recipe)
    assert recipe.data["rows"].max_samples == taken
    text = told["data_configs.0.load_dataset_config.split"][1]
    assert text == (
        "becomes `data.rows.max_samples`"
        if most in {None, 1000}
        else f"of these 500 rows `max_samples` takes {most}"
    )
    if most == 1000:
        assert "names no more than 500 rows" in told["data_configs.0.pre_process_data_config.max_samples"][1]


@pytest.mark.parametrize("path", ["m.onnx", "models/deep/m.onnx"])
@pytest.mark.parametrize("kind", ["OnnxModel", "PyTorchModel", "OpenVINOModel"])
def test_a_kind_of_model_that_cannot_be_an_input_is_named_with_what_can(olive, kind, path):
    recipe = olive({"input_model": {"type": kind, "model_path": path}, "passes": {"round": {"type": "Rtn"}}})

    problem = check(recipe)[0]
    assert problem.what == f"`{kind}` as input is not supported in this version"
    assert "`HfModel`" in problem.hint
    again = check(load({"version": 1, **yaml.safe_load(to_yaml(recipe))}))
    assert (problem.what, problem.hint) in [(one.what, one.hint) for one in again]
    assert "`type`" not in " ".join(one.what for one in check(recipe))


def measured(olive, *metrics, **more):
    config = {
        "data_configs": [rows({"data_files": "a.json"})], "passes": USING, "evaluator": "common",
        "evaluators": {"common": {"metrics": list(metrics)}}, **more,
    }  # fmt: skip
    return olive(config)


LATENCY = {"name": "time", "type": "latency", "sub_types": [{"name": "avg"}]}
ACCURACY = {"name": "right", "type": "accuracy", "sub_types": [{"name": "accuracy_score"}]}


def test_an_evaluator_that_is_not_there_is_a_mistake(olive):
    recipe = measured(olive, LATENCY, evaluator="comon")

    assert problems(recipe) == {"there is no evaluator `comon`": "did you mean `common`?"}


@pytest.mark.parametrize("metric", [LATENCY, ACCURACY, {"name": "size", "type": "size_on_disk"}])
def test_data_of_a_metric_that_is_not_there_is_a_mistake(olive, metric):
    recipe = measured(olive, {**metric, "data_config": "row"})

    assert problems(recipe) == {"there is no data config `row`": "did you mean `rows`?"}
    assert notes(recipe)["evaluators.common.metrics.0.data_config"][0] == "ignored"


@pytest.mark.parametrize(
    ("metric", "what", "hint"),
    [
        ({"type": "latancy"}, "there is no type of metric `latancy`", "did you mean `latency`?"),
        (
            {**LATENCY, "sub_types": [{"name": "averag"}]},
            "there is no `averag` among the sub types of `latency`", "did you mean `avg`?",
        ),
        (
            {"type": "accuracy", "sub_type": "acuracy_score"},
            "there is no `acuracy_score` among the sub types of `accuracy`", "did you mean `accuracy_score`",
        ),
    ],
)  # fmt: skip
def test_a_slip_in_the_name_of_a_number_is_a_mistake(olive, metric, what, hint):
    found = problems(measured(olive, {"name": "m", **metric}))

    assert list(found) == [what]
    assert found[what].startswith(hint)


@pytest.mark.parametrize(
    "metric",
    [
        {"type": "quality"}, {**LATENCY, "sub_types": [{"name": "zz"}]}, {"type": "accuracy", "sub_type": "hinge"},
        {"type": "accuracy", "backend": "huggingface_metrics", "sub_type": "f2"},
    ],
)  # fmt: skip
def test_a_number_that_is_like_none_of_ours_is_only_noted(olive, metric):
    recipe = measured(olive, {"name": "m", **metric})

    assert problems(recipe) == {}
    assert notes(recipe)["evaluators.common.metrics.0"][0] == "later"


def test_a_slip_in_the_type_of_a_package_is_a_mistake(olive):
    found = problems(olive({"passes": USING, "packaging_config": {"type": "AzureMLModel"}}))

    assert found["there is no type of package `AzureMLModel`"].startswith("did you mean `AzureMLModels`")
    assert problems(olive({"passes": USING, "packaging_config": {"type": "Zipfile"}})) == {}


@pytest.mark.parametrize(
    ("key", "meant"), [("outputdir", "output_dir"), ("enginee", "engine"), ("data_config", "data_configs")]
)
def test_a_slip_in_a_key_is_noted_with_the_key_that_is_like_it(olive, key, meant):
    at_top = notes(olive({"passes": USING, key: {"a": 1}}))
    inside = notes(olive({"passes": USING, "engine": {key: {"a": 1}, "host": None}}))

    assert at_top[key][0] == "ignored"
    assert at_top[key][1].startswith(f"a config has no `{key}`; did you mean `{meant}`")
    assert inside[f"engine.{key}"] == at_top[key]
    assert notes(olive({"passes": USING, "qqq": 1}))["qqq"][0] == "ignored"


@pytest.mark.parametrize("entry", [{"config": {"r": 8}}, {"type": None}, {"type": " "}, {}])
def test_a_pass_without_type_is_a_mistake(olive, entry):
    recipe = olive({"passes": {"a": {"type": "Rtn"}, "b": entry}, "pass_flows": [["a", "b"]]})

    assert list(problems(recipe)) == ["pass `b` has no `type`"]
    assert [step.name for step in recipe.steps] == ["a"]
    assert not any("`?`" in problem.what for problem in check(recipe))


def test_a_flow_that_names_no_pass_is_told_by_that_name(olive):
    passes = {"lora": {"type": "LoRA"}, "merge": {"type": "MergeAdapterWeights"}}

    found = problems(olive({"passes": passes, "pass_flows": [["lora", "merg"], ["lora", "zz"]]}))

    assert found == {
        "`pass_flows` names `merg`, which is no pass": "did you mean `merge`?",
        "`pass_flows` names `zz`, which is no pass": "it can be `lora`, `merge`",
    }


@pytest.mark.parametrize("metric", [LATENCY, ACCURACY])
def test_data_that_is_written_inside_a_metric_is_not_said_to_be_ignored(olive, metric):
    inline = {**rows({"data_files": "b.json"}, {"text_cols": None, "text_template": "{q} {a}"}), "zz": 1}
    recipe = measured(olive, {**metric, "data_config": inline})

    (found,) = recipe.metrics
    assert found.fields["data"] == "rows_2"
    assert [Path(file).name for file in recipe.data["rows_2"].files] == ["b.json"]
    at = "evaluators.common.metrics.0.data_config"
    assert at not in notes(recipe)
    assert notes(recipe)[f"{at}.load_dataset_config.data_files"][1] == "becomes `data.rows_2.files`"


def test_data_inside_a_metric_that_no_text_comes_from_is_said_to_be_replaced(olive):
    inline = {**rows({"data_files": "b.json"}), "pre_process_data_config": {"input_cols": ["a"], "label_col": "c"}}

    recipe = measured(olive, {**LATENCY, "data_config": inline})

    assert notes(recipe)["evaluators.common.metrics.0.data_config"][0] == "replaced"


def quoted(value):
    """Return a config whose numbers and flags are all written as text."""
    if isinstance(value, dict):
        return {key: quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [quoted(item) for item in value]
    return str(value).lower() if isinstance(value, bool | int | float) else value


TRAINING = {
    "max_steps": 10, "learning_rate": 0.001, "gradient_checkpointing": True, "per_device_train_batch_size": 2,
}  # fmt: skip
SINGLE = {"overrides": {"model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32, "symmetric": True}}}


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "LoRA", "r": 8, "alpha": 16, "lora_dropout": 0.05, "use_rslora": True, "training_args": TRAINING},
        {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 0.1},
        {"type": "QLoRA", "r": 8, "double_quant": False}, {"type": "LoftQ", "loftq_iter": 2},
        {"type": "LoHa", "rank_dropout": 0.1, "init_weights": True}, {"type": "QuaRot", "seed": 3},
        {"type": "Rtn", "bits": 4, "group_size": -1, "sym": True, "lm_head": True, "embeds": True, **SINGLE},
        {"type": "Gptq", "bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": True, "lm_head": False},
        {"type": "AutoAWQQuantizer", "w_bit": 4, "zero_point": True, "duo_scaling": False},
        {
            "type": "ModelBuilder", "precision": "int4", "int4_block_size": 32, "int4_is_symmetric": True,
            "int4_accuracy_level": 4,
        },
        {"type": "ModelBuilder", "precision": "int4", "metadata_only": True},
    ],
)  # fmt: skip
def test_a_number_or_a_flag_of_a_pass_in_quotes_is_that_number_or_flag(olive, entry):
    config = {"data_configs": [rows({"data_files": "a.json"})], "passes": {"one": entry}}

    plain, text = olive(config), olive(quoted(config))

    assert text.steps[0].type == plain.steps[0].type
    if plain.steps[0].type[0].islower():  # of others the values stay as they are
        assert text.steps[0].fields == plain.steps[0].fields
    assert text.data == plain.data
    assert text.problems == plain.problems
    assert [(note.path, note.kind) for note in text.notes] == [(note.path, note.kind) for note in plain.notes]


def test_numbers_and_flags_in_quotes_count_in_every_other_part_too(olive):
    load = {"data_files": "a.json", "split": "train"}
    config = {
        "input_model": {"type": "HfModel", "model_path": "owner/name", "load_kwargs": {"trust_remote_code": True}},
        "data_configs": [
            rows(load, {"max_samples": 10, "max_seq_len": 64, "pad_to_max_len": False, "chat_template": False})
        ],
        "passes": {"round": {"type": "Rtn", "bits": [4, 8], "disable_search": False}},
        "evaluators": {"common": {"metrics": [
            {**LATENCY, "sub_types": [{
                "name": "avg", "priority": 1, "goal": {"type": "threshold", "value": 3.5},
                "metric_config": {"warmup_num": 2, "repeat_test_num": 3, "sleep_num": 0},
                "higher_is_better": False,
            }]},
        ]}},
        "evaluator": "common", "search_strategy": {"sampler": "random", "max_samples": 3, "seed": 4},
        "log_severity_level": 2,
    }  # fmt: skip

    plain, text = olive(config), olive(quoted(config))

    assert text.problems == plain.problems == ()
    assert dataclasses.replace(text, notes=()) == dataclasses.replace(plain, notes=())
    assert olive({"search_strategy": "false"}).search is olive({"search_strategy": False}).search is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("-1", -1), ("0.05", 0.05), ("1e-4", 1e-4), ("True", True), ("false", False), ("int4", "int4"),
        ("nan", "nan"), ("1.5.2", "1.5.2"), ("1_000", "1_000"), ("", ""), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_only_what_is_a_number_or_a_flag_counts_as_one(text, value):
    assert unquoted(text) == value
    assert type(unquoted(text)) is type(value)
