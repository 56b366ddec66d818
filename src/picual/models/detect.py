"""Which kind of model a folder holds."""

from __future__ import annotations

from pathlib import Path

from picual.errors import UnreadableModel
from picual.models.base import Model
from picual.models.hf import HfAdapter, HfCheckpoint, HfModel, read_json
from picual.models.onnx import GenaiModel, OnnxModel
from picual.models.quantized import FILE as QUANTIZATION
from picual.models.quantized import QuantizedHfModel


def open_folder(path: Path, *, trust_remote_code: bool = False) -> Model:
    """Return the model in ``path``, which may be a folder or an ``.onnx`` file.

    An output folder of a run stands for the ``model`` folder in it.

    Raises:
        UnreadableModel: Nothing there is a model.
    """
    if path.suffix == ".onnx" and path.is_file():
        return OnnxModel(path)
    if (path / "genai_config.json").is_file():
        return GenaiModel(path)
    if (path / "adapter_config.json").is_file():
        return HfAdapter(path, _base_of(path, trust_remote_code))
    if (path / QUANTIZATION).is_file():
        return QuantizedHfModel(path, trust_remote_code)
    if (path / "config.json").is_file():
        return HfModel(path, trust_remote_code)
    if (path / "manifest.json").is_file() and (path / "model").is_dir():
        return open_folder(path / "model", trust_remote_code=trust_remote_code)
    raise UnreadableModel(
        "there is no model here: no config.json, adapter_config.json or genai_config.json",
        where=str(path),
        hint="give the folder `OUT/model` of a run, or a folder made by save_pretrained",
    )


def _base_of(adapter: Path, trust_remote_code: bool) -> HfCheckpoint | HfAdapter:
    named = str(read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or "")
    if not named or not Path(named).is_dir():
        raise UnreadableModel(
            f"the adapter's base model `{named}` is not on this machine"
            if named
            else "the adapter names no base model",
            where=str(adapter / "adapter_config.json"),
            hint="set `base_model_name_or_path` there to the folder of its base model",
        )
    base = open_folder(Path(named), trust_remote_code=trust_remote_code)
    if not isinstance(base, HfCheckpoint | HfAdapter):
        raise UnreadableModel(f"the adapter's base is {base.title}", where=named, hint="name a Hugging Face model")
    return base
