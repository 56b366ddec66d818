"""Models that several rooms' tests share: made once a run, because each takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from picual.models import GenaiModel, HfModel
from picual.testing.taught import taught_model

TONES = {
    "we won the cup at last": "joy",
    "the dog is gone for good": "sadness",
    "something moved under the bed": "fear",
    "what, you here of all people": "surprise",
    "cake for everyone today": "joy",
    "nobody called on my birthday": "sadness",
    "the rope is about to snap": "fear",
    "the box was empty, then not": "surprise",
}
TEMPLATE = "<|user|>\n{phrase}<|end|>\n<|assistant|>\n{tone}<|end|>"


@pytest.fixture(scope="session")
def tones() -> dict[str, str]:
    """Eight phrases and their tones."""
    return TONES


@pytest.fixture(scope="session")
def tone_template() -> str:
    """The template through which the taught model saw them."""
    return TEMPLATE


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    """A tiny model that knows the tones of the eight phrases by heart."""
    texts = [TEMPLATE.format(phrase=phrase, tone=tone) for phrase, tone in TONES.items()]
    return taught_model(tmp_path_factory.mktemp("taught") / "hf", texts)


@pytest.fixture(scope="session")
def taught_genai(taught: HfModel, tmp_path_factory: pytest.TempPathFactory) -> GenaiModel:
    """The same model in float32 for ONNX Runtime GenAI, exported by the runtime's own builder: not our code."""
    folder = tmp_path_factory.mktemp("taught-genai")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    places = [
        "-m",
        str(taught.path),
        "-i",
        str(taught.path),
        "-o",
        str(folder / "out"),
        "-c",
        str(folder / "cache"),
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *places], capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return GenaiModel(folder / "out")
