"""Is the checkpoint in an MLflow folder the given one, and does ``MLmodel`` lead MLflow to it and its tokenizer.

``MLmodel`` is read as MLflow reads it, by the names of its flavour alone; nothing is shared with what wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.models import HfModel, MlflowModel, Model
from picual.passes.base import MlflowFolderWritten

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def check(promise: MlflowFolderWritten, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare tensors by name and bytes, then config, description and tokenizer."""
    assert isinstance(given, HfModel)
    assert isinstance(made, MlflowModel)
    source, found = given.tensors(), made.tensors()
    wrong = sorted(
        name for name in {*source, *found} if name not in source or name not in found
        or (source[name].dtype, source[name].shape) != (found[name].dtype, found[name].shape)
        or not stored.same_bytes(source[name], found[name])
    )  # fmt: skip
    yield Check("mlflow-tensors", not wrong, len(wrong), 0, some(wrong) if wrong else f"{len(found)} tensors")
    same = given.config() == made.config()
    yield Check("mlflow-config", same, detail="unchanged" if same else "`config.json` differs")
    faults = list(_faults(made, _described(made.whole)))
    yield Check("mlflow-described", not faults, len(faults), 0, "; ".join(faults))
    other = _other_files(given.path, made.whole / "components" / "tokenizer")
    yield Check("mlflow-tokenizer", not other, len(other), 0, some(other) if other else "the same files")


def _described(folder: Path) -> Mapping[str, Any]:
    import yaml

    try:
        said = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return said if isinstance(said, Mapping) else {}


def _faults(made: MlflowModel, said: Mapping[str, Any]) -> Iterator[str]:
    """Yield where ``MLmodel`` does not lead to what lies in the folder."""
    flavours = said.get("flavors")
    named = flavours if isinstance(flavours, Mapping) else {}
    loaded, served = named.get("transformers"), named.get("python_function")
    if not isinstance(loaded, Mapping) or not isinstance(served, Mapping):
        yield "`MLmodel` does not name both flavours"
        return
    if made.whole / str(loaded.get("model_binary")) != made.path:
        yield "its weights are elsewhere"
    if [loaded.get("pipeline_model_type")] != list(made.config().get("architectures") or ())[:1]:
        yield f"it says that the network is a {loaded.get('pipeline_model_type')}"
    dtype = made.config().get("dtype") or made.config().get("torch_dtype")
    if loaded.get("torch_dtype") != (f"torch.{dtype}" if dtype else None):
        yield f"it says that the weights are {loaded.get('torch_dtype')}"
    if loaded.get("components") != ["tokenizer"] or not loaded.get("tokenizer_type"):
        yield "it does not name the tokenizer"
    if served.get("loader_module") != "mlflow.transformers":
        yield f"it is loaded with {served.get('loader_module')}"
    places = dict(served.get("env") or {}).values()
    for name in ("requirements.txt", *places):
        if not (made.whole / str(name)).is_file():
            yield f"`{name}` is missing"


def _other_files(given: Path, made: Path) -> list[str]:
    """Return the names of the tokenizer's files that are on one side alone, or not the same on both."""
    before, after = (_digests(folder) for folder in (given, made))
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _digests(folder: Path) -> dict[str, str]:
    return {name: fingerprint.file_digest(folder / name) for name in TOKENIZER if (folder / name).is_file()}
