"""What users give a training by mistake, and what a machine does to it: named, counted, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from picual.data.base import DataConfig
from picual.errors import BadValue, StepFailed
from picual.executors.job import Job, Result
from picual.executors.worker import run_job
from picual.models import HfAdapter, HfModel
from picual.passes.base import PassContext
from picual.passes.finetune.checkpoints import newest, step_of
from picual.passes.finetune.lora import Lora
from picual.space import Settings
from picual.testing import tiny_model

Rows = list[dict[str, str]]
FILE = "adapter_model.safetensors"
ROWS: Rows = [{"text": f"row {index} says so {'again ' * (index % 4)}"} for index in range(12)]


@pytest.fixture
def train_on(llama: HfModel, tmp_path: Path) -> Callable[..., tuple[HfAdapter, PassContext]]:
    """Train on rows of text; `data` and `training` go to their own places."""
    count = 0

    def run(
        rows: Rows, *, model: HfModel = llama, data: dict[str, Any] | None = None, held: Rows | None = None,
        scratch: Path | None = None, kill_at: int | None = None, **training: Any,
    ) -> tuple[HfAdapter, PassContext]:  # fmt: skip
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir()
        sets = {}
        for name, own in (("rows", rows), ("others", held)):
            file = tmp_path / f"{name}.jsonl"  # the same place for every run of a test
            file.write_text("".join(json.dumps(row) + "\n" for row in own or []))
            sets[name] = DataConfig(files=(str(file),), text="text", **(data or {}))

        def kill(done: float, _total: float, note: str) -> None:
            if done == kill_at and "tokens/s" in note:
                raise Killed

        context = PassContext(
            folder=folder / "out", scratch=scratch or folder / "scratch", seed=7, threads=1, data=sets,
            on_progress=kill,
        )  # fmt: skip
        settings = Settings({"max_steps": 2, "train_sampling_strategy": "sequential", **training})
        a_pass = Lora(
            data="rows", eval_data="others" if held else None, dtype="float32", dropout=0.0, training=settings
        )
        a_pass.check(model, context.target)
        return a_pass.run(model, context), context

    return run


class Killed(BaseException):
    pass


TrainOn = Callable[..., tuple[HfAdapter, PassContext]]


def notes(context: PassContext) -> str:
    return "\n".join(entry["note"] for entry in context.journal if "note" in entry)


def weights(adapter: HfAdapter) -> dict[str, torch.Tensor]:
    return load_file(adapter.path / FILE)


def assert_same(one: HfAdapter, other: HfAdapter) -> None:
    assert (one.path / FILE).read_bytes() == (other.path / FILE).read_bytes()


def test_no_rows_are_refused_and_one_row_trains_without_a_holdout(train_on: TrainOn) -> None:
    with pytest.raises(BadValue, match=r"no rows|empty"):
        train_on([])
    _, context = train_on(ROWS[:1], data={"holdout": 0.3}, eval_strategy="steps")
    assert "data `rows`: one row cannot be split, so there is nothing to evaluate on" in notes(context)
    assert (context.metrics["train_rows"], context.metrics["eval_rows"]) == (1, 0)
    assert "eval_loss" not in context.metrics
    _, context = train_on(ROWS[:2], data={"holdout": 0.3})
    assert "cannot be split" not in notes(context)


def test_rows_beyond_the_models_context_are_cut_there_counted_and_noted(train_on: TrainOn) -> None:
    long = [{"text": "so it goes on " * 60}, *ROWS]  # 840 tokens; the context is 512
    made, context = train_on(long, data={"max_length": 2048}, per_device_train_batch_size=1)
    assert "`max_length` 2048 is more than the model can read at once, which is 512 tokens: it is 512" in notes(
        context
    )
    assert "data `rows`: 1 rows lost their end to `max_length` 512; the longest has 840 tokens" in notes(context)
    same, _ = train_on(long, data={"max_length": 512}, per_device_train_batch_size=1)
    assert_same(made, same)
    _, context = train_on(ROWS, data={"max_length": 2048})
    assert "max_length" not in notes(context)


def test_a_tokenizer_without_pad_and_end_trains_the_same(
    train_on: TrainOn, llama: HfModel, tmp_path: Path
) -> None:
    bare = HfModel(tmp_path / "bare")
    shutil.copytree(llama.path, bare.path)
    file = bare.path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for name in ("pad_token", "eos_token", "bos_token"):
        config.pop(name)
    file.write_text(json.dumps(config))

    made, _ = train_on(ROWS, model=bare)

    assert_same(made, train_on(ROWS)[0])
    joined, _ = train_on(ROWS, model=bare, data={"strategy": "join", "max_length": 32})
    assert all(bool(tensor.isfinite().all()) for tensor in weights(joined).values())


def poisoned(folder: Path) -> HfModel:
    """Return a model that has no finite answer to a text with a `Z`."""
    model = tiny_model(folder, tied=False)
    tensors = load_file(model.path / "model.safetensors")
    from transformers import AutoTokenizer

    (index,) = AutoTokenizer.from_pretrained(model.path)("Z")["input_ids"]
    tensors["model.embed_tokens.weight"][index] = float("nan")
    save_file(tensors, model.path / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_a_loss_that_is_not_finite_names_its_rows_and_keeps_the_last_good_checkpoint(
    train_on: TrainOn, holdout: float, tmp_path: Path
) -> None:
    rows = [dict(row) for row in ROWS]
    rows[8]["text"] += " Z"  # the ninth of the file; with a holdout an earlier one of those that are trained on
    scratch = tmp_path / "kept"
    scratch.mkdir()
    settings = {"max_steps": 6, "per_device_train_batch_size": 2, "save_steps": 1}
    with pytest.raises(StepFailed, match="the loss is nan at step") as caught:
        train_on(rows, model=poisoned(tmp_path / "m"), data={"holdout": holdout}, scratch=scratch, **settings)
    assert "9" in caught.value.what.split("on rows ")[1].split(" of the data")[0].split(", ")
    assert caught.value.what.count(",") == 2, "the rows of that batch alone"
    kept = newest(scratch)
    assert kept is not None
    assert step_of(kept) == int(caught.value.what.split("at step ")[1].split(",")[0]) - 1
    for tensor in load_file(kept / FILE).values():
        assert bool(tensor.isfinite().all())


def test_weights_that_are_not_finite_are_no_checkpoint(train_on: TrainOn, tmp_path: Path) -> None:
    scratch = tmp_path / "spoilt"
    scratch.mkdir()
    with pytest.raises(StepFailed, match=r"is not finite after step 1: the training has come apart"):
        train_on(ROWS, scratch=scratch, learning_rate=3.4e38, save_steps=1, lr_scheduler_type="constant")
    assert newest(scratch) is None


EARLY: dict[str, Any] = {
    "max_steps": 9, "eval_steps": 1, "learning_rate": 1e-2, "early_stopping_patience": 2,
    "greater_is_better": True,
}  # fmt: skip


def test_a_training_that_gets_no_better_stops_and_keeps_its_best(train_on: TrainOn, tmp_path: Path) -> None:
    made, context = train_on(ROWS, data={"holdout": 0.3}, **EARLY)  # the loss falls, and is asked to rise
    assert context.metrics["steps"] == 3
    assert "stopped early, after step 3 of 9: 2 evaluations in a row were no better" in notes(context)
    kept = load_file(context.scratch / "checkpoint-1" / FILE)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(made).items())

    scratch = context.scratch
    again, after = train_on(ROWS, data={"holdout": 0.3}, scratch=scratch, **EARLY)
    assert_same(again, made)
    assert after.metrics["steps"] == 3

    scratch = tmp_path / "killed"
    scratch.mkdir()
    with pytest.raises(Killed):
        train_on(ROWS, data={"holdout": 0.3}, scratch=scratch, kill_at=3, **EARLY)
    kept_there = newest(scratch)
    assert kept_there is not None
    assert step_of(kept_there) == 2
    resumed, after = train_on(ROWS, data={"holdout": 0.3}, scratch=scratch, **EARLY)
    assert_same(resumed, made)
    assert after.metrics["steps"] == 3


def test_a_training_that_gets_better_does_not_stop(train_on: TrainOn) -> None:
    asked = {**EARLY, "greater_is_better": False, "max_steps": 4}
    _, context = train_on(ROWS, data={"holdout": 0.3}, **asked)
    assert context.metrics["steps"] == 4
    assert "stopped early" not in notes(context)
    _, context = train_on(ROWS, data={"holdout": 0.3}, **asked, early_stopping_threshold=50.0)
    assert context.metrics["steps"] == 3


def test_stopping_early_without_anything_to_evaluate_on_is_noted(train_on: TrainOn) -> None:
    _, context = train_on(ROWS, max_steps=3, early_stopping_patience=1)
    assert "there is nothing to evaluate on" in notes(context)
    assert context.metrics["steps"] == 3
    _, context = train_on(ROWS, early_stopping_threshold=0.1)
    assert "no effect without `early_stopping_patience`" in notes(context)


def test_rows_on_both_sides_are_counted(train_on: TrainOn) -> None:
    _, context = train_on(ROWS, held=[ROWS[3], {"text": "another"}, {"text": ROWS[5]["text"] + " "}])
    assert context.metrics["leaked_rows"] == 2
    assert "2 of 3 rows to evaluate on are also trained on, word for word" in notes(context)
    _, context = train_on(ROWS, data={"holdout": 0.3})
    assert "leaked_rows" not in context.metrics
    assert "word for word" not in notes(context)
    _, context = train_on([*ROWS, *ROWS], data={"holdout": 0.3})
    assert context.metrics["leaked_rows"] > 0


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let the system refuse what goes beyond ``size`` bytes of any file, as a full disk does."""
    resource = pytest.importorskip("resource", reason="there are no such limits on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def trained(folder: Path, model: HfModel, file: Path) -> Result:
    data = DataConfig(files=(str(file),), text="text")
    fields = {"data": "rows", "dtype": "float32", "training": {"max_steps": 2}}
    payload = {"pass": "lora", "fields": fields, "model": model.to_wire(), "data": {"rows": data.to_wire()}}
    Job(kind="pass", label="lora", payload=payload).write(folder)
    return run_job(folder)


def test_a_disk_that_ends_while_saving_leaves_no_half_adapter(llama: HfModel, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    place = tmp_path / "job"
    assert trained(tmp_path / "whole", llama, file).error is None
    size = (tmp_path / "whole" / "out" / FILE).stat().st_size

    with no_file_over(size - 100):  # the first checkpoint is too large
        error = trained(place, llama, file).error
    assert error is not None
    assert error["error"] == "NotEnough"
    assert error["what"] == "`lora` may not write a file as large as it needs"
    assert not any((place / "out").iterdir())
    assert newest(place / "scratch") is None

    assert trained(place, llama, file).error is None  # from the beginning
    shutil.rmtree(place / "out")
    with no_file_over(size - 100):  # the training is done; what is left is to write the adapter
        error = trained(place, llama, file).error
    assert error is not None
    assert error["where"] == str(place / "out")
    assert not any((place / "out").iterdir())

    assert trained(place, llama, file).error is None
    assert (place / "out" / FILE).read_bytes() == (tmp_path / "whole" / "out" / FILE).read_bytes()
