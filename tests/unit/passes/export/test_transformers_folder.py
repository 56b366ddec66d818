"""Another format's readers find the very integers, and a folder that lies about them does not pass."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfModel, QuantizedHfModel, Stored
from picual.models.hf_loading import load_network
from picual.models.layout import HEAD, linears
from picual.models.quantized import FILE
from picual.models.quantized_weights import open_weight
from picual.models.safetensors_file import SafetensorsWriter, read_pieces
from picual.numerics import blockwise
from picual.passes.base import PassContext
from picual.passes.export.transformers_folder import ExportTransformers
from picual.testing import PassContract, tiny_model

TOKENS = torch.arange(24).reshape(2, 12) * 13 % 256
EMBEDDING = "model.embed_tokens.weight"
Way = tuple[int, int, bool]  # bits, block, symmetric


def rounded(weight: np.ndarray, bits: int, block: int, symmetric: bool) -> tuple[np.ndarray, ...]:
    """Return codes (N, B * block), scales (N, B) of both signs if symmetric, and zero points (N, B)."""
    rows = np.pad(weight, ((0, 0), (0, -weight.shape[1] % block))).reshape(len(weight), -1, block)
    low, high = np.minimum(rows.min(axis=2), 0), np.maximum(rows.max(axis=2), 0)
    if symmetric:
        zeros = np.full(low.shape, 2 ** (bits - 1), np.uint8)
        scales = np.where(-low >= high, -low, -high) / 2 ** (bits - 1)
    else:
        scales = (high - low) / (2**bits - 1)
        zeros = np.rint(-low / scales).astype(np.uint8)
    codes = np.clip(np.rint(rows / scales[..., None] + zeros[..., None]), 0, 2**bits - 1).astype(np.uint8)
    return codes.reshape(len(weight), -1), scales.astype("<f4"), zeros


def quantized(
    folder: Path, *, way: Way = (4, 32, True), head: Way = (8, 32, True), others: Mapping[str, Way] | None = None,
    tied: bool = True, layout: Any = "llama", shards: bool = False,
    change: Callable[[str, np.ndarray], None] = lambda _name, _weight: None,
) -> QuantizedHfModel:  # fmt: skip
    """Round a tiny model to nearest and write it in our own form; ``change`` may edit a weight before."""
    source = tiny_model(folder / "source", layout=layout, tied=tied)
    made = folder / "quantized"
    shutil.copytree(source.path, made)
    (made / "model.safetensors").unlink()
    weights = load_file(source.path / "model.safetensors")
    names = [*linears(source.tensors()), EMBEDDING]
    stored: dict[str, Stored] = {}
    parts: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, info in source.tensors().items():
        if name not in names:
            parts[name] = info.dtype, info.shape, b"".join(read_pieces(info))
            continue
        default = head if name in {HEAD, EMBEDDING} else way
        bits, block, symmetric = next((w for part, w in (others or {}).items() if part in name), default)
        weight = weights[name].numpy()
        change(name, weight)
        stored[name] = Stored(bits=bits, block=block, symmetric=symmetric, shape=weight.shape)
        codes, scales, zeros = rounded(weight, bits, block, symmetric)
        found = {"codes": blockwise.pack(codes, bits), "scales": scales}
        if not symmetric:
            found["zero_points"] = blockwise.pack_zero_points(zeros, bits)
        for kind, array in found.items():
            parts[f"{name}.{kind}"] = "F32" if kind == "scales" else "U8", array.shape, array.tobytes()
    files: dict[str, list[str]] = {}
    for part in parts:
        home = "layer-0.safetensors" if ".layers.0." in part else "rest.safetensors"
        files.setdefault(home if shards else "model.safetensors", []).append(part)
    for file, inside in files.items():
        with SafetensorsWriter(made / file, [(part, *parts[part][:2]) for part in inside]) as writer:
            for part in writer.names:
                writer.append(part, [parts[part][2]])
    wire = {name: how.to_wire() for name, how in stored.items()}
    (made / FILE).write_text(json.dumps({"version": 1, "method": "test", "files": sorted(files), "weights": wire}))
    config = source.config() | {"quantization_config": {"quant_method": "picual"}}
    (made / "config.json").write_text(json.dumps(config))
    return QuantizedHfModel(made)


def export(
    model: QuantizedHfModel, folder: Path, format: Any = "compressed-tensors"
) -> tuple[HfModel, PassContext]:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    context = PassContext(folder / "out", folder / "scratch")
    a_pass = ExportTransformers(format=format)
    a_pass.check(model, Target())
    return a_pass.run(model, context), context


def failed(given: QuantizedHfModel, made: HfModel, format: str) -> dict[str, str]:
    """Return the detail of each check of the gate that failed, by name."""
    found = [
        check
        for promise in ExportTransformers(format=format).promises()  # type: ignore[arg-type]
        for check in verify(promise, given, made, Bench())
    ]
    assert found
    return {check.name: check.detail for check in found if not check.passed}


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(TOKENS).logits
    return found


LOADER: Any = AutoModelForCausalLM  # its annotation forgets what `output_loading_info` adds


def loaded(folder: Path, *, dequantize: bool) -> Any:
    from transformers import CompressedTensorsConfig

    options: dict[str, Any] = {}
    if dequantize:
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)  # as it should be
        network, info = LOADER.from_pretrained(folder, output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return network


class TestCompressedTensorsContract(PassContract):
    a_pass = ExportTransformers()
    a_model = staticmethod(functools.partial(quantized, shards=True))
    a_refusal = staticmethod(functools.partial(quantized, others={"down_proj": (4, 64, True)}))


class TestGptqContract(PassContract):
    a_pass = ExportTransformers(format="gptq")
    a_model = staticmethod(functools.partial(quantized, way=(4, 16, False), shards=True))
    a_refusal = staticmethod(functools.partial(quantized, others={"down_proj": (4, 64, True)}))


@pytest.mark.parametrize("way", [(4, 32, True), (8, 16, True), (2, 16, True)], ids=str)
@pytest.mark.parametrize(("layout", "tied"), [("llama", True), ("llama", False), ("phi3", False)])
def test_transformers_loads_symmetric_weights_exactly(way: Way, layout: str, tied: bool, tmp_path: Path) -> None:
    given = quantized(tmp_path, way=way, head=way, layout=layout, tied=tied)
    scales = open_weight(given, "model.layers.0.mlp.down_proj.weight").scales
    assert (scales < 0).any()  # the format knows no sign: that they survive is to be seen, not assumed
    assert (scales > 0).any()

    made, _ = export(given, tmp_path / "run")

    assert failed(given, made, "compressed-tensors") == {}
    expected = logits(load_network(given, on_gpu=False))
    for dequantize in (False, True):
        assert (logits(loaded(made.path, dequantize=dequantize)) - expected).abs().max() < 1e-5
    assert ("lm_head.weight_packed" in made.tensors()) is not tied


@pytest.mark.parametrize("way", [(4, 32, False), (8, 32, False), (2, 16, False)], ids=str)
def test_transformers_loads_zero_points_exactly_when_told_to_dequantize(way: Way, tmp_path: Path) -> None:
    given = quantized(tmp_path, way=way, head=(8, 32, False), tied=False)

    made, context = export(given, tmp_path / "run")

    assert failed(given, made, "compressed-tensors") == {}
    expected = logits(load_network(given, on_gpu=False))
    assert (logits(loaded(made.path, dequantize=True)) - expected).abs().max() < 1e-5
    assert any("CompressedTensorsConfig(dequantize=True)" in entry.get("note", "") for entry in context.journal)
    assert ("lm_head.weight_packed" in made.tensors()) is (way == (8, 32, False))


def test_layers_of_two_widths_are_two_groups(tmp_path: Path) -> None:
    given = quantized(tmp_path, others={"down_proj": (8, 16, True), "v_proj": (4, 64, True)})

    made, _ = export(given, tmp_path / "run")

    groups = made.config()["quantization_config"]["config_groups"]
    assert sorted((g["weights"]["num_bits"], g["weights"]["group_size"]) for g in groups.values()) == [
        (4, 32), (4, 64), (8, 16),
    ]  # fmt: skip
    assert failed(given, made, "compressed-tensors") == {}
    expected = logits(load_network(given, on_gpu=False))
    assert (logits(loaded(made.path, dequantize=False)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_head_stored_in_another_way_is_packed_where_transformers_reads_it(
    symmetric: bool, tmp_path: Path
) -> None:
    given = quantized(tmp_path, way=(4, 32, symmetric), head=(8, 16, symmetric), tied=False)

    made, _ = export(given, tmp_path / "run")

    assert failed(given, made, "compressed-tensors") == {}
    assert ("lm_head.weight_packed" in made.tensors()) is symmetric
    expected = logits(load_network(given, on_gpu=False))
    assert (logits(loaded(made.path, dequantize=not symmetric)) - expected).abs().max() < 1e-5


def test_scales_stay_exact_where_the_checkpoint_computes_in_a_narrow_type(tmp_path: Path) -> None:
    given = quantized(tmp_path)
    config = json.loads((given.path / "config.json").read_text())
    (given.path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))

    made, _ = export(given, tmp_path / "run")

    network = loaded(made.path, dequantize=False)
    assert network.dtype == torch.float32
    assert (logits(network) - logits(load_network(given, on_gpu=False))).abs().max() < 1e-5


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_result_can_be_measured_as_any_checkpoint(symmetric: bool, tmp_path: Path) -> None:
    given = quantized(tmp_path, way=(4, 32, symmetric))
    made, _ = export(given, tmp_path / "run")

    network = load_network(made, on_gpu=False)

    assert (logits(network) - logits(load_network(given, on_gpu=False))).abs().max() < 1e-5


def nibbles(words: torch.Tensor, bits: int, axis: int) -> np.ndarray:
    """Take words apart along an axis, the lowest bits first."""
    pieces = [(words.numpy().view(np.uint32) >> shift) % 2**bits for shift in range(0, 32, bits)]
    shape = list(words.shape)
    shape[axis] *= 32 // bits
    return np.stack(pieces, axis=axis + 1).reshape(shape).astype(np.int64)


def decoded(folder: Path, module: str, bits: int, *, second: bool) -> np.ndarray:
    """Return a GPTQ weight (N, K): scale[g, n] * (q[k, n] - zero[g, n]), with g the group of input k."""
    parts = {name.removeprefix(f"{module}."): t for name, t in load_file(folder / "model.safetensors").items()}
    group = parts["g_idx"].numpy()
    zeros = nibbles(parts["qzeros"], bits, 1) + (0 if second else 1)
    assert zeros.max() < 2**bits  # else it was a 0, and its neighbour got the carry
    found: np.ndarray = parts["scales"].float().numpy()[group] * (
        nibbles(parts["qweight"], bits, 0) - zeros[group]
    )
    return found.T


def in_halves(model: QuantizedHfModel, name: str) -> np.ndarray:
    """Return a weight as its integers and its scales in float16 say."""
    weight = open_weight(model, name)
    halves = weight.scales.astype(np.float16).astype(np.float32)
    found: np.ndarray = weight.rows(0, weight.how.shape[0]) / np.repeat(weight.scales, weight.how.block, axis=1)
    return np.rint(found) * np.repeat(halves, weight.how.block, axis=1)


@pytest.mark.parametrize(
    "way", [(4, 32, True), (4, 16, False), (8, 32, False), (8, 16, True), (2, 16, True)], ids=str
)
def test_gptq_stands_for_the_same_weights_but_for_scales_in_halves(way: Way, tmp_path: Path) -> None:
    given = quantized(tmp_path, way=way, tied=False)

    made, _ = export(given, tmp_path / "run", "gptq")

    said = made.config()["quantization_config"]
    assert failed(given, made, "gptq") == {}
    assert (said["bits"], said["group_size"], said["sym"], said["checkpoint_format"]) == (*way, "gptq")
    for name in given.stored():
        if name in {HEAD, EMBEDDING}:
            expected = open_weight(given, name)
            found = load_file(made.path / "model.safetensors")[name].numpy()
            assert np.array_equal(found, expected.rows(0, expected.how.shape[0]))
        else:
            found = decoded(made.path, name.removesuffix(".weight"), way[0], second=False)
            assert np.array_equal(found, in_halves(given, name))


def all_above_zero(name: str, weight: np.ndarray) -> None:
    if "layers.1.mlp.up_proj" in name:
        np.abs(weight, out=weight)


def test_gptq_stores_a_zero_point_of_zero_as_it_is(tmp_path: Path) -> None:
    given = quantized(tmp_path, way=(4, 32, False), change=all_above_zero)

    made, context = export(given, tmp_path / "run", "gptq")

    assert failed(given, made, "gptq") == {}
    assert made.config()["quantization_config"]["checkpoint_format"] == "gptq_v2"
    assert any("gptq_v2" in entry.get("note", "") for entry in context.journal)
    for name in ("model.layers.1.mlp.up_proj", "model.layers.0.mlp.up_proj"):
        assert np.array_equal(decoded(made.path, name, 4, second=True), in_halves(given, f"{name}.weight"))


def test_gptq_names_the_modules_that_differ(tmp_path: Path) -> None:
    given = quantized(tmp_path, way=(4, 32, False), others={"1.mlp.down_proj": (8, 16, True)})

    made, _ = export(given, tmp_path / "run", "gptq")

    said = made.config()["quantization_config"]
    assert failed(given, made, "gptq") == {}
    assert said["checkpoint_format"] == "gptq_v2"
    assert said["dynamic"] == {
        r"-:^lm_head$": {},
        r"-:^model\.embed_tokens$": {},
        r"+:^model\.layers\.1\.mlp\.down_proj$": {"bits": 8, "group_size": 16, "sym": True},
    }
    name = "model.layers.1.mlp.down_proj"
    assert np.array_equal(decoded(made.path, name, 8, second=True), in_halves(given, f"{name}.weight"))


def refusal(model: QuantizedHfModel, format: Any = "compressed-tensors") -> str:
    with pytest.raises(Refused, match=r"\w") as caught:
        ExportTransformers(format=format).check(model, Target())
    assert caught.value.hint
    return caught.value.what


@pytest.mark.parametrize("format", ["compressed-tensors", "gptq"])
def test_blocks_that_do_not_divide_a_row_are_refused(format: str, tmp_path: Path) -> None:
    said = refusal(quantized(tmp_path, others={"down_proj": (4, 64, True)}), format)

    assert "down_proj.weight` has 96 inputs, which blocks of 64 do not divide" in said


def test_zero_points_in_several_ways_are_refused_for_transformers_only(tmp_path: Path) -> None:
    given = quantized(tmp_path, way=(4, 32, False), others={"down_proj": (8, 32, False)})

    assert "differ in bits or block" in refusal(given)
    ExportTransformers(format="gptq").check(given, Target())


def very_large(name: str, weight: np.ndarray) -> None:
    if "layers.1.mlp.up_proj" in name:
        weight[3, 5] = 1e6


def test_a_scale_too_large_for_a_half_is_refused_for_gptq_only(tmp_path: Path) -> None:
    given = quantized(tmp_path, change=very_large)

    assert "a scale of `model.layers.1.mlp.up_proj.weight` is beyond 65504" in refusal(given, "gptq")
    ExportTransformers().check(given, Target())


def test_a_model_without_quantized_layers_is_refused(tmp_path: Path) -> None:
    given = quantized(tmp_path)
    said = json.loads((given.path / FILE).read_text())
    said["weights"] = {EMBEDDING: said["weights"][EMBEDDING]}
    (given.path / FILE).write_text(json.dumps(said))

    assert refusal(given) == "no linear layer is quantized"


def test_a_finished_file_is_kept_and_one_of_other_inputs_is_not(tmp_path: Path) -> None:
    given = quantized(tmp_path, shards=True)
    made, context = export(given, tmp_path / "run")
    files = sorted(context.scratch.glob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in files}

    (tmp_path / "again").mkdir()
    ExportTransformers().run(given, PassContext(tmp_path / "again", context.scratch))
    kept = {file: file.stat().st_mtime_ns for file in files}
    (tmp_path / "other").mkdir()
    other = ExportTransformers(format="gptq").run(given, PassContext(tmp_path / "other", context.scratch))

    assert len(files) == 2
    assert kept == before
    assert set(made.tensors()) == set(HfModel(tmp_path / "again").tensors())
    assert failed(given, other, "gptq") == {}


UP = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]


def flipped(tensors: Tensors, name: str) -> None:
    tensors[name].view(-1)[3] ^= 1 << 9


def swapped(tensors: Tensors, kind: str) -> None:
    one, other = f"model.layers.0.mlp.up_proj.{kind}", f"model.layers.0.mlp.gate_proj.{kind}"
    tensors[one], tensors[other] = tensors[other], tensors[one]


def nudged(tensors: Tensors, name: str) -> None:
    flat = tensors[name].view(-1)
    flat[7] = torch.nextafter(flat[7], torch.tensor(9.0, dtype=flat.dtype))


def gone(tensors: Tensors, name: str) -> None:
    del tensors[name]


def reshaped(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].flip(0)


def unpacked(tensors: Tensors, name: str) -> None:
    for kind in ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"):
        tensors.pop(f"{UP}.{kind}")
    tensors[name] = torch.zeros(96, 64)


BROKEN: dict[str, tuple[str, Callable[[Tensors, str], None], str, str]] = {
    "a code": ("compressed-tensors", flipped, f"{UP}.weight_packed", "packed-integers"),
    "codes of another": ("compressed-tensors", swapped, "weight_packed", "packed-integers"),
    "a zero point": ("compressed-tensors", flipped, f"{UP}.weight_zero_point", "packed-zero-points"),
    "zero points left out": ("compressed-tensors", gone, f"{UP}.weight_zero_point", "packed-described"),
    "a scale": ("compressed-tensors", nudged, f"{UP}.weight_scale", "packed-scales"),
    "a shape": ("compressed-tensors", reshaped, "model.layers.0.mlp.down_proj.weight_shape", "packed-tensors"),
    "a weight left out": ("compressed-tensors", gone, f"{UP}.weight_packed", "packed-tensors"),
    "a layer as floats": ("compressed-tensors", unpacked, f"{UP}.weight", "packed-linears"),
    "the embedding": ("compressed-tensors", nudged, EMBEDDING, "packed-floats"),
    "a norm": ("compressed-tensors", nudged, "model.norm.weight", "packed-others-unchanged"),
    "a code in GPTQ": ("gptq", flipped, f"{UP}.qweight", "packed-integers"),
    "a zero point in GPTQ": ("gptq", flipped, f"{UP}.qzeros", "packed-zero-points"),
    "a scale in GPTQ": ("gptq", nudged, f"{UP}.scales", "packed-scales"),
    "groups turned round": ("gptq", reshaped, f"{UP}.g_idx", "packed-described"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_differs_in_the_weights_is_named(fault: str, tmp_path: Path) -> None:
    kind, damage, what, check = BROKEN[fault]
    given = quantized(tmp_path, way=(4, 32, False))
    made, _ = export(given, tmp_path / "run", kind)
    tensors = {name: tensor.clone() for name, tensor in load_file(made.path / "model.safetensors").items()}
    damage(tensors, what)
    (made.path / "model.safetensors").unlink()  # the scratch folder's file is the same one
    save_file(
        {name: t.contiguous() for name, t in tensors.items()}, made.path / "model.safetensors", {"format": "pt"}
    )

    assert check in failed(given, made, kind)


def other_bits(said: dict[str, Any]) -> None:
    said["config_groups"]["group_0"]["weights"]["num_bits"] = 8


def one_target_less(said: dict[str, Any]) -> None:
    said["config_groups"]["group_0"]["targets"].remove(UP)


def said_symmetric(said: dict[str, Any]) -> None:
    said["config_groups"]["group_0"]["weights"]["symmetric"] = True


def ignored(said: dict[str, Any]) -> None:
    said["ignore"].append(UP)


def of_the_second_version(said: dict[str, Any]) -> None:
    said["checkpoint_format"] = "gptq_v2"


def left_out(said: dict[str, Any]) -> None:
    said["dynamic"][f"-:^{UP}$"] = {}


def of_another_format(said: dict[str, Any]) -> None:
    said["quant_method"] = "awq"


MISSAID: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "bits": ("compressed-tensors", other_bits, "packed-described"),
    "a target less": ("compressed-tensors", one_target_less, "packed-described"),
    "symmetric": ("compressed-tensors", said_symmetric, "packed-described"),
    "ignored": ("compressed-tensors", ignored, "packed-described"),
    "another format": ("compressed-tensors", of_another_format, "packed-format"),
    "version": ("gptq", of_the_second_version, "packed-zero-points"),
    "left out": ("gptq", left_out, "packed-described"),
}


@pytest.mark.parametrize("fault", MISSAID)
def test_a_config_that_says_otherwise_is_named(fault: str, tmp_path: Path) -> None:
    kind, change, check = MISSAID[fault]
    given = quantized(tmp_path, way=(4, 32, False))
    made, _ = export(given, tmp_path / "run", kind)
    config = copy.deepcopy(made.config())
    change(config["quantization_config"])
    (made.path / "config.json").write_text(json.dumps(config))

    assert check in failed(given, made, kind)
