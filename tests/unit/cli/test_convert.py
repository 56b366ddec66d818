"""`picual convert`: what it refuses to write, and that what it writes holds from where it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from picual.cli.main import group
from picual.errors import RecipeProblems
from picual.recipe.check import check
from picual.recipe.load import load

ROWS = {
    "name": "rows",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl", "split": "train"},
    "pre_process_data_config": {"text_template": "{text} -> {tone}"},
}
CONFIG: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "model"},
    "systems": {"here": {"type": "LocalSystem"}},
    "data_configs": [ROWS],
    "passes": {"tune": {"type": "LoRA", "train_data_config": "rows"}},
    "host": "here",
}
CLOUD = {
    "type": "AzureML",
    "aml_compute": "big",
    "aml_docker_config": {"base_image": "image", "conda_file_path": "conda.yaml"},
    "azureml_client_config": {"aml_config_path": "workspace.json"},
}


@pytest.fixture
def written(tmp_path: Path):
    """Return a writer of a config beside its model and its rows."""

    def write(**more: Any) -> Path:
        folder = tmp_path / "configs"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (folder / "rows.jsonl").write_text('{"text": "a", "tone": "b"}\n')
        file = folder / "config.json"
        file.write_text(json.dumps({**CONFIG, **more}))
        return file

    return write


def convert(*words: object) -> Result:
    return CliRunner().invoke(group, ["convert", *map(str, words)], standalone_mode=False)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_config_that_cannot_be_read_whole_is_not_converted(written, tmp_path: Path, *, elsewhere: bool) -> None:
    config = written(systems={"here": {"type": "AzurML"}})
    output = ["-o", tmp_path / "r.yaml"] if elsewhere else []

    ended = convert(config, *output)

    assert isinstance(ended.exception, RecipeProblems)
    assert ended.exception.exit_code == 2
    assert "`AzurML` is no kind of system" in str(ended.exception)
    assert "did you mean `AzureML`?" in str(ended.exception)
    assert ended.stdout == ""
    assert not (tmp_path / "r.yaml").exists()


def test_paths_hold_from_the_folder_of_the_new_file(written, tmp_path: Path) -> None:
    config = written(
        systems={"here": {"type": "LocalSystem"}, "cloud": CLOUD}, output_dir="made", cache_dir="cache"
    )
    folder = config.parent
    (tmp_path / "elsewhere").mkdir()

    assert convert(config, "-o", tmp_path / "elsewhere/r.yaml").exit_code == 0

    text = yaml.safe_load((tmp_path / "elsewhere/r.yaml").read_text())
    assert text["model"] == str(folder / "model")
    assert text["data"]["rows"]["files"] == str(folder / "rows.jsonl")
    assert (text["output"], text["store"]) == (str(folder / "made"), str(folder / "cache"))
    assert text["hosts"]["cloud"]["conda_file"] == str(folder / "conda.yaml")
    assert text["hosts"]["cloud"]["aml_config_path"] == str(folder / "workspace.json")
    assert check(load(config)) == check(load(tmp_path / "elsewhere/r.yaml")) == []


def test_paths_below_the_folder_of_the_new_file_are_relative_to_it(written, tmp_path: Path) -> None:
    assert convert(written(output_dir="../made"), "-o", tmp_path / "r.yaml").exit_code == 0

    text = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert text["model"] == "configs/model"
    assert text["data"]["rows"]["files"] == "configs/rows.jsonl"
    assert text["output"] == "made"
    assert check(load(tmp_path / "r.yaml")) == []


def test_a_file_beside_the_config_says_what_is_printed(written) -> None:
    config = written(output_dir="made")

    assert convert(config, "-o", config.parent / "r.yaml").exit_code == 0

    assert (config.parent / "r.yaml").read_text() == convert(config).stdout


@pytest.mark.parametrize("model", ["owner/name", "azureml:phi:1", "smollm2-135m", "~/models/phi", "/models/phi"])
def test_what_is_no_path_of_the_config_stays_as_it_is(written, tmp_path: Path, model: str) -> None:
    config = written(input_model={"type": "HfModel", "model_path": model})

    assert convert(config, "-o", tmp_path / "r.yaml").exit_code == 0

    text = yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert text["model"] == model
    assert "output" not in text
