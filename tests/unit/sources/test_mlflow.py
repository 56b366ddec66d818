from __future__ import annotations

import pickle  # noqa: TID251  # to write what the source must not load unasked
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from picual import fingerprint
from picual.errors import Refused, UnreadableModel
from picual.models import HfModel
from picual.sources.folder import examine
from picual.sources.mlflow import MlflowSource
from picual.sources.resolve import resolve

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
Fetch = Callable[..., Any]


def parts(tiny: HfModel, root: Path, *, weights: str, config: str, tokenizer: str) -> None:
    for file in fingerprint.files_under(tiny.path):
        place = tokenizer if file.name in TOKENIZER else config if file.suffix == ".json" else weights
        (root / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, root / place / file.name)


def transformers_flavour(tiny: HfModel, root: Path) -> None:
    parts(tiny, root, weights="model", config="model", tokenizer="components/tokenizer")
    (root / "MLmodel").write_text(
        "artifact_path: m\nflavors:\n  python_function: {loader_module: mlflow.transformers}\n  transformers:\n"
        "    components: [tokenizer]\n    model_binary: model\n    pipeline_model_type: LlamaForCausalLM\n"
    )


def hf_flavour(tiny: HfModel, root: Path, name: str = "hftransformersv2") -> None:
    parts(tiny, root, weights="data/model", config="data/config", tokenizer="data/tokenizer")
    (root / "MLmodel").write_text(
        f"flavors:\n  {name}:\n    hf_pretrained_class: AutoModelForCausalLM\n    model_data: data\n"
    )


def old_hf_flavour(tiny: HfModel, root: Path) -> None:
    hf_flavour(tiny, root / "mlflow_model_folder", "hftransformers")  # as a registry hands it out


@pytest.mark.parametrize("write", [transformers_flavour, hf_flavour, old_hf_flavour])
def test_the_parts_of_a_flavour_become_the_checkpoint_they_came_from(
    write: Callable[[HfModel, Path], None], tiny: HfModel, tmp_path: Path, fetch: Fetch
) -> None:
    write(tiny, tmp_path / "logged")

    model, told = fetch("logged")

    examine(model)
    assert told["model"] == {"kind": "hf", "path": "."}
    names = [file.name for file in fingerprint.files_under(tiny.path)]
    assert [file.name for file in fingerprint.files_under(model.path)] == names
    for name in names:
        assert (model.path / name).read_bytes() == (tiny.path / name).read_bytes()


def test_trust_in_remote_code_travels_with_the_model(tiny: HfModel, tmp_path: Path, fetch: Fetch) -> None:
    transformers_flavour(tiny, tmp_path / "logged")
    assert fetch("logged", trust_remote_code=True)[0].trust_remote_code
    assert not fetch("logged")[0].trust_remote_code


class _Trap:
    """Unpickled, it makes a file: the sign that somebody loaded it."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return (Path.touch, (self.sign,))


def pytorch_flavour(root: Path, loaded: Any, tiny: HfModel | None = None) -> None:
    (root / "data").mkdir(parents=True)
    (root / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n    pytorch_version: 2.8.0\n")
    torch.save(loaded, root / "data" / "model.pth")
    if tiny is not None:
        (root / "components" / "tokenizer").mkdir(parents=True)
        for name in TOKENIZER:
            shutil.copyfile(tiny.path / name, root / "components" / "tokenizer" / name)


def test_a_pickle_is_refused_before_anything_of_it_runs(tmp_path: Path, fetch: Fetch) -> None:
    pytorch_flavour(tmp_path / "logged", _Trap(tmp_path / "sign"))
    for ask in (lambda: resolve("logged", folder=tmp_path).key_parts(), lambda: fetch("logged")):
        with pytest.raises(Refused, match="is a pickle") as caught:
            ask()
        assert "`--trust`" in caught.value.hint
    assert not (tmp_path / "sign").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_trusted_pickle_becomes_the_checkpoint_it_was(
    whole: bool, tiny: HfModel, tmp_path: Path, fetch: Fetch
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(tiny.path)
    pytorch_flavour(tmp_path / "logged", network if whole else network.state_dict(), tiny)
    if not whole:
        shutil.copyfile(tiny.path / "config.json", tmp_path / "logged" / "data" / "config.json")

    model, _ = fetch("logged", trust=True)

    examine(model)
    before = load_file(tiny.path / "model.safetensors")
    after = load_file(model.path / "model.safetensors")
    assert sorted(after) == sorted(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert str(tmp_path).encode() not in (model.path / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("loaded", "kind", "what"),
    [({"a": torch.zeros(2)}, Refused, "holds a dict"), (torch.zeros(2), Refused, "holds a Tensor")],
)
def test_a_pickle_of_something_else_is_refused(
    loaded: Any, kind: type[Exception], what: str, tmp_path: Path, fetch: Fetch
) -> None:
    pytorch_flavour(tmp_path / "logged", loaded)
    with pytest.raises(kind, match=what):
        fetch("logged", trust=True)


def test_weights_that_do_not_fit_their_config_are_named(tiny: HfModel, tmp_path: Path, fetch: Fetch) -> None:
    pytorch_flavour(tmp_path / "logged", {"model.stray.weight": torch.zeros(2)}, tiny)
    shutil.copyfile(tiny.path / "config.json", tmp_path / "logged" / "data" / "config.json")
    with pytest.raises(UnreadableModel, match="does not fit"):
        fetch("logged", trust=True)


def test_a_damaged_pickle_is_named(tmp_path: Path, fetch: Fetch) -> None:
    pytorch_flavour(tmp_path / "logged", torch.zeros(2))
    for content in (b"", b"junk", pickle.dumps(3, protocol=2)[:-1]):
        (tmp_path / "logged" / "data" / "model.pth").write_bytes(content)
        with pytest.raises(UnreadableModel, match="cannot be loaded"):
            fetch("logged", trust=True)


def test_a_model_without_a_tokenizer_is_named(tiny: HfModel, tmp_path: Path, fetch: Fetch) -> None:
    from transformers import AutoModelForCausalLM

    pytorch_flavour(tmp_path / "logged", AutoModelForCausalLM.from_pretrained(tiny.path))
    with pytest.raises(UnreadableModel, match="no tokenizer"):
        fetch("logged", trust=True)


def test_pickled_weights_in_a_flavour_that_has_safetensors_are_refused(
    tiny: HfModel, tmp_path: Path, fetch: Fetch
) -> None:
    hf_flavour(tiny, tmp_path / "logged")
    weights = tmp_path / "logged" / "data" / "model"
    (weights / "model.safetensors").rename(weights / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"pickles \(`pytorch_model.bin`"):
        fetch("logged")


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("", UnreadableModel, "not readable"),
        ("flavors: [", UnreadableModel, "not readable"),
        ("flavors: 3", UnreadableModel, "not readable"),
        ("flavors: {sklearn: {}}", Refused, "here: sklearn"),
        ("flavors: {transformers: {}}", UnreadableModel, "`model` is missing"),
        ("flavors: {pytorch: {}}", UnreadableModel, "`model.pth` is missing"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(
    text: str, kind: type[Exception], what: str, tmp_path: Path, fetch: Fetch
) -> None:
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text(text)
    with pytest.raises(kind, match=what):
        fetch("logged", trust=True)


def test_the_key_is_of_the_content_and_not_of_the_place(tiny: HfModel, tmp_path: Path) -> None:
    transformers_flavour(tiny, tmp_path / "logged")
    source = resolve("logged", folder=tmp_path)
    assert isinstance(source, MlflowSource)
    key = source.key_parts()
    shutil.copytree(tmp_path / "logged", tmp_path / "copy")
    assert resolve("copy", folder=tmp_path).key_parts() == key
    config = tmp_path / "copy" / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert resolve("copy", folder=tmp_path).key_parts() != key
