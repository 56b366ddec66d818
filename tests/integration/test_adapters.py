"""Two adapters trained on the int4 weights they ship with, on a real model: beside their base, and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual import api

Command = Callable[..., Any]
PROMPT = "Phrase: we won the cup at last\nTone:"
TONES = ("joy", "gloom")
TRAINED = """\
version: 1
model: MODEL
data: {tones: {files: TONE.jsonl, prompt: "Phrase: {phrase}\\nTone:", response: " {tone}"}}
passes:
  quantize: {effort: fast}
  lora: {data: tones, rank: 8, alpha: 16, training: {max_steps: 8, learning_rate: 1e-3}}
output: TONE
"""
DEPLOYED = """\
version: 1
model: integers/model
passes:
  build-genai: {adapters: {joy: joy/model, gloom: gloom/model}}
output: out
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phi3: Path, store: Path, picual: Command) -> Path:
    """A folder with the model and two adapters in `out`, and in `integers` the quantized model itself."""
    place = tmp_path_factory.mktemp("adapters")
    for tone in TONES:
        rows = [{"phrase": f"we won the cup number {number}", "tone": tone} for number in range(16)]
        (place / f"{tone}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = TRAINED.replace("MODEL", str(phi3)).replace("TONE", tone)
        (place / f"{tone}.yaml").write_text(text)
        picual("run", f"{tone}.yaml", "--store", str(store), folder=place)
    (place / "integers.yaml").write_text("\n".join(line for line in text.splitlines() if "lora:" not in line))
    (place / "out.yaml").write_text(DEPLOYED)
    for run in ("integers", "out"):
        picual("run", f"{run}.yaml", "--store", str(store), "-o", run, folder=place)
    return place


def test_every_step_is_verified_and_the_runtime_has_the_adapters(folder: Path) -> None:
    report = api.report(folder / "out")
    assert report["verdict"] == "verified"
    checks = report["steps"][-1]["checks"]
    logits = [check["measured"] for check in checks if check["name"] == "runtime-logits"]
    assert len(logits) == 3
    assert max(logits) < 1e-3
    tokens = [check["detail"] for check in checks if check["name"] == "runtime-tokens"]
    for tone in TONES:
        assert any(f"with adapter `{tone}`" in detail for detail in tokens)
    assert sum(check["name"] == "adapter-delta" and check["passed"] for check in checks) >= 1


def test_one_loaded_model_answers_with_either_adapter_and_without(folder: Path) -> None:
    import onnxruntime_genai as og

    model = og.Model(str(folder / "out" / "model"))
    adapters, tokenizer = og.Adapters(model), og.Tokenizer(model)
    for tone in TONES:
        adapters.load(str(folder / "out" / "model" / "adapters" / f"{tone}.onnx_adapter"), tone)

    def answer(adapter: str | None) -> str:
        parameters = og.GeneratorParams(model)
        prompt = tokenizer.encode(PROMPT)
        parameters.set_search_options(max_length=len(prompt) + 6, do_sample=False)
        generator = og.Generator(model, parameters)
        if adapter is not None:
            generator.set_active_adapter(adapters, adapter)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        return str(tokenizer.decode(generator.get_sequence(0)[len(prompt) :])).strip()

    for tone in (*TONES, *reversed(TONES)):  # back and forth: nothing of one is left in the next
        assert answer(tone).startswith(tone)
    assert not answer(None).startswith(TONES)


def test_the_command_answers_as_the_runtime_does(folder: Path, picual: Command) -> None:
    def answer(*options: str) -> str:
        words = ("generate", "out/model", PROMPT, "--raw", "--max-new-tokens", "8", "--json", *options)
        return str(json.loads(picual(*words, folder=folder).stdout)["answer"]).strip()

    assert answer().startswith("joy")
    assert answer("--adapter", "gloom").startswith("gloom")
    assert not answer("--adapter", "none").startswith(TONES)
