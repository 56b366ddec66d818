"""Adapters beside their base: the base's bytes, the runtime's answers with each adapter, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from picual.errors import BadValue, Refused, UnknownName
from picual.hardware import Target
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, QuantizedHfModel
from picual.models.adapter_files import adapters_of, arrays_of
from picual.models.genai_session import GenaiSession
from picual.models.hf_loading import load_base, load_network
from picual.models.session import open_session
from picual.passes.base import PassContext
from picual.passes.export.genai import BuildGenai
from picual.passes.quantize.rtn import Rtn
from picual.testing.tiny import Layout, tiny_model

IDS = np.random.default_rng(0).integers(0, 256, 48).astype(np.int64)
Adapter = Callable[..., HfAdapter]


def context_in(folder: Path) -> PassContext:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return PassContext(folder / "out", folder / "scratch", target=Target(threads=1))


def quantized(folder: Path, layout: Layout = "llama", *, tied: bool = True) -> QuantizedHfModel:
    return Rtn().run(tiny_model(folder / "float", layout=layout, tied=tied), context_in(folder / "rtn"))


def export(model: HfCheckpoint | HfAdapter, folder: Path, **fields: Any) -> GenaiModel:
    a_pass = BuildGenai(**fields)
    a_pass.check(model, Target(threads=1))
    return a_pass.run(model, context_in(folder))


def live(adapter: HfAdapter) -> Any:
    """Return the base with the adapter beside it, as peft runs it while it trains: nothing is merged."""
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        return PeftModel.from_pretrained(load_base(adapter.root(), torch.float32), str(adapter.path)).eval()


def torch_logits(network: Any) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = network(input_ids=torch.from_numpy(IDS[None])).logits[0].numpy()
    return found


def torch_tokens(network: Any, count: int) -> list[int]:
    ids = torch.from_numpy(IDS[None, :20])
    with torch.inference_mode():
        for _ in range(count):
            ids = torch.cat([ids, network(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return [int(token) for token in ids[0, 20:]]


def logits_of(model: GenaiModel, adapter: str | None = None) -> npt.NDArray[np.float32]:
    session = open_session(model, threads=1, adapter=adapter)
    try:
        return session.logits(IDS)
    finally:
        session.close()


def divergence(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Return the mean Kullback-Leibler divergence, in nats a token."""
    left, right = (torch.from_numpy(rows).double().log_softmax(-1) for rows in (expected, found))
    return float((left.exp() * (left - right)).sum(-1).mean())


@pytest.mark.parametrize("logits", ["last", "all"])
@pytest.mark.parametrize(
    ("layout", "tied"), [("llama", True), ("phi3", False), ("qwen2", True), ("qwen3", False), ("gemma", True)]
)
def test_the_runtime_gives_the_logits_of_peft_on_the_integers_and_the_base_keeps_its_bytes(
    layout: Layout, tied: bool, logits: Any, tmp_path: Path, random_adapter: Adapter
) -> None:
    base = quantized(tmp_path / "base", layout, tied=tied)
    adapter = random_adapter(base, tmp_path / "adapter")
    plain = export(base, tmp_path / "plain", accuracy_level=0, logits=logits)

    made = export(adapter, tmp_path / "made", accuracy_level=0, logits=logits)

    data = "model.onnx.data"
    assert (made.path / data).read_bytes() == (plain.path / data).read_bytes()
    expected, without = torch_logits(live(adapter)), torch_logits(load_network(base, on_gpu=False))
    assert np.abs(expected - without).max() > 0.5, "the adapter is too weak for the test to tell"
    np.testing.assert_allclose(logits_of(made), expected, atol=1e-3)
    assert divergence(expected, logits_of(made)) < 1e-4
    np.testing.assert_allclose(logits_of(made, "none"), without, atol=1e-3)
    np.testing.assert_array_equal(logits_of(made, "none"), logits_of(plain))


@pytest.mark.parametrize(
    ("layout", "modules", "settings"),
    [
        ("llama", ("v_proj",), {}),  # one part of a stack
        ("llama", ("q_proj", "up_proj", "o_proj"), {"use_rslora": True}),
        ("phi3", ("qkv_proj",), {"alpha_pattern": {"layers.1.self_attn.qkv_proj": 40}}),
        ("qwen3", ("down_proj", "k_proj"), {}),
        ("llama", ("lm_head", "q_proj"), {}),  # the head itself, tied, which reads the last position alone
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_what_is_adapted_in_part_is_added_where_it_belongs(
    layout: Layout, modules: tuple[str, ...], settings: dict[str, Any], tmp_path: Path, random_adapter: Adapter
) -> None:
    base = quantized(tmp_path / "base", layout)
    adapter = random_adapter(base, tmp_path / "adapter", modules=modules, **settings)

    made = export(adapter, tmp_path / "made", accuracy_level=0)

    np.testing.assert_allclose(logits_of(made), torch_logits(live(adapter)), atol=1e-3)


def test_floats_keep_their_own_adapter_too(tmp_path: Path, random_adapter: Adapter) -> None:
    adapter = random_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")

    made = export(adapter, tmp_path / "made", precision="fp32")

    np.testing.assert_allclose(logits_of(made), torch_logits(live(adapter)), atol=1e-3)


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, random_adapter: Adapter
) -> tuple[GenaiModel, QuantizedHfModel, dict[str, HfAdapter]]:
    """One base with two adapters of other ranks and layers, and what they were made from."""
    folder = tmp_path_factory.mktemp("two")
    base = quantized(folder / "base")
    adapters = {
        "wide": random_adapter(base, folder / "wide", rank=8, seed=2),
        "narrow": random_adapter(base, folder / "narrow", rank=2, seed=3, modules=("k_proj", "down_proj")),
    }
    folders = {name: str(adapter.path) for name, adapter in adapters.items()}
    made = export(base, folder / "made", accuracy_level=0, adapters=folders)
    return made, base, adapters


def test_each_of_several_adapters_answers_as_its_own_network_does(two: Any) -> None:
    made, base, adapters = two

    for name, adapter in adapters.items():
        expected = torch_logits(live(adapter))
        np.testing.assert_allclose(logits_of(made, name), expected, atol=1e-3)
        assert divergence(expected, logits_of(made, name)) < 1e-4
    np.testing.assert_allclose(logits_of(made, "none"), torch_logits(load_network(base, on_gpu=False)), atol=1e-3)
    np.testing.assert_array_equal(logits_of(made), logits_of(made, "wide"))  # the first one is the default


@pytest.fixture
def runtime(two: Any) -> Iterator[Callable[[str | None], list[int]]]:
    """The runtime's own generator, as an application would use it: one model, adapters loaded by their files."""
    import onnxruntime_genai as og

    made = two[0]
    held: dict[str, Any] = {"model": og.Model(str(made.path))}
    held["adapters"] = og.Adapters(held["model"])
    for name, file in adapters_of(made.path).items():
        held["adapters"].load(str(file), name)

    def run(active: str | None) -> list[int]:
        parameters = og.GeneratorParams(held["model"])
        parameters.set_search_options(max_length=36, min_length=36, do_sample=False)
        generator = og.Generator(held["model"], parameters)
        if active is not None:
            generator.set_active_adapter(held["adapters"], active)
        generator.append_tokens(IDS[:20].astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)][20:]

    yield run
    for name in ("adapters", "model"):
        held.pop(name)


def test_adapters_are_switched_in_one_loaded_model(two: Any, runtime: Callable[[str | None], list[int]]) -> None:
    _, base, adapters = two
    networks = {name: live(adapter) for name, adapter in adapters.items()}
    expected = {name: torch_tokens(network, 16) for name, network in networks.items()}
    expected_base = torch_tokens(load_network(base, on_gpu=False), 16)
    assert len({tuple(tokens) for tokens in (*expected.values(), expected_base)}) == 3

    assert [runtime(name) for name in ("wide", "narrow", None, "wide")] == [
        expected["wide"], expected["narrow"], expected_base, expected["wide"],
    ]  # fmt: skip


def test_a_session_answers_with_the_adapter_that_is_asked_for(two: Any) -> None:
    made = two[0]

    def written(session: GenaiSession) -> list[str]:
        return session.generate(["One, two", "three", *"abcdefgh"], max_new_tokens=24)

    session = GenaiSession(made, threads=1)
    found: dict[str, Sequence[str]] = {}
    for name in ("wide", "narrow", "none", "wide"):
        session.use(name)
        found.setdefault(name, written(session))
        assert written(session) == found[name]
    session.close()

    for name, expected in found.items():
        fresh = GenaiSession(made, threads=1, adapter=name)
        assert written(fresh) == expected
        fresh.close()
    assert len(set(map(tuple, found.values()))) == 3


def test_a_loaded_session_scores_with_the_adapter_it_was_told_to_use(two: Any) -> None:
    made = two[0]
    session = GenaiSession(made, threads=1)
    for name in ("wide", "none", "narrow"):
        session.use(name)
        np.testing.assert_array_equal(session.logits(IDS), logits_of(made, name))
    session.close()


def test_scoring_goes_through_the_adapter_too(two: Any) -> None:
    made, _, adapters = two
    rows = [(IDS[:20].tolist(), IDS[20:24].tolist()), (IDS[:20].tolist(), IDS[30:33].tolist())]

    def scores(session: Any) -> list[float]:
        found = [one.log_probability for one in session.likelihoods(rows)]
        session.close()
        return found

    expected = scores(open_session(adapters["narrow"], threads=1))
    assert scores(open_session(made, threads=1, adapter="narrow")) == pytest.approx(expected, abs=1e-3)


def test_an_unknown_adapter_is_named_with_those_there_are(two: Any) -> None:
    with pytest.raises(UnknownName, match="no adapter `narow`") as caught:
        open_session(two[0], threads=1, adapter="narow")
    assert "`narrow`" in caught.value.hint


def test_several_adapters_of_which_none_is_said_to_answer_are_an_error(two: Any, tmp_path: Path) -> None:
    shutil.copytree(two[0].path, tmp_path / "copy")
    (tmp_path / "copy" / "picual_adapters.json").unlink()
    with pytest.raises(BadValue, match="2 adapters") as caught:
        open_session(GenaiModel(tmp_path / "copy"), threads=1)
    assert "`narrow`, `wide`, `none`" in caught.value.hint
    next(iter(adapters_of(tmp_path / "copy").values())).unlink()
    np.testing.assert_array_equal(logits_of(GenaiModel(tmp_path / "copy")), logits_of(two[0], "wide"))


def test_a_model_of_another_kind_has_no_adapters_to_choose_from(two: Any) -> None:
    with pytest.raises(Refused, match="no adapters to choose from"):
        open_session(two[1], threads=1, adapter="wide")


def test_an_adapter_file_of_another_graph_is_refused(two: Any, tmp_path: Path) -> None:
    made, _, adapters = two
    narrow = export(adapters["narrow"], tmp_path / "made")
    shutil.copy(adapters_of(made.path)["wide"], narrow.path / "adapters" / "wide.onnx_adapter")

    with pytest.raises(Refused, match=r"the graph has no input `model\.layers\.0\.mlp\.gate_up_proj\.lora_A`"):
        logits_of(narrow, "wide")


def test_the_same_adapter_gives_the_same_bytes_wherever_it_lies(tmp_path: Path, random_adapter: Adapter) -> None:
    made = []
    for place in ("one", "other/place"):
        base = quantized(tmp_path / place / "base")
        adapter = random_adapter(base, tmp_path / place / "adapter")
        made.append(export(adapter, tmp_path / place / "made"))

    files = [
        {
            file.relative_to(model.path).as_posix(): file.read_bytes()
            for file in model.path.rglob("*")
            if file.is_file()
        }
        for model in made
    ]
    assert files[0] == files[1]
    assert {"adapters/adapter.onnx_adapter", "picual_adapters.json"} <= set(files[0])
    assert not [name for name, content in files[0].items() if str(tmp_path).encode() in content]


def test_the_graph_of_the_store_serves_an_adapter(tmp_path: Path, random_adapter: Adapter) -> None:
    adapter = random_adapter(quantized(tmp_path / "base"), tmp_path / "adapter")
    a_pass, target = BuildGenai(), Target(threads=1)
    assert a_pass.preparation(adapter, target) == a_pass.preparation(adapter.root(), target)
    prepared = context_in(tmp_path / "prepared")
    a_pass.prepare(adapter, prepared)

    context = context_in(tmp_path / "made")
    context.prepared = prepared.folder
    made = a_pass.run(adapter, context)

    plain = export(adapter, tmp_path / "plain")
    for name in ("model.onnx", "adapters/adapter.onnx_adapter"):
        assert (made.path / name).read_bytes() == (plain.path / name).read_bytes()


def test_half_precision_targets_get_half_precision_factors(tmp_path: Path, random_adapter: Adapter) -> None:
    adapter = random_adapter(quantized(tmp_path / "base"), tmp_path / "adapter")
    context = context_in(tmp_path / "made")
    context.target = Target(device="gpu", provider="CUDAExecutionProvider", threads=1)

    made = BuildGenai().run(adapter, context)

    inputs = {value.name: value.dtype for value in ir.load(made.decoder()).graph.inputs}
    arrays = arrays_of(adapters_of(made.path)["adapter"])
    assert {inputs[name] for name in arrays} == {ir.DataType.FLOAT16}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}


def refusal(adapter: HfAdapter, tmp_path: Path) -> Refused:
    with pytest.raises(Refused, match=r"adapter|LoRA") as caught:
        BuildGenai().check(adapter, Target())
    assert not list(tmp_path.glob("made/*"))
    return caught.value


def test_what_no_input_of_a_graph_can_hold_is_refused(tmp_path: Path, random_adapter: Adapter) -> None:
    base = quantized(tmp_path / "base")
    first = random_adapter(base, tmp_path / "first")
    chain = random_adapter(base, tmp_path / "second")
    error = refusal(HfAdapter(chain.path, first), tmp_path)
    assert "a chain of 2 adapters" in error.what
    assert "merge-adapter" in error.hint
    tensors = load_file(first.path / "adapter_model.safetensors")
    tensors["base_model.model.model.norm.weight"] = torch.ones(64)
    save_file(tensors, first.path / "adapter_model.safetensors")
    error = refusal(first, tmp_path)
    assert "`model.norm.weight` by more than a low-rank update" in error.what
    assert "modules_to_save" in error.hint


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, random_adapter: Adapter) -> None:
    base = quantized(tmp_path / "base")
    other = random_adapter(tiny_model(tmp_path / "other", layout="phi3"), tmp_path / "adapter")
    assert "match no weight of the base" in refusal(HfAdapter(other.path, base), tmp_path).what
    with pytest.raises(Refused, match="match no weight of the base"):
        BuildGenai(adapters={"other": str(other.path)}).check(base, Target())  # type: ignore[arg-type]


def test_the_prompt_is_the_adapter_s_own(tmp_path: Path, random_adapter: Adapter) -> None:
    adapter = random_adapter(quantized(tmp_path / "base"), tmp_path / "adapter")
    for companion in adapter.root().companions():
        (adapter.path / companion.name).write_bytes(companion.read_bytes())
    config = json.loads((adapter.path / "tokenizer_config.json").read_text())
    (adapter.path / "tokenizer_config.json").write_text(json.dumps({**config, "mine": True}))

    made = export(adapter, tmp_path / "made")

    assert json.loads((made.path / "tokenizer_config.json").read_text())["mine"] is True
