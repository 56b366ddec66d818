from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from picual.errors import BadValue, Refused, UnreadableModel
from picual.models import HfAdapter, HfModel
from picual.models.hf_session import HfSession
from picual.models.session import open_session
from picual.testing.tiny import Layout, tiny_model

# peft's own: it reads a property that transformers renames, and remarks on tied embeddings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
IDS = np.arange(3, 60, dtype=np.int64)


@pytest.fixture(scope="module")
def session(taught: HfModel) -> Iterator[HfSession]:
    with contextlib.closing(HfSession(taught, threads=1)) as opened:
        yield opened


def prompt_of(phrase: str) -> str:
    return f"<|user|>\n{phrase}<|end|>\n<|assistant|>\n"


def test_batched_answers_equal_those_asked_one_by_one(session: HfSession, tones: dict[str, str]) -> None:
    prompts = [prompt_of(phrase) for phrase in tones] + ["cake for", "x", prompt_of("")]

    together = session.generate(prompts, max_new_tokens=12)

    assert together == [session.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]
    assert together[:8] == list(tones.values())


def test_greedy_answers_are_those_of_transformers_own_generate(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m", seed=3)
    network = AutoModelForCausalLM.from_pretrained(model.path)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    prompts = ["Once upon a time there was", "Hello", "Once upon a midnight dreary, while I pondered"]

    with contextlib.closing(HfSession(model, threads=1)) as session:
        answers = session.generate(prompts, max_new_tokens=20)

    for prompt, answer in zip(prompts, answers, strict=True):
        encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        whole = network.generate(**encoded, max_new_tokens=20, do_sample=False)
        expected = tokenizer.decode(whole[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == expected


def test_what_prompts_share_is_read_once_without_changing_an_answer(session: HfSession) -> None:
    start = "<|user|>\nthe same long beginning of every prompt, then: "
    prompts = [start + end for end in ("a", "bb and more", "ccc", "bb and less", "")]
    shared, cache = session._read_once([session.encode(prompt) for prompt in prompts])
    assert shared == len(session.encode(start)) - 1  # the shortest row keeps one token of its own
    assert cache is not None

    assert session.generate(prompts, max_new_tokens=15) == [
        session.generate([prompt], max_new_tokens=15)[0] for prompt in prompts
    ]


def test_an_answer_stops_at_a_stop_text_a_special_token_and_the_limit(session: HfSession) -> None:
    prompt = prompt_of("the dog is gone for good")

    assert session.generate([prompt], max_new_tokens=12, stop=["ne"]) == ["sad"]
    assert session.generate([prompt], max_new_tokens=3) == ["sad"]
    assert session.generate([prompt], max_new_tokens=0) == [""]
    # `<|assistant|>` is no EOS, and decoded text does not show it.
    asked = "<|user|>\nthe dog is gone for good<|end|>\n"
    assert session.generate([asked], max_new_tokens=12) == ["\nsadness"]
    assert session.generate([asked], max_new_tokens=12, stop=["<|assistant|>"]) == [""]


def test_logits_are_float32_and_those_of_transformers(session: HfSession, taught: HfModel) -> None:
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(taught.path)(torch.from_numpy(IDS)[None]).logits[0]

    found = session.logits(IDS)

    assert found.dtype == np.float32
    assert found.shape == (len(IDS), 320)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_streamed_pieces_make_the_generated_answer(session: HfSession) -> None:
    prompt = prompt_of("what, you here of all people")

    pieces = list(session.stream(prompt, max_new_tokens=20))

    assert "".join(pieces) == session.generate([prompt], max_new_tokens=20)[0] == "surprise"
    assert len(pieces) == len("surprise")  # one token a letter
    assert pieces == list(session.stream(prompt, max_new_tokens=20, sampling={"temperature": 0}))


def test_sampling_repeats_with_its_seed_and_top_k_of_one_is_greedy(session: HfSession) -> None:
    def drawn(**sampling: Any) -> str:
        return "".join(session.stream("the ", max_new_tokens=25, sampling=sampling))

    assert drawn(temperature=5.0, seed=1) == drawn(temperature=5.0, seed=1)
    assert drawn(temperature=5.0, seed=1) != drawn(temperature=5.0, seed=2)
    greedy = "".join(session.stream("the ", max_new_tokens=25))
    assert drawn(temperature=5.0, top_k=1, seed=3) == greedy
    assert drawn(temperature=5.0, top_p=1e-6, seed=3) == greedy


@pytest.mark.parametrize(
    ("sampling", "what"), [({"temprature": 1}, "temprature"), ({"top_p": 1.5}, "top_p"), ({"top_k": -1}, "top_k")]
)
def test_a_sampling_setting_that_is_none_is_refused(
    session: HfSession, sampling: dict[str, Any], what: str
) -> None:
    with pytest.raises(BadValue, match=what):
        next(session.stream("a", max_new_tokens=1, sampling=sampling))


def test_special_tokens_in_a_text_are_recognised_and_none_is_added(session: HfSession) -> None:
    assert session.encode("<|user|>a<|end|>") == [258, 64, 257]
    assert session.decode([258, 64, 257]) == "a"


def test_the_chat_prompt_is_the_templates(session: HfSession) -> None:
    messages = [{"role": "user", "content": "hi"}]

    assert session.chat_prompt(messages) == "<|user|>\nhi<|end|>\n<|assistant|>\n"


def test_a_model_without_a_chat_template_refuses_to_chat(taught: HfModel, tmp_path: Path) -> None:
    shutil.copytree(taught.path, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()

    with (
        contextlib.closing(HfSession(HfModel(tmp_path / "m"), threads=1)) as session,
        pytest.raises(Refused, match="no chat template") as caught,
    ):
        session.chat_prompt([{"role": "user", "content": "hi"}])
    assert "instruction-tuned" in caught.value.hint


def test_a_chat_template_that_raises_refuses_with_its_reason(taught: HfModel, tmp_path: Path) -> None:
    shutil.copytree(taught.path, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")

    with (
        contextlib.closing(HfSession(HfModel(tmp_path / "m"), threads=1)) as session,
        pytest.raises(Refused, match="System role not supported"),
    ):
        session.chat_prompt([{"role": "system", "content": "hi"}])


def adapter_on(base: HfModel | HfAdapter, folder: Path, seed: int) -> HfAdapter:
    """Save an adapter whose B is random instead of zero, as if it had been trained."""
    torch.manual_seed(seed)
    root = base if isinstance(base, HfModel) else base.root()
    network = AutoModelForCausalLM.from_pretrained(root.path)
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])
    adapted = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.2)
    adapted.save_pretrained(folder)
    return HfAdapter(folder, base)


def test_a_chain_of_adapters_answers_with_the_sum_of_their_deltas(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    first = adapter_on(base, tmp_path / "first", 1)
    second = adapter_on(first, tmp_path / "second", 2)
    network = AutoModelForCausalLM.from_pretrained(base.path)
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for adapter in (first, second):
            from safetensors.torch import load_file

            tensors = load_file(adapter.path / "adapter_model.safetensors")
            for name, a in tensors.items():
                if "lora_A" in name:
                    b = tensors[name.replace("lora_A", "lora_B")]
                    weights[name.removeprefix("base_model.model.").replace("lora_A.", "")] += 2.0 * b @ a
        expected = network(torch.from_numpy(IDS)[None]).logits[0].numpy()

    with contextlib.closing(open_session(second, threads=1)) as session:
        found = session.logits(IDS)

    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_weight_that_is_missing_is_named_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model(tmp_path / "m")
    tensors = load_file(model.path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model.path / "model.safetensors", {"format": "pt"})

    with pytest.raises(UnreadableModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        HfSession(model, threads=1)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, file: str) -> None:
    model = tiny_model(tmp_path / "m")
    whole = (model.path / file).read_bytes()
    (model.path / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(UnreadableModel, match=file):
        HfSession(model, threads=1)


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    adapter = adapter_on(tiny_model(tmp_path / "base"), tmp_path / "adapter", 1)
    other = tiny_model(tmp_path / "other", layout="phi3")

    with pytest.raises(UnreadableModel, match="does not fit"):
        HfSession(HfAdapter(adapter.path, other), threads=1)


def test_an_architecture_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m")
    (model.path / "config.json").write_text(json.dumps({**model.config(), "model_type": "novel"}))

    with pytest.raises(UnreadableModel, match="novel"):
        HfSession(model, threads=1)


@pytest.mark.parametrize("layout", ["phi3", "qwen2", "gemma"])
def test_other_layouts_answer_alike_in_a_batch_and_alone(tmp_path: Path, layout: Layout) -> None:
    model = tiny_model(tmp_path / "m", layout=layout)
    prompts = ["a common beginning, then this", "a common beginning, or that, or more", "else"]

    with contextlib.closing(HfSession(model, threads=1)) as session:
        together = session.generate(prompts[:2], max_new_tokens=10) + session.generate(
            prompts[2:], max_new_tokens=10
        )
        assert together == [session.generate([prompt], max_new_tokens=10)[0] for prompt in prompts]


def test_step_times_go_on_past_the_end_of_the_answer(session: HfSession) -> None:
    times = session.step_times(session.encode(prompt_of("cake for everyone today")), 20)

    assert len(times) == 20
    assert min(times) > 0
