"""A model in an MLflow folder, as MLflow or Azure Machine Learning saves it; read without MLflow.

Layouts, by the flavour that ``MLmodel`` names:

    transformers                     model/ (a checkpoint), components/tokenizer/
    hftransformers, hftransformersv2 data/model/, data/config/, data/tokenizer/
    pytorch                          data/model.pth: a pickle, so only with trust

Source: MLflow, "MLmodel" storage format; Azure Machine Learning's hftransformers flavour.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # the name of an error; nothing is loaded with it
from typing import Any

from picual import _lazy
from picual.errors import PicualError, Refused, UnreadableModel
from picual.models import HfModel, Model
from picual.models.hf_loading import quiet
from picual.sources import checkpoint, files
from picual.sources.base import Fetched, Source
from picual.sources.digests import DigestMemory
from picual.sources.folder import refuse_pickles

# What unpickling junk, half a file or a class that is not here raises.
UNPICKLING = (
    UnpicklingError, RuntimeError, EOFError, ImportError, AttributeError, ValueError, KeyError, IndexError,
    TypeError, struct.error,
)  # fmt: skip
FLAVOURS = ("transformers", "hftransformersv2", "hftransformers", "pytorch")


@dataclass(frozen=True, kw_only=True)
class MlflowSource:
    """A folder with ``MLmodel`` in it, or one folder further down."""

    path: Path
    digests: DigestMemory
    trust_remote_code: bool = False
    trust: bool = False

    @property
    def fetches(self) -> bool:
        """Say yes: its parts are put together once, in the store."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which flavour is read."""
        return (f"{self.path.name}: MLflow flavour `{_flavour(find(self.path))[0]}`",)

    def key_parts(self) -> Mapping[str, Any]:
        """Return the digest of every file in the folder.

        Raises:
            Refused: The flavour is a pickle and nothing says that it may be loaded.
        """
        root = find(self.path)
        name, _ = _flavour(root)
        if name == "pytorch":
            self._require_trust(root)
        parts = {"mlflow": self.digests.folder(root, sorted(f for f in root.rglob("*") if f.is_file()))}
        return parts | ({"transformers": _lazy.version_of("transformers")} if name == "pytorch" else {})

    def obstacles(self) -> Sequence[PicualError]:
        """Return nothing: what is wrong with the folder is found when it is read."""
        return ()

    def locate(self) -> Fetched | None:
        """Return nothing: what was put together lies in the store."""
        return None

    def fetch(self, folder: Path) -> Model:
        """Put the parts together, or unpickle the model and write it as safetensors."""
        root = find(self.path)
        name, facts = _flavour(root)
        if name == "pytorch":
            self._require_trust(root)
            _convert(root, facts, folder)
        else:
            _assemble(_parts(root, name, facts), folder)
        return HfModel(folder, self.trust_remote_code)

    def _require_trust(self, root: Path) -> None:
        if not self.trust:
            raise Refused(
                "the MLflow flavour `pytorch` is a pickle, which can run any code when it is loaded",
                where=str(root / "MLmodel"),
                hint="if you trust whoever made it, add `--trust`",
            )


def find(path: Path) -> Path:
    """Return the folder that holds ``MLmodel``: ``path`` or the nearest one below it.

    Raises:
        UnreadableModel: There is none.
    """
    found = sorted(path.rglob("MLmodel"), key=lambda file: (len(file.parts), file))
    if not found:
        raise UnreadableModel("there is no `MLmodel` here", where=str(path), hint="give the folder that holds it")
    return found[0].parent


def _flavour(root: Path) -> tuple[str, Mapping[str, Any]]:
    import yaml

    file = root / "MLmodel"
    try:
        flavours = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"]
        named = {name: flavours[name] or {} for name in FLAVOURS if name in flavours}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UnreadableModel(
            f"`MLmodel` is not readable ({type(error).__name__})", where=str(file), hint="download the model again"
        ) from error
    for name, facts in named.items():
        return name, facts
    raise Refused(
        f"no MLflow flavour here is one that can be read (here: {', '.join(flavours)})",
        where=str(file),
        hint="it can be " + ", ".join(f"`{name}`" for name in FLAVOURS),
    )


def _parts(root: Path, name: str, facts: Mapping[str, Any]) -> list[Path]:
    """Return the folders that make up the checkpoint; where two have a file of one name, the later wins."""
    if name == "transformers":
        weights = root / str(facts.get("model_binary") or "model")
        return [weights, root / "components" / "tokenizer"]
    data = root / str(facts.get("model_data") or "data")
    return [data / "model", data / "config", data / "tokenizer"]


def _assemble(parts: Iterable[Path], folder: Path) -> None:
    weights, *others = parts
    if not weights.is_dir():
        raise UnreadableModel(
            f"the folder `{weights.name}` is missing", where=str(weights.parent), hint="download the model again"
        )
    files.copy(files.model_files(weights), folder)
    for part in others:
        if part.is_dir():
            files.copy(files.model_files(part), folder)
    _require_safetensors(weights, folder)


def _require_safetensors(weights: Path, folder: Path) -> None:
    """Raise ``Refused`` if the weights were pickles, though the config lies elsewhere."""
    if any(folder.glob("*.safetensors")):
        return
    refuse_pickles(weights)
    raise UnreadableModel(
        "there are no safetensors weights here", where=str(weights), hint="save the model as safetensors"
    )


def _convert(root: Path, facts: Mapping[str, Any], folder: Path) -> None:
    transformers = _lazy.need("transformers", extra="hf", by="MLflow")
    file = root / str(facts.get("model_data") or "data") / "model.pth"
    if not file.is_file():
        raise UnreadableModel("`model.pth` is missing", where=str(file.parent), hint="download the model again")
    model = _network(_unpickled(file), root, file)
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_folder(root), local_files_only=True)
    checkpoint.save(model, tokenizer, folder)


def _unpickled(file: Path) -> Any:
    torch = _lazy.need("torch", extra="hf", by="MLflow")
    # The user said `--trust`, or we would not be here. Plain tensors need none of it, so try those first.
    load = torch.load  # MLflow's `pytorch` flavour is a pickle; there is no other way to read it
    try:
        try:
            return load(file, map_location="cpu", weights_only=True)
        except UnpicklingError:
            return load(file, map_location="cpu", weights_only=False)
    except UNPICKLING as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnreadableModel(
            f"`model.pth` cannot be loaded ({first})",
            where=str(file),
            hint="download the model again, or install the package its code comes from",
        ) from error


def _network(loaded: Any, root: Path, file: Path) -> Any:
    """Return a transformers model, given one or given weights that a ``config.json`` nearby explains."""
    transformers = _lazy.need("transformers", extra="hf", by="MLflow")
    if isinstance(loaded, transformers.PreTrainedModel):
        return loaded
    configs = sorted(root.rglob("config.json"), key=lambda path: (len(path.parts), path))
    if isinstance(loaded, Mapping) and configs:
        config = transformers.AutoConfig.from_pretrained(configs[0].parent, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_config(config)
        missing, unknown = model.load_state_dict(loaded, strict=False)
        missing = [name for name in missing if name not in (model._tied_weights_keys or {})]
        if not missing and not unknown:
            return model
        raise UnreadableModel(
            f"`model.pth` does not fit `config.json` (`{[*missing, *unknown][0]}`)",
            where=str(file),
            hint="download the model again",
        )
    raise Refused(
        f"`model.pth` holds a {type(loaded).__name__}, not a transformers model",
        where=str(file),
        hint="log the model with MLflow's `transformers` flavour",
    )


def _tokenizer_folder(root: Path) -> Path:
    found = sorted(root.rglob("tokenizer_config.json"), key=lambda path: (len(path.parts), path))
    if not found:
        raise UnreadableModel(
            "the MLflow folder holds no tokenizer",
            where=str(root),
            hint="copy the tokenizer's files into its folder `components/tokenizer`",
        )
    return found[0].parent


_: type[Source] = MlflowSource
