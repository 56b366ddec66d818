"""Exported models: the runtime's logits, the weights in the file, the bytes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from picual.errors import PicualError, Refused, UnreadableModel
from picual.graph.stored import array_of
from picual.hardware import Machine, Target
from picual.models import GenaiModel, HfModel
from picual.models.layout import slices_of
from picual.models.session import open_session
from picual.numerics import block_sizes, blockwise
from picual.passes.base import PassContext
from picual.passes.export.genai import BuildGenai
from picual.testing.tiny import tiny_model

LAYOUTS = ["llama", "phi3", "qwen2", "qwen3", "mistral", "gemma"]
IDS = np.random.default_rng(0).integers(0, 256, 48).astype(np.int64)
MACHINE = Machine(
    cores=1, memory=8 << 30, memory_free=8 << 30, system="linux", processor="x86_64", instructions=()
)


def export(model: HfModel, out: Path, target: Target | None = None, **fields: Any) -> GenaiModel:
    context = context_for(out, target)
    a_pass = BuildGenai(**fields)
    a_pass.check(model, context.target)
    return a_pass.run(model, context)


def context_for(out: Path, target: Target | None = None) -> PassContext:
    scratch = out.with_name(out.name + "-scratch")
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    return PassContext(out, scratch, target=target or Target(threads=1))


def logits(model: HfModel | GenaiModel) -> npt.NDArray[np.float32]:
    session = open_session(model, threads=1)
    try:
        return session.logits(IDS)
    finally:
        session.close()


def edit(model: HfModel, change: Callable[[dict[str, npt.NDArray[Any]]], None]) -> None:
    """Change the tensors of a checkpoint."""
    file = model.path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def weights_in_file(model: GenaiModel) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Return (N, K) weights and steps by the names the nodes give, read from the file's bytes."""
    graph = ir.load(model.decoder()).graph
    found = {}
    for node in graph:
        name = node.metadata_props.get("picual.weight")
        if name is None or node.op_type not in {"MatMulNBits", "GatherBlockQuantized"}:
            continue
        look_up = node.op_type == "GatherBlockQuantized"
        bits = node.attributes.get_int("bits", 0)
        inputs = [node.inputs[0], *node.inputs[2:]] if look_up else list(node.inputs[1:])
        arrays = [array_of(value, model.path) for value in inputs if value is not None]
        codes = blockwise.unpack(arrays[0].reshape(len(arrays[0]), -1), bits)
        codes = codes.reshape(*arrays[1].shape, -1)
        zeros = blockwise.unpack_zero_points(arrays[2], bits, codes.shape[1]) if len(arrays) > 2 else None
        width = codes.shape[1] * codes.shape[2] if look_up else node.attributes.get_int("K", 0)
        read = blockwise.dequantize(codes, arrays[1], zeros, bits=bits, width=width)
        found[name] = (read, np.repeat(np.abs(arrays[1]), codes.shape[2], axis=1)[:, :width])
    return found


def source_weight(model: HfModel, names: str) -> npt.NDArray[np.float32]:
    tensors = load_file(model.path / "model.safetensors")
    parts = [part for name in names.split(",") for part in slices_of(name, model.tensors(), model.config())]
    return np.concatenate([tensors[part.name][part.start : part.stop] for part in parts]).astype(np.float32)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp32_logits_are_those_of_the_checkpoint(layout: Any, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in", layout=layout, tied=tied)

    made = export(model, tmp_path / "out", precision="fp32")

    np.testing.assert_allclose(logits(made), logits(model), atol=1e-3)
    stored = sum(tensor.nbytes for tensor in model.tensors().values())
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size < stored + 40_000  # nothing is there twice


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "int4"},
        {"precision": "int4", "symmetric": True, "head": "int4"},
        {"precision": "int4", "block": 64},  # 96 inputs of down_proj fill one block and a half
        {"precision": "int8", "block": 16},
    ],
    ids=str,
)
@pytest.mark.parametrize(("layout", "tied"), [("llama", True), ("phi3", False), ("qwen3", True), ("gemma", False)])
def test_quantized_weights_are_within_half_a_step_and_the_runtime_multiplies_by_them(
    layout: Any, tied: bool, fields: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "in", layout=layout, tied=tied)

    made = export(model, tmp_path / "out", accuracy_level=0, **fields)

    read = weights_in_file(made)
    for name, (weight, step) in read.items():
        assert (np.abs(weight - source_weight(model, name)) <= step / 2 * 1.001 + 1e-7).all(), name
    rounded = tiny_model(tmp_path / "rounded", layout=layout, tied=tied)

    def put(tensors: dict[str, npt.NDArray[Any]]) -> None:
        for names, (weight, _) in read.items():
            start = 0
            for name in names.split(","):
                for part in slices_of(name, model.tensors(), model.config()):
                    rows = part.stop - part.start
                    tensors[part.name][part.start : part.stop] = weight[start : start + rows]
                    start += rows

    edit(rounded, put)
    # Linears of two layers, head and embedding: nothing kept its float weights.
    linears = {"llama": 4, "phi3": 4, "qwen3": 6, "gemma": 4}[layout] * 2
    assert len(read) == linears + 2
    np.testing.assert_allclose(logits(made), logits(rounded), atol=1e-3)


@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_the_runtime_generates_what_the_checkpoint_does(layout: Any, tmp_path: Path) -> None:
    import onnxruntime_genai as og
    import torch
    from transformers import AutoModelForCausalLM

    model = tiny_model(tmp_path / "in", layout=layout)
    made = export(model, tmp_path / "out", precision="fp32")
    loaded = og.Model(str(made.path))
    parameters = og.GeneratorParams(loaded)
    parameters.set_search_options(max_length=40, min_length=40, do_sample=False)
    generator = og.Generator(loaded, parameters)

    generator.append_tokens(IDS[:20].astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()

    network = AutoModelForCausalLM.from_pretrained(model.path)
    with torch.inference_mode():
        wanted = network.generate(
            torch.from_numpy(IDS[None, :20]), attention_mask=torch.ones(1, 20), max_length=40, min_length=40,
            do_sample=False,
        )  # fmt: skip
    assert list(generator.get_sequence(0)) == wanted[0].tolist()
    template = og.Tokenizer(loaded).apply_chat_template(
        json.dumps([{"role": "user", "content": "hi"}]), add_generation_prompt=True
    )
    assert template == "<|user|>\nhi<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize("layout", ["llama", "phi3", "gemma"])
def test_the_last_logits_alone_come_from_the_same_weights(layout: Any, precision: Any, tmp_path: Path) -> None:
    import onnxruntime as ort

    model = tiny_model(tmp_path / "in", layout=layout)
    last, every = (export(model, tmp_path / which, precision=precision, logits=which) for which in ("last", "all"))

    assert (last.path / "model.onnx.data").read_bytes() == (every.path / "model.onnx.data").read_bytes()
    np.testing.assert_array_equal(logits(last), logits(every))  # by-passed: at all positions
    shapes = [ort.InferenceSession(made.decoder()).get_outputs()[0].shape for made in (last, every)]
    assert [shape[1] for shape in shapes] == [1, shapes[1][1]]
    sessions = [open_session(made, threads=1) for made in (last, every)]
    answers = [session.generate(["One", "two, three"], max_new_tokens=8) for session in sessions]
    for session in sessions:
        session.close()
    assert answers[0] == answers[1]


def test_half_precision_checkpoints_are_widened_exactly(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tiny_model(tmp_path / "wide")
    for file in (tmp_path / "wide").iterdir():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype=torch.bfloat16).save_pretrained(tmp_path / "in")
    model = HfModel(tmp_path / "in")
    assert {tensor.dtype for tensor in model.tensors().values()} == {"BF16"}

    made = export(model, tmp_path / "out")  # precision left out: floats stay floats

    np.testing.assert_allclose(logits(made), logits(model), atol=1e-3)


def test_a_gpu_gets_half_precision_scales_and_norms(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    gpu = Target(device="gpu", provider="CUDAExecutionProvider", threads=1)

    made = export(model, tmp_path / "out", gpu, precision="int4")

    read = weights_in_file(made)
    for name, (weight, step) in read.items():
        assert (np.abs(weight - source_weight(model, name)) <= step.astype(np.float32) / 2 * 1.001).all(), name
    kinds = {v.dtype for v in ir.load(made.decoder()).graph.initializers.values()}
    assert ir.DataType.FLOAT16 in kinds
    assert made.config()["model"]["decoder"]["session_options"]["provider_options"] == [{"cuda": {}}]


def test_gate_and_up_are_one_weight_in_half_precision(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    gpu = Target(device="gpu", provider="CUDAExecutionProvider", threads=1)

    made = export(model, tmp_path / "out", gpu, precision="fp16")

    weight = ir.load(made.decoder()).graph.initializers["model.layers.1.mlp.gate_up_proj.weight_t"]
    names = ",".join(f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up"))
    expected = source_weight(model, names).astype(np.float16)
    np.testing.assert_array_equal(array_of(weight, made.path).T, expected)


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first = tiny_model(tmp_path / "one")
    second = tiny_model(tmp_path / "other" / "place")

    made = [export(model, tmp_path / f"out-{n}", precision="int4") for n, model in enumerate((first, second))]

    files = [{file.name: file.read_bytes() for file in model.path.iterdir()} for model in made]
    assert files[0] == files[1]
    assert not [name for name, content in files[0].items() if str(tmp_path).encode() in content]


def test_a_tied_table_lies_on_the_disk_once(tmp_path: Path) -> None:
    tied = export(tiny_model(tmp_path / "tied"), tmp_path / "out-tied", precision="int4")
    untied = export(tiny_model(tmp_path / "untied", tied=False), tmp_path / "out-untied", precision="int4")

    table = block_sizes.nbytes(320, 64, bits=8, block=32, symmetric=False)
    assert abs(untied.size() - tied.size() - table) < 1000


def test_a_killed_export_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    from picual.graph.checkpoint import Checkpoint
    from picual.graph.skeleton import build_skeleton
    from picual.passes.export.assembly import Choice, assemble
    from picual.passes.export.filling import fill

    model = tiny_model(tmp_path / "in")
    skeleton = build_skeleton(model.config(), floats="fp32", provider="CPUExecutionProvider")
    assembly = assemble(skeleton, model, Choice(floats="fp32", body=None, head=None))
    seen: list[str] = []

    def stop(_done: int, _total: int, name: str) -> None:
        seen.append(name)
        if len(seen) == 5:
            raise KeyboardInterrupt

    class Counting(Checkpoint):
        read = 0

        def columns(self, parts: Any, start: int, stop: int) -> npt.NDArray[np.float32]:
            Counting.read += 1
            return super().columns(parts, start, stop)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fill(assembly, Checkpoint(model), whole, inputs="a", on_progress=lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        fill(assembly, Checkpoint(model), cut, inputs="a", on_progress=stop, record_every=1)
    fill(assembly, Counting(model), cut, inputs="a", on_progress=lambda *_: None, record_every=1)

    assert cut.read_bytes() == whole.read_bytes()
    assert Counting.read == 8 - 5  # linear layers, less those done before


def test_settings_name_every_end_of_text_and_the_authors_sampling(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    told = {"eos_token_id": [258, 257], "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    (model.path / "generation_config.json").write_text(json.dumps(told))

    made = export(model, tmp_path / "out", Target(threads=3), precision="int4").config()

    assert made["model"]["eos_token_id"] == [258, 257]
    assert (made["model"]["bos_token_id"], made["model"]["pad_token_id"]) == (256, 256)
    assert (made["model"]["context_length"], made["search"]["max_length"]) == (512, 512)
    assert made["model"]["decoder"]["session_options"]["intra_op_num_threads"] == 3
    assert (made["search"]["do_sample"], made["search"]["temperature"], made["search"]["top_p"]) == (
        True,
        0.7,
        0.9,
    )
    assert made["search"]["past_present_share_buffer"] is True


def test_the_journal_names_every_layer(tmp_path: Path) -> None:
    model, context = tiny_model(tmp_path / "in", layers=1), context_for(tmp_path / "out")

    BuildGenai(precision="int4").run(model, context)

    changed = {entry["changed"]: entry["how"] for entry in context.journal if "changed" in entry}
    layer = "model.layers.0"
    assert changed == {
        **{f"{layer}.{name}": "int4 block 32" for name in (
            "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")},
        "lm_head": "int8 block 32",
    }  # fmt: skip
    assert {"skipped": "model.norm.weight", "why": "no linear layer: stays a float"} in context.journal


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize(("layout", "tied"), [("llama", True), ("phi3", False), ("qwen2", True)])
def test_the_forecast_of_disk_is_within_two_percent(
    layout: Any, tied: bool, precision: Any, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "in", layout=layout, tied=tied)
    a_pass = BuildGenai(precision=precision)

    made = export(model, tmp_path / "out", precision=precision)

    # Aligned tensors and graph text weigh a lot in a model this small: they are let off.
    assert a_pass.profile_after(model.profile()).bytes == pytest.approx(made.size(), rel=0.02, abs=3000)
    assert a_pass.forecast(model.profile(), Target(), MACHINE, {}).disk > made.size()


def refuse(model: HfModel, what: str, tmp_path: Path, **fields: Any) -> PicualError:
    with pytest.raises(PicualError, match=what) as caught:
        export(model, tmp_path / "out", **fields)
    assert caught.value.hint
    assert not list((tmp_path / "out").iterdir())
    return caught.value


def test_half_precision_on_a_cpu_is_refused_with_a_way_out(tmp_path: Path) -> None:
    error = refuse(tiny_model(tmp_path / "in"), "strays too far", tmp_path, precision="fp16")

    assert "precision: fp32" in error.hint


def test_a_block_wider_than_a_layer_is_refused(tmp_path: Path) -> None:
    error = refuse(tiny_model(tmp_path / "in"), "`block` is 128", tmp_path, precision="int4", block=128)

    assert "block: 64" in error.hint


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    config = {**model.config(), "model_type": "abacus", "architectures": ["AbacusForCausalLM"]}
    (model.path / "config.json").write_text(json.dumps(config))

    assert isinstance(refuse(model, "networks of type `abacus`", tmp_path), Refused)


def test_a_network_whose_tensors_go_by_unknown_names_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = tiny_model(tmp_path / "in")
    GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=64, n_layer=1, n_head=2)).save_pretrained(model.path)

    assert isinstance(refuse(model, "which the checkpoint does not have", tmp_path), Refused)


def test_a_network_that_does_not_generate_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    model = tiny_model(tmp_path / "in")
    BertModel(
        BertConfig(vocab_size=320, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(model.path)

    assert isinstance(refuse(model, "does not generate text", tmp_path), Refused)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    config = {**model.config(), "quantization_config": {"quant_method": "gptq"}}
    (model.path / "config.json").write_text(json.dumps(config))

    refuse(model, "quantized already", tmp_path)


def test_a_tensor_without_a_place_in_the_graph_is_not_dropped(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    edit(model, lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": np.ones((96, 64), "f4")}))

    refuse(model, "no place for `model.layers.2.mlp.up_proj.weight`", tmp_path)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")
    edit(model, lambda tensors: tensors.update({"model.norm.weight": np.ones(32, "f4")}))

    refuse(model, r"`model.norm.weight` is \(32,\) in the checkpoint and \(64,\)", tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_weight_that_is_no_number_names_its_tensor(precision: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "in")

    def spoil(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = np.nan

    edit(model, spoil)

    error = refuse(model, "`model.layers.1.mlp.down_proj.weight` holds", tmp_path, precision=precision)
    assert isinstance(error, UnreadableModel)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_from_the_store_gives_the_same_model(tmp_path: Path, layout: Any) -> None:
    model = tiny_model(tmp_path / "hf", layout=layout)
    a_pass = BuildGenai(precision="int4")
    alone = a_pass.run(model, context_for(tmp_path / "alone"))
    preparing = context_for(tmp_path / "prepared")
    a_pass.prepare(model, preparing)
    context = context_for(tmp_path / "after")
    context.prepared = preparing.folder

    after = a_pass.run(model, context)

    for name in ("model.onnx.data", "genai_config.json"):
        assert (after.path / name).read_bytes() == (alone.path / name).read_bytes(), name
    found, expected = (ir.load(folder / "model.onnx").graph for folder in (after.path, alone.path))
    assert [node.op_type for node in found] == [node.op_type for node in expected]
    assert np.array_equal(logits(after), logits(alone))


def test_graph_is_shared_by_models_of_one_config_and_no_others(tmp_path: Path) -> None:
    one, two = tiny_model(tmp_path / "one"), tiny_model(tmp_path / "two", seed=1)
    longer, untied = tiny_model(tmp_path / "longer", layers=3), tiny_model(tmp_path / "untied", tied=False)
    of = BuildGenai(precision="int4").preparation
    assert of(one, Target()) == of(two, Target())
    assert of(one, Target()) not in (of(longer, Target()), of(untied, Target()))
    assert of(one, Target()) != of(one, Target(device="gpu", provider="CUDAExecutionProvider"))
