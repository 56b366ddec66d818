from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from picual import fingerprint
from picual.errors import Refused, UnreadableModel
from picual.models import GenaiModel, HfAdapter, HfModel, QuantizedHfModel
from picual.models.detect import open_folder
from picual.passes.base import PassContext
from picual.passes.quantize.rtn import Rtn
from picual.sources.digests import DigestMemory
from picual.sources.folder import FolderSource, copied, examine
from picual.sources.resolve import resolve


def sharded(model: HfModel) -> HfModel:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model.path)
    (model.path / "model.safetensors").unlink()
    network.save_pretrained(model.path, max_shard_size="120KB")
    assert len(model.weight_files()) >= 3
    return model


def test_a_folder_is_located_at_once_without_a_heavy_import(tiny: HfModel) -> None:
    code = (
        "import sys, time; from pathlib import Path; from picual.sources.resolve import resolve\n"
        "from picual.sources.folder import examine\n"
        f"source = resolve('tiny', folder=Path({str(tiny.path.parent)!r}))\n"
        "started = time.monotonic(); found = source.locate(); examine(found.model)\n"
        "took = time.monotonic() - started\n"
        "heavy = ('torch', 'transformers', 'numpy', 'safetensors', 'huggingface_hub', 'yaml')\n"
        "print(source.fetches, found.model.path, took < 0.2, [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"False {tiny.path} True []"


def test_a_whole_model_passes_single_or_sharded(tiny: HfModel) -> None:
    examine(tiny)
    examine(sharded(tiny))


def test_a_missing_shard_is_named(tiny: HfModel) -> None:
    gone = sharded(tiny).weight_files()[1]
    gone.unlink()
    with pytest.raises(UnreadableModel, match=gone.name):
        examine(tiny)


def test_a_tensor_that_the_index_names_and_no_shard_holds_is_named(tiny: HfModel) -> None:
    index = sharded(tiny).path / "model.safetensors.index.json"
    wire = json.loads(index.read_text())
    shards = sorted(set(wire["weight_map"].values()))
    name = next(name for name, shard in wire["weight_map"].items() if shard == shards[0])
    wire["weight_map"][name] = shards[1]
    index.write_text(json.dumps(wire))
    with pytest.raises(UnreadableModel, match=f"`{shards[1]}` has no tensor `{name}`"):
        examine(tiny)


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 5])


def half_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def no_object(file: Path) -> None:
    file.write_text("[]")


def not_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut), ("model.safetensors", half_header), ("model.safetensors", empty),
        ("model.safetensors", gone),
        ("config.json", cut), ("config.json", empty), ("config.json", no_object), ("config.json", not_text),
        ("tokenizer.json", cut), ("tokenizer.json", empty), ("tokenizer.json", no_object),
        ("tokenizer.json", gone),
        ("tokenizer_config.json", cut), ("generation_config.json", cut),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(name: str, damage: Callable[[Path], None], tiny: HfModel) -> None:
    damage(tiny.path / name)
    with pytest.raises(UnreadableModel) as caught:
        examine(tiny)
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_tokenizer_that_holds_something_else_is_named(tiny: HfModel) -> None:
    (tiny.path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UnreadableModel, match=r"`tokenizer.json` holds no tokenizer"):
        examine(tiny)


def test_an_adapter_is_examined_with_its_base(tiny: HfModel, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    adapter = HfAdapter(folder, tiny)
    with pytest.raises(UnreadableModel, match=r"`adapter_model.safetensors` is missing"):
        examine(adapter)
    (folder / "adapter_model.safetensors").write_bytes((tiny.path / "model.safetensors").read_bytes())
    examine(adapter)
    cut(tiny.path / "model.safetensors")
    with pytest.raises(UnreadableModel, match=r"`model.safetensors` is cut short"):
        examine(adapter)


def test_pickled_weights_are_refused_with_what_to_do(tiny: HfModel, tmp_path: Path) -> None:
    (tiny.path / "training_args.bin").write_bytes(b"")  # beside safetensors, a pickle is nobody's business
    assert resolve("tiny", folder=tmp_path).locate() is not None
    (tiny.path / "model.safetensors").rename(tiny.path / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"`pytorch_model.bin`") as caught:
        resolve("tiny", folder=tmp_path).locate()
    assert "convert to safetensors" in caught.value.hint


def test_the_key_is_of_the_content_wherever_it_lies(tiny: HfModel, tmp_path: Path) -> None:
    memory = DigestMemory(None)
    first = FolderSource(path=tiny.path, digests=memory).key_parts()
    copy = FolderSource(path=tiny.path, digests=memory).fetch(tmp_path / "copy")
    assert isinstance(copy, HfModel)
    assert FolderSource(path=copy.path, digests=memory).key_parts() == first
    cut(copy.path / "tokenizer.json")
    time.sleep(0.01)
    assert FolderSource(path=copy.path, digests=memory).key_parts() != first


def test_a_copy_of_a_users_folder_shares_no_file_with_it(tiny: HfModel, tmp_path: Path) -> None:
    copy = FolderSource(path=tiny.path, digests=DigestMemory(None), trust_remote_code=True).fetch(
        tmp_path / "copy"
    )
    assert copy == HfModel(tmp_path / "copy", True)
    for file in fingerprint.files_under(copy.path):
        original = tiny.path / file.name
        assert file.read_bytes() == original.read_bytes()
        assert file.stat().st_ino != original.stat().st_ino


def test_adapters_beside_a_graph_travel_with_it_and_count(tmp_path: Path) -> None:
    (tmp_path / "model" / "adapters").mkdir(parents=True)
    for name in ("genai_config.json", "model.onnx", "picual_adapters.json", "adapters/one.onnx_adapter"):
        (tmp_path / "model" / name).write_text(name)
    model = GenaiModel(tmp_path / "model")

    copy = copied(model, tmp_path / "copy")

    def content(folder: Path) -> dict[str, str]:
        return {path.relative_to(folder).as_posix(): path.read_text() for path in fingerprint.files_under(folder)}

    assert content(copy.path) == content(model.path)
    before = DigestMemory(None).folder(model.path)
    (model.path / "adapters" / "one.onnx_adapter").write_text("trained further")
    assert DigestMemory(None).folder(model.path) != before


def test_an_adapter_on_integers_keeps_its_base(
    tiny: HfModel, tmp_path: Path, random_adapter: Callable[..., HfAdapter]
) -> None:
    for name in ("out", "scratch"):
        (tmp_path / "rtn" / name).mkdir(parents=True)
    base = Rtn().run(tiny, PassContext(tmp_path / "rtn" / "out", tmp_path / "rtn" / "scratch"))
    adapter = random_adapter(base, tmp_path / "adapter")
    examine(adapter)

    copy = copied(adapter, tmp_path / "copy")

    assert copy == HfAdapter(tmp_path / "copy" / "adapter", QuantizedHfModel(tmp_path / "copy" / "base"))
    assert copy.root().tensors().keys() == base.tensors().keys()
    config = {**adapter.adapter_config(), "base_model_name_or_path": str(base.path)}
    (adapter.path / "adapter_config.json").write_text(json.dumps(config))
    assert open_folder(adapter.path) == adapter
