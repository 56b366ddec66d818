"""`input_model`: a Hugging Face model under its three names, and the kinds that are not one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, object_reader, word
from picual.recipe.olive.resource import resource
from picual.recipe.schema import ModelSource
from picual.sources.azure_address import is_address

_GENERATION = ("text-generation", "text-generation-with-past", "causal-lm")
_USER_CODE: Reason = (
    "later",
    "code of the user is never run while a config is read, and no model comes from it yet",
)
_OWN_GRAPH: Reason = ("ignored", "a language model's inputs and outputs are the runtime's own, the same for all")
_HANDLERS: Reason = ("ignored", "read from the model's own config")
_PARTS: Reason = ("later", "models of several parts are not supported in this version")
_UNUSED: dict[str, Reason] = {
    "model_loader": _USER_CODE,
    "model_script": _USER_CODE,
    "script_dir": _USER_CODE,
    "dummy_inputs_func": _OWN_GRAPH,
    "io_config": _OWN_GRAPH,
    "generative": ("mapped", "every model is asked to generate"),
    "model_attributes": _HANDLERS,
    "model_class": _HANDLERS,
    "feature": _HANDLERS,
    "custom_task_class_name": _USER_CODE,
    "custom_task_class_module": _USER_CODE,
    "components": _PARTS,
    "model_components": _PARTS,
    "model_component_names": _PARTS,
    "model_variant": _PARTS,
    "name": ("ignored", "a model goes by where it comes from"),
    "is_file": ("mapped", "what lies at the path says whether it is a file"),
    "model_storage_kind": ("mapped", "what lies at the path says whether it is a file"),
    "onnx_file_name": ("later", "an ONNX model as input is not supported in this version"),
    "inference_settings": ("later", "session settings arrive with ONNX models as input"),
    "use_ort_extensions": ("later", "session settings arrive with ONNX models as input"),
    "test_model_path": ("ignored", "a stand-in for Olive's own trial runs"),
    "test_model_config": ("ignored", "a stand-in for Olive's own trial runs"),
    "untie_lm_head_weights": ("ignored", "`build-genai` decides about the head: its `head` field"),
}
_STORED_TYPE: Reason = ("ignored", "weights are read in the type they are stored in; `dtype` of a step changes it")
_LOADING: dict[str, Reason] = {
    "attn_implementation": ("ignored", "the runtime has its own attention; training takes the model's default"),
    "_attn_implementation": ("ignored", "the runtime has its own attention; training takes the model's default"),
    "torch_dtype": _STORED_TYPE,
    "dtype": _STORED_TYPE,
    "device_map": ("ignored", "Picual places the model on the device of its host"),
    "max_memory": ("ignored", "Picual streams a model that does not fit in memory"),
    "quantization_method": (
        "ignored",
        "a checkpoint is read as it is stored; to train on it in 4 bits, `QLoRA` says so",
    ),
    "quantization_config": (
        "ignored",
        "a checkpoint is read as it is stored; to train on it in 4 bits, `QLoRA` says so",
    ),
    "output_attentions": ("ignored", "attention weights are not among a language model's outputs"),
    "use_cache": ("mapped", "an exported model always has its key-value cache"),
    "extra_args": ("ignored", "Picual loads a checkpoint without further arguments"),
}
_LOADING_REST: Reason = ("ignored", "Picual loads a checkpoint by its own reader, which has no such argument")


@dataclass(frozen=True)
class InputModel:
    """The model, its task as the config calls it, and the data set that the old form keeps inside the model."""

    source: ModelSource
    task: str | None = None
    dataset: Found | None = None


def read_model(context: Context, top: Reader) -> InputModel:
    """Return the input model of a config.

    Raises:
        BadValue: `input_model` is no mapping.
    """
    found = top.find("input_model")
    if found is None:
        return InputModel(source=ModelSource(uri=""))
    if not isinstance(found.value, dict):
        raise context.ledger.wrong_shape(found.path, "a mapping with `type` and `model_path`")
    reader = object_reader(context.ledger, found)
    hugging = reader.child("hf_config", nested=None)
    loading = _loading_readers(reader, hugging)
    kind = _kind(reader, hugging)
    uri = _uri(context, reader, hugging)
    format_ = _format(reader)
    task = _task(reader, hugging)
    options, revision = _loading(context, loading)
    for owner in (reader, hugging):
        if owner is not None:
            context.trusts(owner)
            owner.drop_all(_UNUSED)
    if kind:
        options = {**options, "type": kind}
    given = reader.given("adapter_path")
    adapter = None if given is None else resource(context, given, to="model.adapter")
    if any(one is not None and is_address(one) for one in (uri, adapter)):
        options = {**options, **context.azure}
    source = ModelSource(
        uri=uri or "",
        revision=revision,
        format="mlflow" if format_ == "mlflow" else "auto",
        adapter=adapter,
        options=options,
        place=context.ledger.place(found.path),
    )
    return InputModel(source=source, task=task, dataset=None if hugging is None else hugging.given("dataset"))


def _loading_readers(reader: Reader, hugging: Reader | None) -> list[Reader]:
    """Return the arguments of loading the checkpoint, under each of their names."""
    found = [reader.child("load_kwargs", nested="extra_args", rest=_LOADING_REST)]
    if hugging is not None:
        found += [
            hugging.child(name, nested="extra_args", rest=_LOADING_REST)
            for name in ("from_pretrained_args", "model_loading_args", "load_kwargs")
        ]
    return [one for one in found if one is not None]


def _kind(reader: Reader, hugging: Reader | None) -> str:
    """Return the kind of a model that is not a Hugging Face one; empty for one that is."""
    found = reader.find_type()
    if found is None:
        reader.ledger.note(
            (*reader.layers[-1].path, "type"), "defaulted", "left out: taken for a Hugging Face model"
        )
        return ""
    kind = word(found.value)
    if not kind:
        reader.wrong_type(found, "the name of a kind of model")
        return ""
    if kind == "hfmodel" or (kind in {"pytorchmodel", "optimummodel"} and hugging is not None):
        reader.ledger.mapped(found.path, "a Hugging Face model, as `model` is")
        return ""
    if kind == "pytorchmodel":
        text = "a PyTorch model of the user's own making is not supported: `model` takes a checkpoint"
        reader.ledger.note(found.path, "later", text)
        return "PyTorchModel"
    reader.ledger.note(found.path, "later", f"`{found.value}` as input is not supported in this version")
    return str(found.value).strip()


def _uri(context: Context, reader: Reader, hugging: Reader | None) -> str | None:
    path = reader.given("model_path")
    uri = None if path is None else resource(context, path, to="model")
    name = None if hugging is None else hugging.given("model_name")
    if name is None:
        return uri if uri is not None else reader.text("name", to="model")
    if uri is None:
        return resource(context, name, to="model")
    text = "`model_path` is where the model comes from, its config and tokenizer included"
    context.ledger.note(name.path, "ignored", text)
    return uri


def _format(reader: Reader) -> str:
    found = reader.given("model_file_format")
    if found is None:
        return ""
    if word(found.value).endswith("mlflow"):
        reader.ledger.mapped(found.path, "model.format")
        return "mlflow"
    text = "Picual finds out the format of a model by itself; of PyTorch's it reads safetensors checkpoints"
    reader.ledger.note(found.path, "ignored", text)
    return word(found.value)


def _task(reader: Reader, hugging: Reader | None) -> str | None:
    layers = reader.layers if hugging is None else [*reader.layers, *hugging.layers]
    found = Reader(reader.ledger, layers).given("task")
    if found is None:
        return None
    if word(found.value) in _GENERATION:
        reader.ledger.mapped(found.path, "text generation is what Picual makes of every model")
    else:
        text = f"models for `{found.value}` are not supported in this version; read as one that generates text"
        reader.ledger.note(found.path, "later", text)
    return word(found.value)


def _loading(context: Context, readers: list[Reader]) -> tuple[dict[str, Any], str | None]:
    options: dict[str, Any] = {}
    revision = None
    for reader in readers:
        context.trusts(reader)
        revision = reader.text("revision", to="model.revision") or revision
        reader.drop_all(_LOADING)
    return options, revision
