"""The base of a QLoRA training: its linear layers held in 4 bits by ``bitsandbytes``, the rest as it is.

Source: Dettmers et al., "QLoRA", arXiv 2305.14314.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from picual.errors import UnreadableModel
from picual.models import HfModel
from picual.models.four_bit import library, quantized
from picual.models.layout import HEAD, embedding_of, is_tied
from picual.models.safetensors_file import TensorInfo
from picual.models.trained_on import BLOCK, FourBit
from picual.passes.rewriting import read

if TYPE_CHECKING:
    import torch

HALVES = ("BF16", "F16")


def linears_of(model: HfModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the weights of linear layers that can be held in 4 bits, and those that cannot, the head left out.

    Where a block goes on in the next row, ``bitsandbytes`` takes the scale of another on a processor (0.50.2).
    """
    whole: dict[bool, list[str]] = {True: [], False: []}
    for name, linear in _linears(_empty(model), model):
        whole[linear.in_features % BLOCK == 0].append(f"{name}.weight")
    return tuple(whole[True]), tuple(whole[False])


def load_four_bit(
    model: HfModel, how: FourBit, *, dtype: torch.dtype, compute: torch.dtype, in_full: tuple[str, ...] = ()
) -> Any:
    """Return the network of a checkpoint, read tensor by tensor: it is never in memory whole.

    Args:
        model: The checkpoint.
        how: Which weights are held in 4 bits, and how.
        dtype: Of everything else, and of what goes from layer to layer; an embedding, and a head without bias,
            keep 16 bits if they are stored so.
        compute: In which the 4-bit layers multiply.
        in_full: Last parts of the names of modules that will be trained: these are of ``dtype`` in any case.

    Raises:
        UnreadableModel: A tensor of the network is not in the checkpoint.
    """
    network = _empty(model)
    tensors = model.tensors()
    if is_tied(tensors, model.config()):
        tensors.pop(HEAD, None)  # a copy that nothing reads
    held = set(how.names)
    for name, linear in [*_linears(network, model)]:
        if f"{name}.weight" in held:
            network.set_submodule(name, _layer(linear, tensors[f"{name}.weight"], how, compute))
            held.discard(f"{name}.weight")
    _complete(model, network, tensors, lost=held)
    _keep_halves(network, tensors, dtype, in_full)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.device.type == "meta" and name in tensors:
            _put(network, name, _stored(tensors[name]).to(dtype))
    network.tie_weights()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def held_bytes(network: Any) -> int:
    """Return the bytes of all 4-bit weights of a network, scales included."""
    kind = library().nn.Params4bit
    return sum(_bytes_of(weight) for weight in network.parameters() if isinstance(weight, kind))


def _bytes_of(weight: Any) -> int:
    state = weight.quant_state
    own = [] if state.state2 is None else [state.state2.absmax]
    return sum(tensor.numel() * tensor.element_size() for tensor in (weight, state.absmax, *own))


def _empty(model: HfModel) -> Any:
    """Return the network without weights."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    config = transformers.AutoConfig.from_pretrained(
        model.path, trust_remote_code=model.trust_remote_code, local_files_only=True
    )
    with init_empty_weights(include_buffers=False):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
        )


def _linears(network: Any, model: HfModel) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers that the checkpoint stores as matrices of floats, by name, without the head."""
    import torch

    tensors, head = model.tensors(), network.get_output_embeddings()
    for name, module in network.named_modules():
        if type(module) is torch.nn.Linear and module is not head and f"{name}.weight" in tensors:
            yield name, module


def _layer(linear: Any, stored: TensorInfo, how: FourBit, compute: torch.dtype) -> Any:
    """Return a 4-bit layer in place of one without weights."""
    import torch

    bnb = library()
    packed, state = quantized(_stored(stored), how, stored.name)
    with torch.device("meta"):
        layer = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, compute,
            compress_statistics=how.double_quant, quant_type=how.format,
        )  # fmt: skip
    layer.weight = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=BLOCK, compress_statistics=how.double_quant,
        quant_type=how.format, module=layer, bnb_quantized=True,
    )  # fmt: skip
    layer.quant_state = state
    # Its kernel for answering multiplies in bfloat16 whatever is asked, has no gradient, and packs the weights
    # anew for good: after one evaluation in the middle of a training the layers below would learn nothing.
    layer.support_avx512bf16_for_cpu = False
    return layer


def _keep_halves(
    network: Any, tensors: Mapping[str, TensorInfo], dtype: torch.dtype, in_full: tuple[str, ...]
) -> None:
    """Put in embedding and head as they are stored, where that is in 16 bits and not ``dtype``."""
    import torch

    from picual.numerics.stored_layers import StoredEmbedding, StoredHead

    names = {id(module): name for name, module in network.named_modules()}
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    home = f"{names[id(embedding)]}.weight"
    ends = {f".{names[id(one)]}" for one in (embedding, head) if one is not None}
    if dtype != torch.float32 or any(end.endswith(f".{name}") for name in in_full for end in ends):
        return
    is_shared = head is not None and HEAD not in tensors
    head_is_plain = _is_plain(head, torch.nn.Linear)
    if _is_plain(embedding, torch.nn.Embedding) and tensors[home].dtype in HALVES and (
        head_is_plain or not is_shared
    ):  # fmt: skip
        kept = StoredEmbedding(_stored(tensors[home]), embedding.padding_idx, dtype)
        network.set_submodule(names[id(embedding)], kept)
        if is_shared:
            network.set_submodule(names[id(head)], StoredHead(kept.weight))
    if not is_shared and head_is_plain and tensors[HEAD].dtype in HALVES:
        network.set_submodule(names[id(head)], StoredHead(_stored(tensors[HEAD])))


def _is_plain(module: Any, kind: type) -> bool:
    """Say whether a module does no more than its kind does without a bias."""
    return type(module) is kind and getattr(module, "bias", None) is None


def _complete(model: HfModel, network: Any, tensors: Mapping[str, TensorInfo], lost: set[str]) -> None:
    """Raise where the network and the checkpoint do not have the same names."""
    tied = set(
        getattr(network, "all_tied_weights_keys", None) or getattr(network, "_tied_weights_keys", None) or ()
    )
    empty = {name for name, tensor in network.named_parameters() if tensor.device.type == "meta"}
    odd = sorted((empty - set(tensors) - tied - {HEAD}) | lost)
    if HEAD in empty and HEAD not in tensors and embedding_of(tensors) is None:
        odd.append(HEAD)
    if odd:
        raise UnreadableModel(
            f"the network and the checkpoint differ in {len(odd)} weights, `{odd[0]}` among them: "
            "it cannot be held in 4 bits",
            where=str(model.path),
            hint="train with `lora`, which holds the weights as they are",
        )


def _put(network: Any, name: str, value: torch.Tensor) -> None:
    import torch

    home, _, own = name.rpartition(".")
    module = network.get_submodule(home)
    if own in module._parameters:
        module._parameters[own] = torch.nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[own] = value


def _stored(tensor: TensorInfo) -> torch.Tensor:
    return read(tensor.file, tensor.name)
