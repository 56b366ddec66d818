"""The folder is read back as the model it was made of, and one that lies about it does not pass the gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from picual import _lazy, fingerprint
from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfModel, MlflowModel
from picual.passes.base import PassContext
from picual.passes.export.mlflow_folder import ExportMlflow
from picual.sources.mlflow import MlflowSource
from picual.sources.resolve import resolve
from picual.testing import PassContract, tiny_model

TEXT = "Rope, gulls & 你好 <|end|>"


def without_tokenizer(folder: Path) -> HfModel:
    model = tiny_model(folder)
    for file in folder.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            file.unlink()
    return model


class TestContract(PassContract):
    a_pass = ExportMlflow()
    a_model = staticmethod(tiny_model)
    a_refusal = staticmethod(without_tokenizer)


def export(model: HfModel, folder: Path) -> MlflowModel:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    a_pass = ExportMlflow()
    a_pass.check(model, Target())
    return a_pass.run(model, PassContext(folder / "out", folder / "scratch"))


@pytest.fixture
def given(tmp_path: Path) -> HfModel:
    model = tiny_model(tmp_path / "given")
    (model.path / "LICENSE").write_text("Do as you like.\n")
    return model


@pytest.fixture
def made(given: HfModel, tmp_path: Path) -> MlflowModel:
    return export(given, tmp_path / "made")


def test_what_was_written_is_read_back_as_the_same_checkpoint(
    given: HfModel, made: MlflowModel, tmp_path: Path
) -> None:
    source = resolve("made/out", folder=tmp_path)
    assert isinstance(source, MlflowSource)

    read = source.fetch(tmp_path / "read")

    names = [file.name for file in fingerprint.files_under(given.path)]
    assert [file.name for file in fingerprint.files_under(read.path)] == names
    before, after = (load_file(model.path / "model.safetensors") for model in (given, read))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # In the flavour's own place: what real readers load, though `model` holds a whole checkpoint.
    for place in (read.path, made.whole / "components" / "tokenizer"):
        tokenizers: Any = [AutoTokenizer.from_pretrained(where) for where in (given.path, place)]
        ids, templates = zip(*((one(TEXT)["input_ids"], one.chat_template) for one in tokenizers), strict=True)
        assert ids[0] == ids[1]
        assert templates[0] == templates[1] != ""


def test_the_layout_is_the_one_mlflow_writes(given: HfModel, made: MlflowModel) -> None:
    folder = made.whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE", "MLmodel", "components", "conda.yaml", "model", "python_env.yaml", "requirements.txt",
    ]  # fmt: skip
    said = yaml.safe_load((folder / "MLmodel").read_text())
    flavour = said["flavors"]["transformers"]
    assert (flavour["pipeline_model_type"], flavour["torch_dtype"]) == ("LlamaForCausalLM", "torch.float32")
    assert said["model_size_bytes"] == sum(file.stat().st_size for file in made.path.iterdir())
    packages = (folder / "requirements.txt").read_text().split()
    assert f"transformers=={_lazy.version_of('transformers')}" in packages
    assert not any("+" in package for package in packages)
    assert yaml.safe_load((folder / "conda.yaml").read_text())["dependencies"][-1] == {"pip": packages}
    assert yaml.safe_load((folder / "python_env.yaml").read_text())["python"] == "3.11"  # text, not a number


def test_equal_models_elsewhere_give_equal_bytes_and_other_ones_another_id(tmp_path: Path) -> None:
    def written(place: str, seed: int) -> dict[str, bytes]:
        folder = export(tiny_model(tmp_path / place / "given", seed=seed), tmp_path / place / "made").whole
        return {str(file.relative_to(folder)): file.read_bytes() for file in fingerprint.files_under(folder)}

    once, twice, other = written("once", 0), written("twice", 0), written("other", 1)
    assert once == twice
    ids = [yaml.safe_load(files["MLmodel"])["model_uuid"] for files in (once, other)]
    assert ids[0] != ids[1]
    assert all(len(one) == 32 for one in ids)


def test_packed_weights_name_their_reader(given: HfModel, tmp_path: Path) -> None:
    config = given.config() | {"quantization_config": {"quant_method": "compressed-tensors"}}
    (given.path / "config.json").write_text(json.dumps(config))
    packages = (export(given, tmp_path / "made").whole / "requirements.txt").read_text()
    assert "compressed-tensors" in packages


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_a_model_goes_along_if_it_is_trusted(trusted: bool, given: HfModel, tmp_path: Path) -> None:
    (given.path / "modeling_own.py").write_text("OWN = 1\n")
    made = export(HfModel(given.path, trusted), tmp_path / "made")
    assert (made.path / "modeling_own.py").exists() is trusted
    assert (made.whole / "components" / "tokenizer" / "modeling_own.py").exists() is trusted
    assert made.trust_remote_code is trusted


def test_a_config_that_names_no_class_is_refused(given: HfModel) -> None:
    config = given.config()
    del config["architectures"]
    (given.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="names no class"):
        ExportMlflow().check(given, Target())


def failed(given: HfModel, made: MlflowModel) -> set[str]:
    found = [check for promise in ExportMlflow().promises() for check in verify(promise, given, made, Bench())]
    assert len(found) > 5
    return {check.name for check in found if not check.passed}


def one_bit_off(made: MlflowModel) -> None:
    weights = load_file(made.path / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-6
    save_file(weights, made.path / "model.safetensors", {"format": "pt"})


def another_theta(made: MlflowModel) -> None:
    config = made.config() | {"rms_norm_eps": 1e-3}
    (made.path / "config.json").write_text(json.dumps(config))


def another_tokenizer(made: MlflowModel) -> None:
    file = made.whole / "components" / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|end|>", "<|stop|>"))


def no_template(made: MlflowModel) -> None:
    (made.whole / "components" / "tokenizer" / "chat_template.jinja").unlink()


def described(**changes: Any) -> Callable[[MlflowModel], None]:
    def change(made: MlflowModel) -> None:
        file = made.whole / "MLmodel"
        said = yaml.safe_load(file.read_text())
        said["flavors"]["transformers"].update(changes)
        file.write_text(yaml.safe_dump(said))

    return change


def junk(made: MlflowModel) -> None:
    (made.whole / "MLmodel").write_text("flavors: [")


def no_flavours(made: MlflowModel) -> None:
    (made.whole / "MLmodel").write_text("flavors: 3")


def no_environment(made: MlflowModel) -> None:
    (made.whole / "conda.yaml").unlink()


def test_an_honest_folder_passes_the_gate(given: HfModel, made: MlflowModel) -> None:
    assert failed(given, made) == set()


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (one_bit_off, "mlflow-tensors"),
        (another_theta, "mlflow-config"),
        (another_tokenizer, "mlflow-tokenizer"),
        (no_template, "mlflow-tokenizer"),
        (described(model_binary="weights"), "mlflow-described"),
        (described(pipeline_model_type="MistralForCausalLM"), "mlflow-described"),
        (described(torch_dtype="torch.bfloat16"), "mlflow-described"),
        (described(components=[]), "mlflow-described"),
        (junk, "mlflow-described"),
        (no_flavours, "mlflow-described"),
        (no_environment, "mlflow-described"),
    ],
)
def test_a_folder_that_lies_does_not_pass(
    spoil: Callable[[MlflowModel], None], check: str, given: HfModel, made: MlflowModel
) -> None:
    spoil(made)
    assert failed(given, made) == {check}


def test_half_a_copy_of_an_interrupted_run_is_made_anew(given: HfModel, tmp_path: Path) -> None:
    whole = export(given, tmp_path / "whole")
    (tmp_path / "cut" / "out").mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / "scratch", tmp_path / "cut" / "scratch")
    kept = tmp_path / "cut" / "scratch" / "model.safetensors"
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content[:-1])

    again = ExportMlflow().run(given, PassContext(tmp_path / "cut" / "out", tmp_path / "cut" / "scratch"))

    assert (again.path / kept.name).read_bytes() == (whole.path / kept.name).read_bytes()
