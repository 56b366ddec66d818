"""Networks and tokenizers of checkpoints, through ``transformers`` and ``peft``; what is broken is named."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from picual import _lazy
from picual.errors import UnreadableModel
from picual.models.four_bit import dequantized
from picual.models.hf import HfAdapter, HfCheckpoint, HfModel, read_json
from picual.models.quantized import QuantizedHfModel
from picual.models.quantized_weights import open_weight
from picual.models.trained_on import held_in_four_bits


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from talking: we say ourselves what matters."""
    from transformers import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(root: HfCheckpoint) -> Any:
    """Return the tokenizer of a checkpoint.

    Raises:
        UnreadableModel: Its files are missing or broken.
    """
    from transformers import AutoTokenizer

    if (root.path / "tokenizer.json").exists():
        read_json(root.path / "tokenizer.json")  # a cut file is named here, with a better error than below
    try:
        return AutoTokenizer.from_pretrained(
            root.path, trust_remote_code=root.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableModel(
            f"the tokenizer cannot be loaded ({first_line(error)})",
            where=str(root.path),
            hint="put the tokenizer's files beside config.json, or fetch the model again",
        ) from error


def load_network(model: HfCheckpoint | HfAdapter, *, on_gpu: bool) -> Any:
    """Return the network of a model, adapters merged in: float32, or as stored on a GPU.

    What an adapter was trained beside in 4 bits is as 4 bits left it: the network is the one that was trained.
    """
    import torch

    if isinstance(model, HfCheckpoint):
        return load_base(model, "auto" if on_gpu else torch.float32)
    network = load_base(model.root(), torch.float32)
    _as_trained(network, model)
    for adapter in model.chain():
        network = _merge(network, adapter)
    stored = model.root().config()
    dtype = getattr(torch, str(stored.get("dtype", stored.get("torch_dtype", "float32"))))
    return network.to(dtype) if on_gpu else network


def load_base(model: HfCheckpoint, dtype: Any) -> Any:
    """Return the network of a checkpoint, floats or integers, with its weights as ``dtype``.

    Integers become the numbers they stand for, exactly in float32, which they also are for ``"auto"``.
    """
    if isinstance(model, QuantizedHfModel):
        network = _load_quantized(model)
        for weight in network.parameters() if dtype != "auto" else ():  # buffers, such as frequencies, stay exact
            weight.data = weight.data.to(dtype)
        return network
    assert isinstance(model, HfModel)
    return load_checkpoint(model, dtype)


def load_checkpoint(model: HfModel, dtype: Any) -> Any:
    """Return the network of a checkpoint with its weights as ``dtype``, or as stored (``"auto"``).

    Raises:
        UnreadableModel: A weight is missing, or ``transformers`` does not know the architecture.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM  # its annotation forgets what `output_loading_info` adds
    model.tensors()  # names a missing, cut or broken weight file
    unpacking = _unpacking(model)
    try:
        with warnings.catch_warnings():
            # transformers says that the folder's own configuration counts, as it should
            warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)
            network, info = loader.from_pretrained(
                model.path, dtype=dtype, trust_remote_code=model.trust_remote_code, local_files_only=True,
                output_loading_info=True, **unpacking,
            )  # fmt: skip
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnreadableModel(
            f"transformers cannot load the model ({first_line(error)})",
            where=str(model.path),
            hint="fetch the model again, or `pip install -U transformers` for a newer architecture",
        ) from error
    if missing := sorted(info["missing_keys"]):  # transformers would go on with random weights there
        raise UnreadableModel(
            f"{len(missing)} weights are not in the checkpoint, `{missing[0]}` among them",
            where=str(model.path),
            hint="fetch the model again",
        )
    return network


def _unpacking(model: HfModel) -> dict[str, Any]:
    """Return what makes transformers read packed weights with zero points, which it only does all at once."""
    said = model.config().get("quantization_config") or {}
    if said.get("quant_method") != "compressed-tensors":
        return {}
    _lazy.need("compressed_tensors", extra="compressed-tensors", by="a folder in the format of compressed-tensors")
    weights = [group.get("weights") or {} for group in (said.get("config_groups") or {}).values()]
    if all(one.get("symmetric", True) for one in weights):
        return {}
    import transformers

    return {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}


def _load_quantized(model: QuantizedHfModel) -> Any:
    """Return the network with the weights that the integers stand for, in float32."""
    import torch
    import transformers
    from safetensors import safe_open

    config = transformers.AutoConfig.from_pretrained(
        model.path, trust_remote_code=model.trust_remote_code, local_files_only=True
    )
    del config.quantization_config
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten: later draws are not to know of it
        network = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
        )
    stored, state = model.stored(), {}
    for name, info in model.tensors().items():
        if name in stored:
            state[name] = torch.from_numpy(open_weight(model, name).rows(0, info.shape[0]))
        else:
            with safe_open(info.file, framework="pt") as tensors:
                state[name] = tensors.get_tensor(name).float()
    found = network.load_state_dict(state, strict=False)
    missing = set(found.missing_keys) - set(getattr(network, "_tied_weights_keys", None) or ())
    if missing or found.unexpected_keys:
        odd = sorted(missing) or found.unexpected_keys
        raise UnreadableModel(
            f"the network and the checkpoint differ in {len(odd)} weights, `{odd[0]}` among them",
            where=str(model.path),
            hint="quantize again",
        )
    network.tie_weights()
    return network


def _as_trained(network: Any, model: HfAdapter) -> None:
    """Put in what 4 bits left of the weights that the adapters were trained beside."""
    import torch

    held = held_in_four_bits(model.chain())
    for name in held.names if held is not None else ():
        assert held is not None
        try:
            weight = network.get_parameter(name)
        except AttributeError as error:
            raise _does_not_fit(model, f"it was trained beside a `{name}`") from error
        with torch.no_grad():
            weight.copy_(dequantized(weight, held, name))


def _merge(network: Any, adapter: HfAdapter) -> Any:
    peft = _lazy.need("peft", extra="finetune", by=HfAdapter.title)
    adapter.adapter_config()
    if not (adapter.path / "adapter_model.safetensors").is_file():
        raise UnreadableModel(
            "`adapter_model.safetensors` is missing", where=str(adapter.path), hint="train the adapter again"
        )
    stored = set(adapter.tensors())
    try:
        with warnings.catch_warnings():
            # peft asks transformers under a name that it is about to lose
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = peft.PeftModel.from_pretrained(network, str(adapter.path))
        left = sorted(stored - set(peft.get_peft_model_state_dict(adapted)))
        merged = adapted.merge_and_unload()
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _does_not_fit(adapter, first_line(error)) from error
    if left:  # peft would leave them out without a word
        raise _does_not_fit(adapter, f"nothing takes its `{left[0]}`")
    return merged


def _does_not_fit(adapter: HfAdapter, why: str) -> UnreadableModel:
    return UnreadableModel(
        f"the adapter does not fit its base model ({why})",
        where=str(adapter.path),
        hint="give the base model that the adapter was trained on",
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
