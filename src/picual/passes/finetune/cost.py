"""What a training takes: memory, disk and time, from sizes alone.

The constants are fits to peaks of anonymous memory, measured on a network of 135 million weights, batches of
256 to 1024 tokens, float32 and bfloat16, all layers adapted and two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from picual.hardware import Machine, has_gpu
from picual.models import Profile
from picual.numerics.lycoris import near_square
from picual.passes.base import Forecast
from picual.passes.finetune.adapter import OUTPUTS_DROPPED, AdapterForm
from picual.passes.finetune.precision import Dtype, weights_dtype
from picual.passes.finetune.targets import ALL
from picual.passes.finetune.training_arguments import CHECKPOINTS_KEPT, steps_of

LIBRARIES = 330_000_000  # bytes once torch, transformers and peft are imported
FOUR_BIT_LIBRARY = 40_000_000  # bytes once bitsandbytes is imported too
STATES = 16  # bytes a trained weight: itself, its gradient, two moments, float32 each
STORED = 12  # bytes a trained weight in a checkpoint: itself and two moments
# Elements kept for the backward pass, a token and layer: of hidden size, of intermediate size, and of the inputs
# of an adapter (dropout keeps its mask and its result), which is computed in float32 whatever the weights are.
HIDDEN, INTERMEDIATE, INPUTS, CAST = 12.0, 4.0, 2.75, 1.0
HEAD_COPIES = 3  # of a piece of float32 logits: themselves, their softmax, the gradient
HEAD_PIECE = 256  # positions
UNKNOWN_LENGTH = 512  # tokens, where the rows are not known
COMPANIONS = 4_000_000  # bytes of tokenizer files
# Operations a second: of one core in float32 and bfloat16, and of a GPU. Four a weight and token: twice forward,
# twice for the gradient of the activations; the frozen weights have none. An update that is written out is
# multiplied with as a weight is, and has a gradient; DoRA multiplies once more with the inputs left after dropout.
CORE, CORE_BF16, GPU = 45e9, 70e9, 3e13
PLAIN = 4
EVERY_WEIGHT = 6  # twice more, for its gradient
OPERATIONS = {"dora": 8, "loha": 10, "lokr": 10}
UPDATES = {"dora": 4, "loha": 5, "lokr": 4}  # copies of a layer's update at once: float32, not one of them kept
STARTING = 12.0  # seconds: imports, loading, reading the data


def forecast(
    profile: Profile, machine: Machine, rows: int, *, form: AdapterForm, arguments: Mapping[str, Any],
    dtype: Dtype, a_linear: float | None = None,
) -> Forecast:  # fmt: skip
    """Return the forecast. Weights count whether copied or mapped from their file: every step reads all of them.

    Args:
        profile: Of the base model.
        machine: Where the step runs.
        rows: Of the data; a ``RowCount`` also says how long they are.
        form: Of the adapter.
        arguments: Of the training, under their present names.
        dtype: As the recipe asks for it.
        a_linear: Bytes that a weight of a linear layer takes, where it is not held as ``dtype``.
    """
    gpu = has_gpu() and not arguments.get("use_cpu")
    held, _ = weights_dtype(dtype, machine, gpu=gpu)
    width = 4 if held == "float32" else 2
    layers = _adapted(profile, form.modules)
    trained = profile.layers * sum(_trained(form, inputs, outputs) for inputs, outputs in layers)
    trained += profile.embedding * sum(name.endswith(("lm_head", "embed_tokens")) for name in form.modules_to_save)
    batch = int(arguments.get("per_device_train_batch_size", 8))
    at_once = _at_once(rows, arguments)
    activations = at_once * _kept_a_token(profile, form, layers, width, arguments)
    logits = min(HEAD_PIECE, at_once) * profile.vocabulary * 4 * HEAD_COPIES
    weights = float(width * profile.parameters)
    if a_linear is not None:
        # One layer at a time is widened, and what has been freed since the last one may not have been reused.
        widened = 2 * width * max((inputs * outputs for inputs, outputs in _adapted(profile, ())), default=0)
        weights += (a_linear - width) * profile.linear + widened + FOUR_BIT_LIBRARY
    memory = LIBRARIES + weights + STATES * trained + activations + logits
    memory += _written_out(profile, form, layers)
    tokens = getattr(rows, "tokens", 0) or max(rows, 1) * UNKNOWN_LENGTH
    seen = tokens / max(rows, 1) * _rows_seen(arguments, rows, batch)
    speed = GPU if gpu else machine.cores * (CORE_BF16 if held == "bfloat16" else CORE)
    return Forecast(
        memory=round(memory),
        disk=round(4 * trained + CHECKPOINTS_KEPT * STORED * trained + COMPANIONS),
        seconds=STARTING
        + seen * OPERATIONS.get(form.method, PLAIN) * (profile.linear + profile.embedding) / speed,
    )


def forecast_full(profile: Profile, machine: Machine, rows: int, *, arguments: Mapping[str, Any]) -> Forecast:
    """Return the forecast of a training of every weight, in float32; arguments as of ``forecast``."""
    none = AdapterForm(rank=0, alpha=1.0, dropout=0.0, modules=(), modules_to_save=(), method="lora")
    frozen = forecast(profile, machine, rows, form=none, arguments=arguments, dtype="float32")
    weights = profile.parameters
    inputs = 4 * profile.layers * sum(size for size, _ in _adapted(profile, ()))  # kept for a weight's gradient
    gpu = has_gpu() and not arguments.get("use_cpu")
    speed = GPU if gpu else machine.cores * CORE
    seen = (frozen.seconds - STARTING) * speed / PLAIN / (profile.linear + profile.embedding)  # tokens
    return Forecast(
        memory=frozen.memory + (STATES - 4) * weights + _at_once(rows, arguments) * inputs,
        disk=profile.bytes + CHECKPOINTS_KEPT * STORED * weights + COMPANIONS,
        seconds=STARTING + seen * EVERY_WEIGHT * (profile.linear + profile.embedding) / speed,
    )


def _at_once(rows: int, arguments: Mapping[str, Any]) -> int:
    """Return the tokens of the largest batch."""
    longest = int(getattr(rows, "longest", 0)) or UNKNOWN_LENGTH
    batch = int(arguments.get("per_device_train_batch_size", 8))
    return longest * min(batch, max(rows, 1) if rows else batch)


def _rows_seen(arguments: Mapping[str, Any], rows: int, batch: int) -> float:
    accumulated = batch * int(arguments.get("gradient_accumulation_steps", 1))
    return float(steps_of(arguments, max(rows, 1)) * min(accumulated, max(rows, 1)))


def _kept_a_token(
    profile: Profile, form: AdapterForm, layers: list[tuple[int, int]], width: int, arguments: Mapping[str, Any]
) -> float:
    """Return the bytes kept for the backward pass, a token."""
    network = (HIDDEN * profile.hidden + INTERMEDIATE * profile.intermediate) * width
    copies = (INPUTS if form.dropout else 0.0) + (CAST if width < 4 else 0.0)
    adapter = copies * 4 * sum(inputs for inputs, _ in layers)
    if arguments.get("activation_checkpointing"):
        return profile.layers * profile.hidden * width + network + adapter  # one layer at a time
    return profile.layers * (network + adapter)


def _trained(form: AdapterForm, inputs: int, outputs: int) -> int:
    """Return the numbers that are trained of one layer's update."""
    low_rank = form.rank * (inputs + outputs)
    match form.method:
        case "dora":
            return low_rank + outputs
        case "loha":
            return 2 * low_rank
        case "lokr":
            (rows, inner_rows), (columns, inner_columns) = near_square(outputs), near_square(inputs)
            return rows * columns + min(form.rank * (inner_rows + inner_columns), inner_rows * inner_columns)
    return low_rank


def _written_out(profile: Profile, form: AdapterForm, layers: list[tuple[int, int]]) -> int:
    """Return the bytes of updates as large as their weights: a few of one layer; of LoHa and LoKr one of each."""
    sizes = [inputs * outputs for inputs, outputs in layers]
    kept = profile.layers * sum(sizes) if form.method in OUTPUTS_DROPPED else 0
    return 4 * (kept + UPDATES.get(form.method, 0) * max(sizes, default=0))


def _adapted(profile: Profile, modules: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return input and output size of the adapted linear layers of one decoder layer."""
    queries = profile.heads * profile.head_size
    shared = profile.kv_heads * profile.head_size
    hidden, inner = profile.hidden, profile.intermediate
    sizes = {
        "q_proj": (hidden, queries), "k_proj": (hidden, shared), "v_proj": (hidden, shared),
        "qkv_proj": (hidden, queries + 2 * shared), "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "gate_up_proj": (hidden, 2 * inner),
        "down_proj": (inner, hidden), "fc1": (hidden, inner), "fc2": (inner, hidden),
    }  # fmt: skip
    if modules and ALL not in modules:
        return [sizes.get(name.rpartition(".")[2], (hidden, hidden)) for name in modules]
    if profile.architecture.startswith("Phi3"):
        return [sizes[name] for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")]
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [sizes[name] for name in names]
