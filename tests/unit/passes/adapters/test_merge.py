from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfAdapter, HfModel
from picual.passes.adapters.merge import MergeAdapter
from picual.passes.base import PassContext
from picual.testing.tiny import Layout, tiny_model

# peft's own: it reads a property that transformers renames, and remarks on tied embeddings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning"),
]

MODULES = {"llama": ["q_proj", "o_proj", "down_proj"], "phi3": ["qkv_proj", "o_proj"]}
IDS = torch.arange(3, 40)[None]


def train(base: HfModel | HfAdapter, folder: Path, *, seed: int = 1, **options: Any) -> HfAdapter:
    """Save an adapter whose B is random instead of zero, as if it had been trained."""
    torch.manual_seed(seed)
    root = base if isinstance(base, HfModel) else base.root()
    network = AutoModelForCausalLM.from_pretrained(root.path)
    settings = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **options}
    adapted = peft.get_peft_model(network, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.1 if "lora_" in name else 0.02))
    adapted.save_pretrained(folder)
    return HfAdapter(folder, base)


def logits_of_the_chain(adapter: HfAdapter) -> torch.Tensor:
    """Run the base with its adapters live, through peft: no merging anywhere."""
    network = AutoModelForCausalLM.from_pretrained(adapter.root().path, dtype=torch.float32)
    names = []
    for index, link in enumerate(adapter.chain()):
        names.append(f"a{index}")
        if index == 0:
            network = peft.PeftModel.from_pretrained(network, link.path, adapter_name=names[0])
        else:
            network.load_adapter(link.path, adapter_name=names[index])
    network.base_model.set_adapter(names)
    return logits(network)


def logits(network: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def merge(adapter: HfAdapter, folder: Path, a_pass: MergeAdapter | None = None) -> HfModel:
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    return (a_pass or MergeAdapter()).run(adapter, PassContext(folder / "out", folder / "scratch"))


def merged_logits(model: HfModel) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32))


@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_the_merged_model_says_what_the_base_says_with_its_adapter_live(layout: Layout, tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base", layout=layout), tmp_path / "a", target_modules=MODULES[layout])

    found = merged_logits(merge(adapter, tmp_path))

    assert (found - logits_of_the_chain(adapter)).abs().max() < 1e-4
    assert (found - merged_logits(adapter.root())).abs().max() > 0.1


@pytest.mark.parametrize("layout", ["llama", "phi3"])
def test_a_chain_of_two_adapters_adds_both(layout: Layout, tmp_path: Path) -> None:
    first = train(tiny_model(tmp_path / "base", layout=layout), tmp_path / "a", target_modules=MODULES[layout])
    second = train(first, tmp_path / "b", seed=2, r=2, target_modules=MODULES[layout][1:])

    found = merged_logits(merge(second, tmp_path))

    assert (found - logits_of_the_chain(second)).abs().max() < 1e-4
    assert (found - logits_of_the_chain(first)).abs().max() > 0.1


OPTIONS: dict[str, dict[str, Any]] = {
    "rank-stabilized": {"use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "o_proj"],
        "rank_pattern": {"v_proj": 2, "layers.1.self_attn.o_proj": 7},
        "alpha_pattern": {"proj": 99, "o_proj": 3, r"layers\.0\.self_attn\.q_proj": 1},
    },
    "head in full": {"modules_to_save": ["lm_head"]},
    "embedding in full": {"modules_to_save": ["embed_tokens"]},
    "head adapted": {"target_modules": ["lm_head", "q_proj"]},
    "embedding adapted": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_plain_option_of_lora_is_honoured(kind: str, tied: bool, tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base", tied=tied), tmp_path / "a", **OPTIONS[kind])

    model = merge(adapter, tmp_path)

    assert (merged_logits(model) - logits_of_the_chain(adapter)).abs().max() < 1e-4
    alone = "head" in kind or "embedding" in kind or not tied
    assert model.config()["tie_word_embeddings"] is not alone


def test_weights_stored_transposed_get_a_transposed_delta(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a", target_modules=["down_proj"])
    turned = load_file(adapter.root().path / "model.safetensors")
    for name in turned:
        if "down_proj" in name:
            turned[name] = turned[name].T.contiguous()
    expected = load_file(merge(adapter, tmp_path / "straight").path / "model.safetensors")
    save_file(turned, adapter.root().path / "model.safetensors", {"format": "pt"})
    config = adapter.adapter_config() | {"fan_in_fan_out": True}
    (adapter.path / "adapter_config.json").write_text(json.dumps(config))

    found = load_file(merge(adapter, tmp_path / "turned").path / "model.safetensors")

    for name, weight in expected.items():
        assert torch.allclose(found[name].T if "down_proj" in name else found[name], weight, atol=1e-6)


def test_a_weight_is_rounded_once(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    weights = {name: weight.bfloat16() for name, weight in load_file(base.path / "model.safetensors").items()}
    save_file(weights, base.path / "model.safetensors", {"format": "pt"})
    first = train(base, tmp_path / "a")
    second = train(first, tmp_path / "b", seed=2)

    found = load_file(merge(second, tmp_path).path / "model.safetensors")

    name = "model.layers.0.self_attn.q_proj.weight"
    exact = weights[name].double()
    for link in second.chain():
        parts = load_file(link.path / "adapter_model.safetensors")
        module = f"base_model.model.{name.removesuffix('.weight')}"
        exact += 2 * parts[f"{module}.lora_B.weight"].double() @ parts[f"{module}.lora_A.weight"].double()
    assert found[name].dtype == torch.bfloat16
    assert torch.equal(found[name], exact.bfloat16())  # half an ulp: twice rounded, some would be one off


def test_what_no_adapter_touches_keeps_its_bytes_and_the_journal_names_the_rest(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    (tmp_path / "out").mkdir()
    context = PassContext(tmp_path / "out", tmp_path)

    MergeAdapter().run(adapter, context)

    before = load_file(adapter.root().path / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    changed = {entry["changed"] for entry in context.journal}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert {entry["how"] for entry in context.journal} == {"rank 4, scale 2"}
    assert context.metrics == {"merged": 2}
    assert list(before) == list(after)
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed


def shard(model: HfModel) -> None:
    network = AutoModelForCausalLM.from_pretrained(model.path)
    (model.path / "model.safetensors").unlink()
    network.save_pretrained(model.path, max_shard_size="100KB")
    assert len(model.weight_files()) > 2


def test_shards_keep_their_names_and_their_index(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", tied=False)
    adapter = train(base, tmp_path / "a", target_modules=MODULES["llama"])
    whole = load_file(merge(adapter, tmp_path / "whole").path / "model.safetensors")
    shard(base)

    model = merge(adapter, tmp_path / "shards")

    assert [file.name for file in model.weight_files()] == [file.name for file in base.weight_files()]
    index = "model.safetensors.index.json"
    assert (
        json.loads((model.path / index).read_text())["weight_map"]
        == json.loads((base.path / index).read_text())["weight_map"]
    )
    for file in model.weight_files():
        for name, weight in load_file(file).items():
            assert torch.equal(weight, whole.pop(name))
    assert not whole


def test_an_interrupted_merge_goes_on_after_its_last_whole_shard(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    shard(base)
    adapter = train(base, tmp_path / "a", target_modules=MODULES["llama"])
    straight = merge(adapter, tmp_path / "straight")
    scratch = tmp_path / "broken" / "scratch"
    scratch.mkdir(parents=True)

    class Killed(BaseException):
        pass

    def kill(done: float, _total: float, _note: str) -> None:
        if done and len(list(scratch.glob("*.done.json"))) == 2:
            raise Killed

    (tmp_path / "first").mkdir()
    with pytest.raises(Killed):
        MergeAdapter().run(adapter, PassContext(tmp_path / "first", scratch, on_progress=kill))
    kept = {record: record.stat().st_mtime_ns for record in scratch.glob("*.done.json")}
    (scratch / base.weight_files()[-1].name).write_bytes(b"half a shard")

    model = merge(adapter, tmp_path / "broken")

    assert len(kept) == 2
    assert {record: record.stat().st_mtime_ns for record in kept} == kept
    for file in straight.weight_files():
        assert (model.path / file.name).read_bytes() == file.read_bytes()


def test_shards_of_other_inputs_are_not_taken_for_ours(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    merge(train(base, tmp_path / "a"), tmp_path / "one")
    (tmp_path / "one" / "scratch").rename(tmp_path / "scratch")
    other = train(base, tmp_path / "b", seed=7)
    (tmp_path / "two").mkdir()
    (tmp_path / "scratch").rename(tmp_path / "two" / "scratch")

    model = merge(other, tmp_path / "two")

    assert (merged_logits(model) - logits_of_the_chain(other)).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_dtype_is_written_and_named_in_the_config(dtype: Any, tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    exact = load_file(merge(adapter, tmp_path / "keep").path / "model.safetensors")

    model = merge(adapter, tmp_path / "cast", MergeAdapter(dtype=dtype))

    kind = getattr(torch, dtype)
    assert model.config()["dtype"] == dtype
    for name, weight in load_file(model.path / "model.safetensors").items():
        assert torch.equal(weight, exact[name].to(kind))


def test_the_tokenizer_goes_along_the_adapters_own_first(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter.path / name).write_bytes((adapter.root().path / name).read_bytes() + b"\n")

    model = merge(adapter, tmp_path)

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (model.path / name).read_bytes() == (adapter.path / name).read_bytes()
    kept = "generation_config.json"
    assert (model.path / kept).read_bytes() == (adapter.root().path / kept).read_bytes()


def refusal(adapter: HfAdapter) -> str:
    with pytest.raises(Refused, match=r"\w") as caught:
        MergeAdapter().check(adapter, Target())
    return caught.value.what


REFUSED = {
    "lora bias": ({"lora_bias": True}, "biases inside the adapter"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "single trained tokens"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_more_than_plain_lora_is_refused_with_its_name(kind: str, tmp_path: Path) -> None:
    options, reason = REFUSED[kind]
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a", **options)

    assert reason in refusal(adapter)


def test_other_methods_and_starts_that_moved_the_base_are_refused(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    plain = adapter.adapter_config()
    for change, reason in (
        ({"peft_type": "OFT"}, "the method OFT"),
        ({"init_lora_weights": "pissa_niter_4"}, "a start that changed the base"),
    ):
        (adapter.path / "adapter_config.json").write_text(json.dumps(plain | change))
        assert reason in refusal(adapter)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base", layers=3), tmp_path / "a")
    wider = tiny_model(tmp_path / "other")
    weights = load_file(wider.path / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(64, 72)

    assert "`base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight`" in refusal(
        HfAdapter(adapter.path, wider)
    )

    save_file(weights, wider.path / "model.safetensors", {"format": "pt"})
    two_layers = train(tiny_model(tmp_path / "two"), tmp_path / "b")
    said = refusal(HfAdapter(two_layers.path, wider))
    assert "does not fit `model.layers.0.self_attn.q_proj.weight` (64, 72)" in said


def test_an_adapter_with_half_a_pair_is_refused(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    tensors = load_file(adapter.path / "adapter_model.safetensors")
    gone = tensors.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    save_file(tensors, adapter.path / "adapter_model.safetensors")
    assert gone.any()

    assert "no `base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight`" in refusal(adapter)


def test_integers_are_refused(tmp_path: Path) -> None:
    adapter = train(tiny_model(tmp_path / "base"), tmp_path / "a")
    weights = load_file(adapter.root().path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].char()
    save_file(weights, adapter.root().path / "model.safetensors", {"format": "pt"})

    assert f"`{name}` holds I8" in refusal(adapter)
