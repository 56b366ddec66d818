from __future__ import annotations

import json

import pytest

from picual.hardware import Target
from picual.recipe.check import check

NO_FILE = {"data_name": "json", "data_files": "rows.json"}


def data(olive, load=None, pre=None, **more):
    config = {"name": "rows", "type": "HuggingfaceContainer", "load_dataset_config": load or NO_FILE, **more}
    if pre is not None:
        config["pre_process_data_config"] = pre
    recipe = olive({"data_configs": [config], "passes": {"tune": {"type": "LoRA", "train_data_config": "rows"}}})
    return recipe.data["rows"], recipe


def kinds(recipe):
    return {note.path: note.kind for note in recipe.notes}


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("a.json", ["a.json"]), (["a.json", "b.json"], ["a.json", "b.json"]),
        ({"train": "a.json", "test": "b.json"}, ["a.json"]),
        ({"train": ["a.json", "b.json"]}, ["a.json", "b.json"]),
        ({"type": "file", "config": {"path": "a.json"}}, ["a.json"]),
        ([{"type": "file", "path": "a.json"}], ["a.json"]),
    ],
)  # fmt: skip
def test_files_are_named_in_every_way(olive, tmp_path, given, files):
    config, recipe = data(
        olive, {"data_name": "json", "data_files": given, "split": "train"}, {"text_cols": ["t"]}
    )

    assert config.files == tuple(str(tmp_path / file) for file in files)
    assert config.name is None
    assert recipe.problems == ()


def test_the_first_rows_of_files_are_a_number_of_rows(olive):
    config, _ = data(olive, {**NO_FILE, "split": "train[:50]"}, {"text_cols": ["t"]})

    assert config.max_samples == 50


def test_a_hub_data_set_without_split_takes_olives(olive):
    config, recipe = data(olive, {"data_name": "owner/rows"}, {"text_cols": ["t"]})

    assert (config.name, config.split) == ("owner/rows", "validation")
    assert "defaulted" in kinds(recipe).values()


@pytest.mark.parametrize(
    ("pre", "strategy"),
    [
        ({"text_cols": "t"}, "join"), ({"text_cols": "t", "source_max_len": 8}, "line-by-line"),
        ({"text_cols": "t", "corpus_strategy": "join-random"}, "join-random"),
        ({"text_cols": "t", "strategy": "join-sliding-window", "stride": 4}, "join-sliding-window"),
    ],
)  # fmt: skip
def test_the_strategy_left_out_is_that_of_the_form(olive, pre, strategy):
    assert data(olive, pre=pre)[0].strategy == strategy


def test_several_columns_without_a_template_stand_with_a_blank_between(olive):
    assert data(olive, pre={"text_cols": ["a", "b c"]})[0].template == "{a} {b c}"


@pytest.mark.parametrize("pre", [None, {}, {"max_samples": 3}])
def test_rows_of_which_nothing_is_said_are_olives_column_of_text(olive, pre):
    config, _ = data(olive, {"data_name": "owner/rows", "split": "train"}, pre)

    assert (config.text, config.strategy) == ("text", "join")


def test_columns_for_a_classifier_are_not_taken_for_text(olive):
    config, recipe = data(olive, pre={"input_cols": ["a", "b"], "label_col": "c", "max_length": 8})

    assert (config.text, config.template, config.max_length) == (None, None, 8)
    assert kinds(recipe)["data_configs.0.pre_process_data_config.input_cols"] == "later"


@pytest.mark.parametrize(
    ("pre", "prompt", "response"),
    [
        ({}, "{input}", "{output}"), ({"pair_format": "self_instruct"}, "{prompt}", "{completion}"),
        ({"pair_format": "custom", "input_col": "q", "output_template": "A: {a}"}, "{q}", "A: {a}"),
    ],
)  # fmt: skip
def test_a_pair_has_a_prompt_that_is_masked(olive, pre, prompt, response):
    pair = {"dataset_type": "pair", "source_max_len": 30, "target_max_len": 12, "ignore_source_in_labels": True}

    config, _ = data(olive, pre={**pair, **pre})

    assert (config.prompt, config.response, config.mask_prompt) == (prompt, response, True)
    assert (config.prompt_max_length, config.max_length) == (30, 42)


def test_a_column_of_messages_is_a_chat(olive):
    assert data(olive, pre={"chat_template": True, "message_col": "talk"})[0].chat == "talk"


def test_rows_that_the_users_code_reads_are_left_for_the_user_to_name(olive):
    load = {"type": "my_rows", "params": {"data_name": "owner/rows", "split": "train", "language": "Python"}}

    config, recipe = data(olive, load, {"text_template": "{a}"}, user_script="mine.py")

    assert (config.name, config.files, config.template) == (None, (), "{a}")
    assert kinds(recipe)["data_configs.0.load_dataset_config.params.data_name"] == "later"
    assert kinds(recipe)["data_configs.0.user_script"] == "later"


def test_a_number_that_is_no_number_is_a_problem_where_it_stands(olive):
    config, recipe = data(olive, pre={"text_cols": "t", "max_seq_len": "long", "max_samples": "<samples>"})

    assert (config.max_length, config.max_samples) == (1024, None)
    assert [problem.what for problem in recipe.problems] == [
        "`max_seq_len` is `long`; it must be a whole number",
        "`max_samples` still holds the placeholder `<samples>`",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [True, "many", 2.5, [1]])
def test_true_and_half_a_row_are_no_numbers_of_rows(olive, value):
    config, recipe = data(olive, pre={"text_cols": "t", "max_samples": value})

    assert config.max_samples is None
    assert "must be a whole number" in recipe.problems[0].what


def test_the_data_of_the_model_is_a_data_set_of_its_own(olive):
    dataset = {
        "data_name": "owner/rows",
        "split": "train",
        "component_kwargs": {"pre_process_data": {"max_samples": 7}},
    }

    recipe = olive({"input_model": {"type": "PytorchModel", "config": {"hf_config": {"dataset": dataset}}}})

    assert recipe.data["__input_model_data_config__"].name == "owner/rows"
    assert recipe.data["__input_model_data_config__"].max_samples == 7


def test_a_data_root_stands_before_relative_files(olive, tmp_path):
    config = {"name": "rows", "load_dataset_config": {"data_files": ["a.json", "/b.json"]}}

    recipe = olive({"data_root": "all", "data_configs": [config]})

    assert recipe.data["rows"].files == (str(tmp_path / "all" / "a.json"), "/b.json")


@pytest.mark.parametrize(
    ("resource", "uri"),
    [
        ({"type": "azureml_registry_model", "registry_name": "R", "name": "M", "version": 3},
         "azureml://registries/R/models/M/versions/3"),
        ({"type": "azureml_model", "config": {"azureml_client": "azureml_client", "name": "M", "version": "3"}},
         "azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/M/versions/3"),
        ({"type": "azureml_job_output", "config": {"job_name": "J", "output_name": "o", "relative_path": "p"}},
         "azureml://subscriptions/s/resourcegroups/g/workspaces/w/jobs/J/outputs/o/paths/p"),
        ({"type": "azureml_datastore", "config": {"datastore_name": "D", "relative_path": "p/q"}},
         "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/D/paths/p/q"),
        ({"type": "string_name", "config": {"name": "owner/name"}}, "owner/name"),
        ({"type": "FOLDER", "config": {"path": "here"}}, "here"),
    ],
)  # fmt: skip
def test_a_model_in_azure_or_elsewhere_is_an_address(olive, resource, uri):
    client = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}

    recipe = olive({"azureml_client": client, "input_model": {"type": "HfModel", "model_path": resource}})

    assert recipe.model.uri == uri
    assert recipe.problems == ()


def test_retries_and_the_workspace_file_of_a_client_go_with_the_address(olive, tmp_path):
    names = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
    client = {"aml_config_path": "ws.json", "max_operation_retries": 7, "operation_retry_interval": 2}
    model = {"type": "HfModel", "model_path": {"type": "azureml_model", "name": "M", "version": 3}}
    config = {"azureml_client": client, "input_model": model}

    elsewhere = olive(config).model
    (tmp_path / "ws.json").write_text(json.dumps(names))
    here = olive(config).model

    retries = {"max_operation_retries": 7, "operation_retry_interval": 2, "aml_config_path": "ws.json"}
    assert elsewhere.uri == "azureml:M/versions/3"
    assert here.uri == "azureml://subscriptions/s/resourcegroups/g/workspaces/w/models/M/versions/3"
    assert elsewhere.options.items() >= retries.items()
    assert here.options.items() >= retries.items()


@pytest.mark.parametrize(
    ("accelerators", "target"),
    [
        (["gpu"], Target(device="gpu", provider="CUDAExecutionProvider")), (["CPU"], Target()), ("npu", None),
        ([{"execution_providers": ["DmlExecutionProvider"]}],
         Target(device="gpu", provider="DmlExecutionProvider")),
        ([{"device": "GPU", "execution_providers": ["openvinoexecutionprovider"]}],
         Target(device="gpu", provider="OpenVINOExecutionProvider")),
        ([{"execution_providers": [["QNNExecutionProvider", "lib.so"]], "memory": 1000}],
         Target(device="npu", provider="QNNExecutionProvider", memory=1000)),
        ([{"device": "cpu_spr"}, {"device": "gpu"}], Target()), ([], Target()), ({"device": "cpu"}, Target()),
    ],
)  # fmt: skip
def test_the_target_is_the_first_accelerator_of_its_system(olive, accelerators, target):
    system = {"type": "LocalSystem", "accelerators": accelerators}

    recipe = olive({"systems": {"s": system}, "target": "s"})

    assert recipe.target == (target or Target(device="npu", provider="QNNExecutionProvider"))
    assert recipe.problems == ()


@pytest.mark.parametrize("device", ["<<device>>", "<place_holder>"])
def test_a_placeholder_for_a_device_is_left_for_the_check_to_find(olive, device):
    recipe = olive({"target": {"type": "LocalSystem", "accelerators": [{"device": device}]}})

    assert recipe.target.provider == device


@pytest.mark.parametrize(
    ("kind", "host"),
    [
        ("LocalSystem", "local"), ("PythonEnvironment", "environment"), ("IsolatedORT", "environment"),
        ("Docker", "docker"), ("azureml", "azureml"),
        ("AzureNDV2System", "azureml"), ("SurfaceProSystem1807", "local"),
    ],
)  # fmt: skip
def test_every_kind_of_system_is_a_host(olive, kind, host):
    recipe = olive({"systems": {"one": {"type": kind, "config": {"python_environment_path": "."}}}, "host": "one"})

    assert recipe.hosts["one"].type == host
    assert recipe.host == "one"


def test_an_environment_that_olive_was_to_make_from_nothing_is_this_machines_own(olive):
    recipe = olive({
        "systems": {"one": {"type": "PythonEnvironment", "config": {"olive_managed_env": True}}}, "host": "one",
    })  # fmt: skip

    assert recipe.hosts["one"].type == "local"
    assert any(note.path == "systems.one" and note.kind == "replaced" for note in recipe.notes)


def test_models_are_measured_on_the_target_which_is_this_machine_unless_named(olive):
    systems = {"systems": {"one": {"type": "azureml", "config": {"aml_compute": "c"}}}}

    assert olive({**systems, "host": "one", "target": "one"}).measured_on == "one"
    assert olive({**systems, "host": "one"}).measured_on == "local"
    assert olive({**systems, "target": "one"}).measured_on == "one"


def test_what_a_workflow_on_a_host_calls_local_is_that_host(olive):
    azure = {"type": "AzureML", "config": {"aml_compute": "c"}}
    given = {
        "systems": {"cloud": azure, "own": {"type": "LocalSystem"}, "other": {**azure}},
        "passes": {"one": {"type": "OrtRtn"}, "two": {"type": "OrtRtn", "host": "other"}},
    }

    bare = olive({**given, "workflow_host": "cloud"})
    named = olive({**given, "workflow_host": "cloud", "engine": {"host": "own", "target": "own"}})
    inline = olive({**given, "workflow_host": azure, "engine": {"host": "other"}})

    for recipe in (bare, named):
        assert (recipe.host, recipe.measured_on) == ("cloud", "cloud")
        assert [step.host for step in recipe.steps] == [None, "other"]
        assert kinds(recipe)["workflow_host"] == "mapped"
    assert (inline.host, inline.measured_on) == ("other", "workflow_host")
    assert inline.hosts["workflow_host"].options["compute"] == "c"


def test_local_stays_this_machine(olive):
    recipe = olive({"systems": {"local": {"type": "AzureML", "config": {"aml_compute": "c"}}}, "host": "local"})

    assert recipe.hosts["local"].type == "local"
    assert recipe.hosts[recipe.host].options["compute"] == "c"


def test_a_number_of_rows_to_evaluate_on_is_named_and_a_share_is_held_out(olive):
    for size, holdout in ((0.25, 0.25), (1024, 0.0)):
        recipe = olive({
            "data_configs": [{"name": "rows", "load_dataset_config": NO_FILE}],
            "passes": {"one": {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": size}},
        })  # fmt: skip
        assert recipe.data["rows"].holdout == holdout
        assert kinds(recipe)["passes.one.eval_dataset_size"] == ("mapped" if holdout else "ignored")


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"int4_is_symmetric": True}, {"symmetric": True}),
        ({"int4_algo_config": "k_quant_last"}, {"head": "int8"}),
        ({"int4_algo_config": "rtn"}, {}), ({"extra_options": {"int4_block_size": "128"}}, {"block": 128}),
        ({"int4_nodes_to_exclude": ["/lm_head/MatMul"]}, {"head": "int8"}),
        ({"int4_accuracy_level": "1"}, {"accuracy_level": 0}), ({"int4_accuracy_level": 4}, {"accuracy_level": 4}),
        ({"search": {"max_length": 9}}, {}),
    ],
)  # fmt: skip
def test_the_builders_options_become_ours_or_are_named(olive, given, fields):
    recipe = olive({"passes": {"b": {"type": "ModelBuilder", "precision": "int4", **given}}})

    assert recipe.steps[0].fields == {"precision": "int4", **fields}


def test_a_builder_of_metadata_alone_is_not_taken_for_one_of_models(olive):
    step = olive({"passes": {"b": {"type": "ModelBuilder", "metadata_only": True}}}).steps[0]

    assert step.type == "ModelBuilder"


@pytest.mark.parametrize(
    ("level", "ours"), [(0, "debug"), (1, "info"), (2, "warning"), (3, "error"), (4, "error")]
)
def test_the_log_tells_as_much_as_asked(olive, level, ours):
    assert olive({"log_severity_level": level}).log_level == ours


@pytest.mark.parametrize("where", ["input_model", "load_kwargs", "hf_config", "from_pretrained_args", "pass"])
def test_remote_code_is_trusted_wherever_the_config_says_so(olive, where):
    trust = {"trust_remote_code": True}
    config = {
        "input_model": {"input_model": {"model_path": "a/b", **trust}},
        "load_kwargs": {"input_model": {"model_path": "a/b", "load_kwargs": trust}},
        "hf_config": {"input_model": {"hf_config": {"model_name": "a/b", **trust}}},
        "from_pretrained_args": {
            "input_model": {"hf_config": {"model_name": "a/b", "from_pretrained_args": trust}}
        },
        "pass": {"passes": {"b": {"type": "ModelBuilder", **trust}}},
    }[where]

    assert olive(config).model.trust_remote_code


def test_retries_of_the_client_are_those_of_each_host_and_its_own_come_first(olive):
    own = {"azureml_client": {"max_operation_retries": 1}}
    recipe = olive({
        "azureml_client": {**CLIENT, "max_operation_retries": 9, "operation_retry_interval": 2},
        "systems": {"one": azure(), "two": azure(**own)}, "host": "one", "target": "two",
    })  # fmt: skip

    assert (
        recipe.hosts["one"].options["max_operation_retries"],
        recipe.hosts["one"].options["operation_retry_interval"],
    ) == (9, 2)
    assert recipe.hosts["two"].options["max_operation_retries"] == 1
    assert not [note for note in recipe.notes if "model.max_operation_retries" in note.text]


def test_the_name_of_an_environment_that_is_made_does_not_take_its_place(olive):
    docker = {"base_image": "img", "conda_file_path": "conda.yaml", "name": "olive-env", "version": "3"}
    made = olive({"systems": {"one": azure(aml_docker_config=docker, name="my system")}, "host": "one"})
    named = {"aml_docker_config": docker, "aml_environment_config": {"name": "curated", "version": 4}}
    taken = olive({"systems": {"one": azure(**named)}, "host": "one"})

    options = made.hosts["one"].options
    assert (options["image"], options["conda_file"]) == ("img", "conda.yaml")
    assert not {"environment", "environment_version"} & set(options)
    assert kinds(made)["systems.one.config.aml_docker_config.name"] == "ignored"
    options = taken.hosts["one"].options
    assert (options["environment"], options["environment_version"]) == ("curated", "4")
    assert not {"image", "conda_file"} & set(options)


def test_a_system_written_in_place_replaces_none_of_that_name(olive):
    gpu = {"type": "LocalSystem", "config": {"accelerators": [{"device": "gpu"}]}}
    recipe = olive({"systems": {"host": gpu}, "host": azure(), "target": "host"})

    assert recipe.hosts[recipe.host].type == "azureml"
    assert recipe.hosts["host"].type == "local"
    assert recipe.target.device == "gpu"


def test_a_target_that_is_no_system_is_called_one(olive):
    systems = {"systems": {"loc": {"type": "LocalSystem"}}}

    found = check(olive({**systems, "target": "lok"}))

    assert [problem.what for problem in found if "system" in problem.what] == ["unknown system `lok`"]
    assert "`loc`" in next(problem.hint for problem in found if "system" in problem.what)


def test_a_key_vault_may_stand_in_the_system(olive):
    recipe = olive({"systems": {"one": azure(hf_token=True, keyvault_name="vault")}, "host": "one"})

    assert recipe.hosts["one"].options["keyvault_name"] == "vault"


@pytest.mark.parametrize("token", ["hf_abcdefghijklmnopqrstuvwxyz0123456", "s3cret"])
def test_a_token_in_the_wrong_place_is_not_repeated(olive, token):
    recipe = olive({"systems": {"one": azure(hf_token=token)}, "host": "one"})

    assert any("`hf_token` is a text that is not shown" in problem.what for problem in recipe.problems)
    assert token not in str(recipe.notes) + str(recipe.problems)


CLIENT = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}


def azure(**config):
    return {"type": "AzureML", "config": {"aml_compute": "c", **config}}
