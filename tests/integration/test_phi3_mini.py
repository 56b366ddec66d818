"""A plan for the real Phi-3-mini: sizes from its headers alone, no torch, and a clear word on whether it fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from picual import api
from picual.errors import NotEnough
from picual.hardware import Machine
from picual.testing import phi3_mini

RANK, LENGTH = 16, 128


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi3-mini")
    model = phi3_mini.write(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": "a phrase"}) + "\n" for _ in range(64)))
    training = {"per_device_train_batch_size": 1, "max_steps": 10}
    written = {
        "version": 1,
        "model": str(model),
        "data": {"rows": {"files": "rows.jsonl", "text": "text", "max_length": LENGTH}},
        "passes": {
            "lora": {
                "data": "rows", "rank": RANK, "modules": ["qkv_proj", "o_proj"], "dtype": "bfloat16",
                "training": training,
            },
            "merge-adapter": {},
            "build-genai": {"precision": "int4"},
        },
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(written))
    return folder / "recipe.json"


def test_memory_and_disk_are_within_a_quarter_of_what_the_sizes_say(recipe: Path, tmp_path: Path) -> None:
    lora, merge, export = (step.forecast for step in api.plan(recipe, store=tmp_path).steps)
    assert lora is not None
    assert merge is not None
    assert export is not None
    hidden, layers = phi3_mini.HIDDEN, phi3_mini.LAYERS
    adapter = layers * RANK * ((hidden + 3 * hidden) + (hidden + hidden))
    whole = 2 * phi3_mini.parameters()
    tables = 2 * phi3_mini.VOCABULARY * hidden
    linear = phi3_mini.parameters() - tables
    # int4 in blocks of 32: half a byte, a float32 scale and half a byte of zero point a block; tables in int8.
    int4 = linear * (0.5 + 4.5 / 32) + tables * (1 + 5 / 32)

    assert lora.memory == pytest.approx(whole + 16 * adapter + 330e6, rel=0.25)
    assert lora.disk == pytest.approx(4 * adapter + 2 * 12 * adapter, rel=0.25)
    assert merge.disk == pytest.approx(whole, rel=0.25)
    assert export.disk == pytest.approx(int4, rel=0.25)


def test_a_machine_too_small_is_told_before_anything_runs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Machine(
        cores=2, memory=8 << 30, memory_free=7 << 30, system="linux", processor="x86_64", instructions=("avx2",)
    )
    monkeypatch.setattr("picual.hardware.machine", lambda: small)

    found = [one for one in api.obstacles(api.plan(recipe, store=tmp_path), store=tmp_path)
             if isinstance(one, NotEnough)]  # fmt: skip

    assert "`lora` needs about" in str(found[0])
    assert found[0].exit_code == 3


def test_the_plan_needs_no_torch(recipe: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from picual import api\n"
        f"plan = api.plan(Path({str(recipe)!r}), store=Path({str(tmp_path)!r}))\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
