from __future__ import annotations

from pathlib import Path

import pytest

from picual.hardware import Target
from picual.recipe.check import check
from picual.recipe.document import read_document
from picual.recipe.olive import import_config

CONFIGS = Path(__file__).parent / "configs"
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"


def read(name):
    return import_config(read_document(CONFIGS / f"{name}.json"))


@pytest.fixture
def seed():
    return read("seed-local")


def note(recipe, path):
    return next(one for one in recipe.notes if one.path == path)


def test_the_model_of_the_page_may_run_its_own_code_as_the_page_asks(seed):
    assert seed.model.uri == "model-cache/microsoft/phi-3-mini"
    assert seed.model.trust_remote_code


def test_the_steps_of_the_page_are_ours_with_its_values(seed):
    lora, merge, build = seed.steps

    assert [(step.name, step.type) for step in seed.steps] == [
        ("lora", "lora"), ("merge_adapter_weights", "merge-adapter"), ("builder", "build-genai"),
    ]  # fmt: skip
    training = lora.fields["training"]
    assert {key: value for key, value in lora.fields.items() if key != "training"} == {
        "data": "dataset_default_train", "rank": 64, "alpha": 64, "dropout": 0.1,
        "modules": ["o_proj", "qkv_proj"],
    }  # fmt: skip
    assert len(training) == 15
    assert training["evaluation_strategy"] == "steps"
    assert merge.fields == {}
    assert build.fields == {"precision": "int4"}


def test_the_fields_of_a_step_know_their_lines(seed):
    text = (CONFIGS / "seed-local.json").read_text().splitlines()

    assert '"lora_r"' in text[seed.steps[0].places["rank"].line - 1]
    assert '"train_data_config"' in text[seed.steps[0].places["data"].line - 1]
    assert '"precision"' in text[seed.steps[2].places["precision"].line - 1]
    assert '"source_max_len"' in text[seed.data_places["dataset_default_train.max_length"].line - 1]
    assert '"eval_dataset_size"' in text[seed.data_places["dataset_default_train.holdout"].line - 1]
    assert '"execution_providers"' in text[seed.places["target.provider"].line - 1]


def test_the_data_of_the_page_is_joined_and_thirty_percent_are_held_out(seed):
    data = seed.data["dataset_default_train"]

    assert data.files == (str((CONFIGS / "dataset/dataset-classification.json").absolute()),)
    assert data.template == TEMPLATE
    assert (data.strategy, data.max_length, data.holdout) == ("join", 2048, 0.3)
    assert (data.pad, data.attention_mask) == (False, False)
    assert (data.add_special_tokens, data.joiner) == (True, "")  # as Olive puts the texts together
    assert note(seed, "data_configs.0.pre_process_data_config.params.add_special_tokens").kind == "defaulted"


def test_the_systems_of_the_page_are_hosts_and_its_target_a_gpu(seed):
    assert seed.host == "aml"
    assert seed.target == Target(device="gpu", provider="CUDAExecutionProvider")
    assert seed.hosts["aml"].type == seed.hosts["azure_arc"].type == "azureml"
    assert seed.hosts["aml"].options == {
        "compute": "a compute", "image": "an image", "conda_file": "conda.yaml", "hf_token": True,
    }  # fmt: skip
    assert seed.hosts["azure_arc"].options["compute"] == "another compute"


def test_the_engine_of_the_page_names_store_and_output_and_tells_everything(seed):
    assert seed.output == "../model-cache/models/phi3-finetuned"
    assert seed.store == "../model-cache/models/phi3-finetuned/cache"
    assert seed.log_level == "debug"
    assert seed.search is None


def test_what_belongs_to_another_pass_is_named(seed):
    found = note(seed, "passes.lora.config.double_quant")

    assert found.kind == "ignored"
    assert "QLoRA" in found.text


def test_the_page_without_model_and_data_lacks_just_these(seed):
    found = {problem.what for problem in check(seed)}

    assert "there is no model at `model-cache/microsoft/phi-3-mini`" in found
    assert "there is no data file `dataset/dataset-classification.json`" in found


def test_model_and_data_in_azure_become_addresses():
    recipe = read("seed-azure")

    assert recipe.model.uri == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/11"
    assert recipe.model.format == "mlflow"
    assert recipe.data["dataset_default_train"].files == (
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/tone/train.json",
    )
    assert recipe.data["dataset_default_train"].columns() == ("Question", "Best Answer")
    assert recipe.hosts["aml"].options == {
        "compute": "a compute", "subscription_id": "S", "resource_group": "G", "workspace_name": "W",
        "keyvault_name": "K",
    }  # fmt: skip


def test_what_a_pass_leaves_out_takes_olives_value_and_says_so():
    recipe = read("seed-azure")

    lora = recipe.steps[0]
    assert (lora.fields["rank"], lora.fields["alpha"], lora.fields["dropout"]) == (64, 16, 0.05)
    assert note(recipe, "passes.lora.config.r").kind == "defaulted"


def test_the_published_form_says_the_same_as_the_page():
    published, page = read("phrase-classification"), read("seed-local")

    assert published.data["dataset_default_train"].max_length == 1024
    assert published.data["dataset_default_train"].to_wire() == {
        **page.data["dataset_default_train"].to_wire(), "max_length": 1024,
    }  # fmt: skip
    for one, other in zip(published.steps, page.steps, strict=True):
        assert (one.name, one.type) == (other.name, other.type)
    keys = ("data", "rank", "alpha", "dropout", "modules")
    assert all(published.steps[0].fields[key] == page.steps[0].fields[key] for key in keys)
    assert published.host == "local_system"
    assert published.hosts["local_system"].type == "local"
    assert note(published, "$schema").kind == "ignored"


def test_a_gpu_whose_only_provider_is_the_cpus_is_a_cpu():
    recipe = read("phrase-classification")

    assert recipe.target == Target()
    assert note(recipe, "systems.local_system.config.accelerators").kind == "replaced"
