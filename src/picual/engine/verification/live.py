"""Does a merged model answer as its base does with the adapter live: their logits on a few hundred tokens.

The live side is what libraries make of the files: ``peft`` adds the adapter's output to each layer's; a base that
was held in 4 bits is loaded so by ``transformers`` and ``bitsandbytes``. Weights are read as their layer runs,
where the checkpoint has the names of the network; otherwise one network is in memory at a time.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check
from picual.engine.verification.readback import Reference, Stored
from picual.engine.verification.windows import WINDOW, windows_of
from picual.errors import UnreadableModel
from picual.models import HfAdapter, HfCheckpoint, HfModel
from picual.models.hf_loading import first_line, load_base, load_checkpoint, quiet
from picual.models.safetensors_file import read_header
from picual.models.trained_on import FourBit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Logits = Iterator[npt.NDArray[np.float32]]

ADAPTER_FILE = "adapter_model.safetensors"
WINDOWS = 2  # of the built-in text, up to 512 tokens
# Largest difference, of the largest logit. Honest merges of a 135M model: 2e-6 in float32, 6e-3 in bfloat16, which
# rounds each weight: the checks on weights hold that to half a unit.
BOUNDS = {"F32": 1e-3, "F64": 1e-3, "F16": 1e-2, "BF16": 5e-2}


def check(given: HfAdapter, made: HfModel, held: FourBit | None, bench: Bench) -> Iterator[Check]:
    """Run both over the beginning of the built-in text.

    Args:
        given: The adapter on its base.
        made: The merged model.
        held: How the base's weights were held while the adapter was trained; None: as the base has them.
        bench: Of the gate.
    """
    root = given.root()
    lengths = (root.config().get(name) for name in ("max_position_embeddings", "n_positions", "n_ctx"))
    windows = windows_of(root, int(next(filter(None, lengths), WINDOW)))[:WINDOWS]
    bound = max(BOUNDS.get(tensor.dtype, 0.0) for tensor in made.tensors().values())
    largest, scale = 0.0, 0.0
    with quiet():
        try:
            bench.progress(0, 2, "the base with its adapter live")
            live = list(_live(given, held, windows))
            bench.progress(1, 2, "the merged model")
            for expected, found in zip(live, _plain(made, windows), strict=True):
                difference = float(abs(expected - found).max())
                largest = max(largest, difference if difference >= 0.0 else float("inf"))  # NaN is no difference
                scale = max(scale, float(abs(expected).max()))
        except (UnreadableModel, ValueError, RuntimeError, KeyError, TypeError) as error:
            yield Check("merge-live", passed=False, bound=bound, detail=f"it cannot be run: {first_line(error)}")
            return
    share = largest / scale if scale else float("nan")
    detail = f"largest difference of a logit, of the largest logit, on {windows.size} tokens"
    yield Check("merge-live", share <= bound, share, bound, detail)


def _live(given: HfAdapter, held: FourBit | None, windows: npt.NDArray[np.int64]) -> Logits:
    """Give the logits (T, vocabulary) of the base with its adapters live, window by window."""
    root = given.root()
    if held is not None:
        assert isinstance(root, HfModel)
        yield from _of_whole(_with_adapters(_in_four_bits(root, held), given), windows)
        return
    weights = _Based(root) if isinstance(root, HfModel) else None
    # DoRA takes the length of a weight before the layer runs: it must be there all the time.
    whole = any(link.adapter_config().get("use_dora") for link in given.chain())
    if weights is None or whole or not _fits(root, weights):
        import torch

        yield from _of_whole(_with_adapters(load_base(root, torch.float32), given), windows)
        return
    adapt = functools.partial(_with_adapters, given=given)
    yield from _of_parts(Reference(weights, given.root(), adapt), windows)


def _plain(model: HfModel, windows: npt.NDArray[np.int64]) -> Logits:
    weights = Stored(model)
    if _fits(model, weights):
        yield from _of_parts(Reference(weights, model), windows)
        return
    import torch

    yield from _of_whole(load_checkpoint(model, torch.float32), windows)


class _Based(Stored):
    """The base's weights by the names that they have beside an adapter."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return super().__getitem__(name.replace(".base_layer.", ".").replace(".original_module.", "."))


def _fits(model: HfCheckpoint, weights: Mapping[str, Any]) -> bool:
    """Say whether every weight of the network is in the checkpoint under its name."""
    import transformers
    from accelerate import init_empty_weights

    config = transformers.AutoConfig.from_pretrained(
        model.path, trust_remote_code=model.trust_remote_code, local_files_only=True
    )
    with init_empty_weights(include_buffers=False):
        network: Any = transformers.AutoModelForCausalLM.from_config(
            config, trust_remote_code=model.trust_remote_code
        )
    return {name for name, _ in network.named_parameters(remove_duplicate=False)} <= set(weights)


def _in_four_bits(model: HfModel, held: FourBit) -> Any:
    """Return the base as ``transformers`` holds it in 4 bits.

    Raises:
        UnreadableModel: Other layers are in 4 bits then.
    """
    import bitsandbytes
    import torch
    import transformers

    others = [name.removesuffix(".weight") for name in sorted(set(model.tensors()) - set(held.names))]
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=held.format, bnb_4bit_use_double_quant=held.double_quant,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=[*others, "lm_head"],
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the mean of the scales depends on how many there are
    try:
        loader: Any = transformers.AutoModelForCausalLM
        network = loader.from_pretrained(
            model.path, dtype=torch.float32, quantization_config=how, device_map="cpu", local_files_only=True,
            trust_remote_code=model.trust_remote_code,
        )  # fmt: skip
        network = _taken_off(network, model, held)
    finally:
        torch.set_num_threads(threads)
    narrow = {n: m for n, m in network.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    if odd := sorted({f"{name}.weight" for name in narrow} ^ set(held.names)):
        raise UnreadableModel(f"`{odd[0]}` is in 4 bits on one side alone", where=str(model.path))
    for layer in narrow.values():
        layer.support_avx512bf16_for_cpu = False  # it would multiply in bfloat16
    return network


def _taken_off(network: Any, model: HfModel, held: FourBit) -> Any:
    """Return the network with the weights held anew off which a product was taken before."""
    import bitsandbytes

    factors = {} if held.taken_off is None else read_header(held.taken_off)
    for name in sorted(one.removesuffix(".b") for one in factors if one.endswith(".b")):
        b, a = (stored.weight_of(factors, f"{name}.{one}").double() for one in ("b", "a"))
        left = (stored.weight_of(model.tensors(), name).double() - b @ a).float()
        layer = network.get_submodule(name.removesuffix(".weight"))
        layer.quant_state = None
        layer.weight = bitsandbytes.nn.Params4bit(
            left, requires_grad=False, quant_type=held.format, compress_statistics=held.double_quant, module=layer
        ).to("cpu")
    return network


def _with_adapters(network: Any, given: HfAdapter) -> Any:
    """Return the network with every adapter of the chain at work, none merged."""
    import peft

    names = [f"link{number}" for number in range(len(given.chain()))]
    with warnings.catch_warnings():
        # peft asks transformers under a name that it is about to lose, and remarks on tied embeddings and patterns
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        warnings.filterwarnings("ignore", "The following", RuntimeWarning)
        adapted: Any = None
        for name, link in zip(names, given.chain(), strict=True):
            if adapted is None:
                adapted = peft.PeftModel.from_pretrained(
                    network, str(link.path), adapter_name=name, low_cpu_mem_usage=True
                )
            else:
                adapted.load_adapter(str(link.path), adapter_name=name, low_cpu_mem_usage=True)
            _fill(adapted, name, link)
        adapted.base_model.set_adapter(names)
    return adapted


def _fill(adapted: Any, name: str, link: HfAdapter) -> None:
    """Read the weights of one adapter that peft has left empty, as it does where the base's are.

    Raises:
        UnreadableModel: The adapter's file does not have one.
    """
    from safetensors.torch import load_file

    empty = [n for n, w in adapted.named_parameters() if f".{name}" in n and w.device.type == "meta"]
    if not empty:
        return
    own = load_file(link.path / ADAPTER_FILE)
    homes = {one: one.replace(f".modules_to_save.{name}", "").replace(f".{name}", "") for one in empty}
    for one, home in homes.items():  # the file has it without the module that peft keeps it in
        if home.endswith("lora_magnitude_vector.weight") and home not in own:
            homes[one] = home.removesuffix(".weight")
    if lost := sorted(home for home in homes.values() if home not in own):
        raise UnreadableModel(f"the adapter has no `{lost[0]}`", where=str(link.path))
    # A weight that the adapter carries in full under the base's own name goes into the base itself.
    whole = {one: one for one, _ in adapted.named_parameters() if one in own and one not in homes.values()}
    found = {one: own[home].float() for one, home in {**homes, **whole}.items()}
    adapted.load_state_dict(found, strict=False, assign=True)


def _of_parts(network: Reference, windows: npt.NDArray[np.int64]) -> Logits:
    states = network.hidden(windows)
    with network.head() as logits:
        for state in states:
            yield logits(state)


def _of_whole(network: Any, windows: npt.NDArray[np.int64]) -> Logits:
    import torch

    network.eval()
    for window in windows:
        with torch.inference_mode():
            found = network(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0]
        scores: npt.NDArray[np.float32] = found.float().numpy()
        yield scores
