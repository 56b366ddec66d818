"""A model in a local folder: nothing to fetch. And a cheap look at whether its files are whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.errors import PicualError, Refused, UnreadableModel
from picual.models import HfAdapter, HfCheckpoint, Model
from picual.models.detect import open_folder
from picual.models.hf import read_json
from picual.sources import files
from picual.sources.base import Fetched, Source
from picual.sources.digests import DigestMemory

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"
AGAIN = "fetch the model again"


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder made by ``save_pretrained``, sharded or not; or the model folder of an earlier run."""

    path: Path
    digests: DigestMemory
    trust_remote_code: bool = False
    notes: tuple[str, ...] = ()

    @property
    def fetches(self) -> bool:
        """Say no: the files are here."""
        return False

    def key_parts(self) -> Mapping[str, Any]:
        """Return the digest of the files; hashes what is not remembered."""
        return {"content": [self.digests.folder(self.locate().model.path)]}

    def obstacles(self) -> Sequence[PicualError]:
        """Return nothing: the files are here, and looked at."""
        return ()

    def locate(self) -> Fetched:
        """Return the model; its digest is found by whoever needs it.

        Raises:
            Refused: The weights are pickles.
            UnreadableModel: There is no model in the folder.
        """
        if (self.path / "config.json").is_file():
            refuse_pickles(self.path)
        model = open_folder(self.path, trust_remote_code=self.trust_remote_code)
        return Fetched(model, None, self.notes)

    def fetch(self, folder: Path) -> Model:
        """Copy the model's files."""
        return copied(self.locate().model, folder)


def copied(model: Model, folder: Path) -> Model:
    """Copy a model's files into ``folder``, an adapter's base beside it, and return the copy."""
    if isinstance(model, HfAdapter):
        base = copied(model.base, folder / "base")
        files.copy(files.model_files(model.path), folder / "adapter")
        assert isinstance(base, HfCheckpoint | HfAdapter)
        return HfAdapter(folder / "adapter", base)
    files.copy(files.model_files(model.path), folder)
    return dataclasses.replace(model, path=folder / model.path.name if model.path.is_file() else folder)


def refuse_pickles(folder: Path) -> None:
    """Raise ``Refused`` if a checkpoint's only weights are pickles, which run code when they are loaded."""
    if (folder / INDEX).exists() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    pickles = [name for name in pickles if name != "training_args.bin"]
    if pickles:
        raise Refused(
            f"the only weights here are pickles (`{pickles[0]}`), which can run any code when they are loaded",
            where=str(folder),
            hint="convert to safetensors where you trust it: load it with transformers, then `save_pretrained`",
        )


def examine(model: Model) -> None:
    """Look whether the files of a model are whole: headers, sizes and JSON, no weight is read.

    Raises:
        UnreadableModel: A file is missing, cut short or not what its name says; the file is named.
    """
    if isinstance(model, HfAdapter):
        _examine_adapter(model)
        examine(model.base)
    elif isinstance(model, HfCheckpoint):
        _examine_config(model)
        _examine_weights(model)
        _examine_tokenizer(model.path)


def _examine_adapter(adapter: HfAdapter) -> None:
    adapter.adapter_config()
    if not (adapter.path / "adapter_model.safetensors").is_file():
        raise UnreadableModel(
            "`adapter_model.safetensors` is missing", where=str(adapter.path), hint="train the adapter again"
        )
    adapter.tensors()


def _examine_config(model: HfCheckpoint) -> None:
    config = model.config()
    if "model_type" not in config:
        raise UnreadableModel("`config.json` names no `model_type`", where=str(model.path), hint=AGAIN)


def _examine_weights(model: HfCheckpoint) -> None:
    tensors = model.tensors()
    if not tensors:
        raise UnreadableModel("the checkpoint holds no tensor", where=str(model.path), hint=AGAIN)
    index = model.path / INDEX
    if not index.exists():
        return
    for name, shard in read_json(index)["weight_map"].items():
        if name not in tensors or tensors[name].file.name != shard:
            raise UnreadableModel(f"`{shard}` has no tensor `{name}`", where=str(index), hint=AGAIN)


def _examine_tokenizer(folder: Path) -> None:
    for file in _json_companions(folder):
        read_json(file)
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists():
        if not isinstance(read_json(tokenizer).get("model"), dict):
            raise UnreadableModel("`tokenizer.json` holds no tokenizer", where=str(tokenizer), hint=AGAIN)
    elif not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        raise UnreadableModel(
            "the model has no tokenizer (`tokenizer.json` is missing)",
            where=str(folder),
            hint="copy the tokenizer's files beside the weights",
        )


def _json_companions(folder: Path) -> Iterator[Path]:
    for name in (
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
    ):
        if (folder / name).exists():
            yield folder / name
    vocabulary = folder / "vocab.json"
    if vocabulary.exists():
        yield vocabulary


_: type[Source] = FolderSource
