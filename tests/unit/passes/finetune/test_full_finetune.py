"""Every weight trained: the network is that of a textbook's training, stored as its base is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from picual.data.base import DataConfig
from picual.data.files import rows
from picual.data.sequences import sequences
from picual.engine.verification.checks import Bench
from picual.engine.verification.task import verify
from picual.errors import BadValue, Refused, UnknownName
from picual.hardware import Target, machine
from picual.models import HfModel
from picual.passes.base import NetworkTrained, PassContext
from picual.passes.finetune.full_finetune import FullFinetune
from picual.passes.finetune.lora import Lora
from picual.space import Settings
from picual.testing import PassContract, tiny_model

FILE = "model.safetensors"
CONSTANT = {
    "learning_rate": 1e-3, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
    "max_grad_norm": 0.0, "per_device_train_batch_size": 6, "max_steps": 3,
}  # fmt: skip
ROWS = [
    {"phrase": "we won " + "and won " * (index % 5), "tone": ("joy", "fear")[index % 2]} for index in range(24)
]
Finetune = Callable[..., tuple[HfModel, PassContext]]


def write_tones(folder: Path, **fields: Any) -> DataConfig:
    path = folder / "tones.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return DataConfig(files=(str(path),), template="{phrase}: {tone}<|end|>", **fields)


@pytest.fixture
def finetune(llama: HfModel, tmp_path: Path) -> Finetune:
    count = 0

    def run(
        *, model: HfModel = llama, scratch: Path | None = None, data: dict[str, Any] | None = None, **training: Any
    ) -> tuple[HfModel, PassContext]:
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir()
        context = PassContext(
            folder=folder / "out", scratch=scratch or folder / "scratch", seed=7, threads=1,
            data={"tones": write_tones(tmp_path, **(data or {}))},
        )  # fmt: skip
        a_pass = FullFinetune(data="tones", training=Settings({**CONSTANT, **training}))
        a_pass.check(model, context.target)
        return a_pass.run(model, context), context

    return run


def weights(model: HfModel) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in model.weight_files():
        found.update(load_file(file))
    return found


def by_hand(model: HfModel, context: PassContext, steps: int = 3) -> dict[str, torch.Tensor]:
    config = context.data["tones"]
    made = sequences(rows(config), config, AutoTokenizer.from_pretrained(model.path)).sequences
    network: Any = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        group = made[step * 6 : (step + 1) * 6]
        total = torch.zeros(())
        for row in group:
            ids = torch.tensor([row.input_ids])
            logits = network(input_ids=ids).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        (total / sum(len(row.input_ids) - 1 for row in group)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def failed(base: HfModel, made: HfModel) -> set[str]:
    return {check.name for check in verify(NetworkTrained(), base, made, Bench()) if not check.passed}


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_the_one_of_a_training_by_hand(finetune: Finetune, tied: bool, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", tied=tied)

    made, context = finetune(model=base)

    expected, found = by_hand(base, context), weights(made)
    assert found.keys() == weights(base).keys()
    assert ("lm_head.weight" in found) is not tied
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-5)
    assert not failed(base, made)


def test_shards_types_and_companions_are_those_of_the_base(finetune: Finetune, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", tied=False)
    network = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16)
    (base.path / FILE).unlink()
    network.save_pretrained(base.path, max_shard_size="100KB")
    (base.path / "LICENSE").write_text("as you like")
    assert len(base.weight_files()) > 2

    made, context = finetune(model=base)

    exact = by_hand(base, context)
    assert [file.name for file in made.weight_files()] == [file.name for file in base.weight_files()]
    for name, tensor in weights(made).items():
        assert tensor.dtype == torch.bfloat16
        # trained in float32 and rounded once: a unit in the last place where the sums of the two differ
        torch.testing.assert_close(tensor.float(), exact[name].bfloat16().float(), rtol=2**-7, atol=1e-5)
    for file in [base.path / "config.json", base.path / "model.safetensors.index.json", *base.companions()]:
        if file.name.endswith("index.json"):
            assert json.loads((made.path / file.name).read_text())["weight_map"]
        else:
            assert (made.path / file.name).read_bytes() == file.read_bytes()
    assert not failed(base, made)
    assert not (made.path / "training_args.bin").exists()


def test_a_stored_copy_of_a_tied_head_stays_the_embedding(finetune: Finetune, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    stored = weights(base)
    copy = {**stored, "lm_head.weight": stored["model.embed_tokens.weight"].clone()}
    save_file(copy, base.path / FILE, {"format": "pt"})

    made, _ = finetune(model=base)

    found = weights(made)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert not torch.equal(found["lm_head.weight"], copy["lm_head.weight"])
    assert not failed(base, made)


def test_a_killed_training_goes_on_to_the_same_bytes(finetune: Finetune, llama: HfModel, tmp_path: Path) -> None:
    whole, context = finetune(max_steps=6, save_steps=2)
    scratch = tmp_path / "killed"
    scratch.mkdir()

    class Killed(BaseException):
        pass

    def kill(done: float, _total: float, note: str) -> None:
        if done == 5 and "tokens/s" in note:
            raise Killed

    killed = PassContext(
        folder=tmp_path / "none", scratch=scratch, seed=7, threads=1, data=context.data, on_progress=kill
    )
    killed.folder.mkdir()
    settings = Settings({**CONSTANT, "max_steps": 6, "save_steps": 2})
    with pytest.raises(Killed):
        FullFinetune(data="tones", training=settings).run(llama, killed)
    assert (scratch / "checkpoint-4" / FILE).is_file()

    made, _ = finetune(max_steps=6, save_steps=2, scratch=scratch)

    assert (made.path / FILE).read_bytes() == (whole.path / FILE).read_bytes()
    again, after = finetune(max_steps=6, save_steps=2, scratch=scratch)
    assert (again.path / FILE).read_bytes() == (whole.path / FILE).read_bytes()
    assert after.metrics["train_loss"] == context.metrics["train_loss"]


def test_the_best_evaluation_is_written(finetune: Finetune) -> None:
    asked: dict[str, Any] = {"load_best_model_at_end": True, "greater_is_better": True, "eval_steps": 1}
    made, context = finetune(max_steps=4, data={"holdout": 0.3}, **asked)
    best = json.loads((context.scratch / "checkpoint-4" / "trainer_state.json").read_text())["best_global_step"]
    assert best < 4
    kept = load_file(context.scratch / f"checkpoint-{best}" / FILE)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(made).items())
    again, _ = finetune(max_steps=4, data={"holdout": 0.3}, scratch=context.scratch, **asked)
    assert (again.path / FILE).read_bytes() == (made.path / FILE).read_bytes()


def test_what_cannot_be_trained_is_refused(llama: HfModel, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="`full-finetune` needs `data`"):
        FullFinetune().check(llama, Target())
    with pytest.raises(UnknownName, match="unknown data set `tones`"):
        FullFinetune(data="tones").run(llama, PassContext(folder=tmp_path, scratch=tmp_path, data={}))
    config = {**llama.config(), "quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match="its integers cannot be trained"):
        FullFinetune(data="x").check(HfModel(tmp_path), Target())


def test_the_forecast_is_of_every_weight(llama: HfModel) -> None:
    profile = llama.profile()
    full = FullFinetune(data="x").forecast(profile, Target(), machine(), {})
    adapter = Lora(data="x", rank=1, dropout=0.0, dtype="float32").forecast(profile, Target(), machine(), {})
    assert full.memory - adapter.memory > 11 * profile.parameters
    assert full.disk > profile.bytes + 24 * profile.parameters
    assert full.seconds > adapter.seconds
    fewer = FullFinetune(data="x", training=Settings({"per_device_train_batch_size": 1}))
    assert fewer.forecast(profile, Target(), machine(), {}).memory < full.memory


Change = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], Any]
UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
FAULTS: dict[str, tuple[Change, set[str]]] = {
    "nothing moved": (lambda made, base: made.update(base), {"trained-moved"}),
    "a weight missing": (lambda made, _: made.pop(UP), {"trained-tensors"}),
    "a weight too many": (lambda made, _: made.update(stray=torch.zeros(2)), {"trained-tensors"}),
    "another shape": (lambda made, _: made.update({UP: made[UP][:32]}), {"trained-shapes"}),
    "another type": (lambda made, _: made.update({UP: made[UP].half()}), {"trained-shapes"}),
    "a NaN": (lambda made, _: made[UP][3, 4].fill_(float("nan")), {"trained-finite"}),
    "two layers swapped": (lambda made, _: made.update({UP: made[DOWN], DOWN: made[UP]}), {"trained-near"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(finetune: Finetune, llama: HfModel, fault: str) -> None:
    made, _ = finetune(max_steps=1)
    change, expected = FAULTS[fault]
    tensors = {name: tensor.clone() for name, tensor in weights(made).items()}
    assert not failed(llama, made)
    change(tensors, weights(llama))
    (made.path / FILE).unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, made.path / FILE, {"format": "pt"})
    assert failed(llama, made) == expected


def test_a_head_that_is_not_the_embedding_any_more_and_another_config_are_caught(
    finetune: Finetune, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    stored = weights(base)
    save_file({**stored, "lm_head.weight": stored["model.embed_tokens.weight"].clone()}, base.path / FILE)
    made, _ = finetune(model=base, max_steps=1)
    tensors = {name: tensor.clone() for name, tensor in weights(made).items()}
    tensors["lm_head.weight"][0, 0] += 1e-3
    (made.path / FILE).unlink()
    save_file(tensors, made.path / FILE, {"format": "pt"})
    assert failed(base, made) == {"trained-tied"}
    config = json.loads((made.path / "config.json").read_text())
    (made.path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert failed(base, made) == {"trained-tied", "trained-config"}


def phrases(folder: Path) -> Mapping[str, DataConfig]:
    path = folder / "phrases.jsonl"
    path.write_text("".join(f'{{"phrase": "phrase {i} {"so " * (i % 4)}", "tone": "joy"}}\n' for i in range(12)))
    return {"phrases": DataConfig(files=(str(path),), template="{phrase}: {tone}", holdout=0.3)}


def packed(folder: Path) -> HfModel:
    model = tiny_model(folder)
    (model.path / "config.json").write_text(json.dumps({**model.config(), "quantization_config": {"bits": 4}}))
    return model


class TestContract(PassContract):
    a_pass = FullFinetune(
        data="phrases",
        training=Settings({"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3}),
    )
    a_model = staticmethod(tiny_model)
    a_data = staticmethod(phrases)
    a_refusal = staticmethod(packed)
