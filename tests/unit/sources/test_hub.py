from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from picual.models import HfModel


def _loopback() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loopback_hub", Path(__file__).with_name("loopback_hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOOPBACK = _loopback()
COMMIT = LOOPBACK.COMMIT

# Where the hub is, is read when huggingface_hub is imported: so each call has a process of its own.
SCRIPT = """
import json, sys, time
from pathlib import Path
from picual.errors import PicualError
from picual.sources.resolve import resolve
from picual.sources.task import run
do, job, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
source = resolve(given.pop("uri"), folder=job, **given)
started = time.monotonic()
try:
    if do == "locate":
        found = source.locate()
        answer = {"seconds": time.monotonic() - started, "fetches": source.fetches, "notes": source.notes}
        answer |= {"path": str(found.model.path), "digest": found.digest} if found else {}
        answer |= {"heavy": [m for m in ("httpx", "httpx2", "requests", "torch") if m in sys.modules]}
    elif do == "key":
        answer = {"fetches": source.fetches, "key": dict(source.key_parts())}
    else:
        (job / "out").mkdir(parents=True)
        wire = {"source": {**json.loads(sys.argv[3]), "folder": str(job)}}
        answer = run(wire, folder=job, seed=0, threads=1, on_event=lambda name, values: None)
except PicualError as error:
    answer = {**error.to_wire(), "exit": error.exit_code}
print("ANSWER " + json.dumps(answer))
"""

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def published(tiny: HfModel) -> Path:
    (tiny.path / "README.md").write_text("not part of the model")
    (tiny.path / "pytorch_model.bin").write_bytes(b"a pickle")
    (tiny.path / "original").mkdir()
    (tiny.path / "original" / "copy.safetensors").write_bytes(b"the weights again")
    return tiny.path


@pytest.fixture
def hub(published: Path, tmp_path: Path) -> Iterator[Any]:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (pickled / name).write_bytes((published / name).read_bytes())
    server = LOOPBACK.LoopbackHub(
        {"someone/tiny": published, "someone/pickled": pickled}, gated=frozenset({"someone/gated"})
    )
    yield server
    server.close()


@pytest.fixture
def call(hub: Any, tmp_path: Path) -> Call:
    count = iter(range(100))

    def go(do: str, uri: str = "someone/tiny", *, environment: dict[str, str] | None = None, **given: Any) -> Any:
        job = tmp_path / f"job-{next(count)}"
        variables = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", **(environment or {}),
        }  # fmt: skip
        variables.pop("HF_HUB_CACHE", None)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, do, str(job), json.dumps({"uri": uri, **given})],
            env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.rpartition("ANSWER ")[2])
        return {**answer, "out": job / "out"}

    return go


def test_a_model_is_fetched_once_and_then_found_without_any_call(call: Call, hub: Any, published: Path) -> None:
    assert call("locate").items() >= {"fetches": True}.items()
    assert hub.requests == []  # looking is free
    key = call("key")["key"]

    fetched = call("fetch", environment={"HF_TOKEN": "hf_secret"})

    assert fetched["model"] == {"kind": "hf", "path": "."}
    names = sorted(file.name for file in fetched["out"].iterdir())
    assert "model.safetensors" in names
    assert not {"README.md", "pytorch_model.bin", "copy.safetensors"} & set(names)
    for name in names:
        assert (fetched["out"] / name).read_bytes() == (published / name).read_bytes()
        assert not (fetched["out"] / name).is_symlink()
    assert COMMIT in fetched["notes"][0]
    assert not [path for _, path, _ in hub.requests if path.endswith(("README.md", ".bin", "copy.safetensors"))]
    assert {token for _, path, token in hub.requests if "resolve" in path} == {"hf_secret"}

    hub.requests.clear()
    found = call("locate")
    assert found["fetches"] is False
    assert found["path"].endswith(f"snapshots/{COMMIT}")
    assert found["seconds"] < 0.2
    assert found["heavy"] == []
    assert {"content": [found["digest"]]} == key  # before and after the download, the same key
    assert call("key")["key"] == key
    assert call("locate", revision=COMMIT)["digest"] == found["digest"]
    assert call("locate", offline=True)["path"] == found["path"]
    assert hub.requests == []


def test_a_snapshot_that_lacks_a_file_is_fetched_again(call: Call, tmp_path: Path) -> None:
    call("fetch")
    snapshot = Path(call("locate")["path"])
    for name in ("tokenizer.json", "model.safetensors"):
        (snapshot / name).unlink()
        assert call("locate")["fetches"] is True
        assert (call("fetch")["out"] / name).is_file()
        assert call("locate")["fetches"] is False


@pytest.mark.parametrize("switch", ["--offline", "HF_HUB_OFFLINE"])
def test_offline_no_call_is_made_and_the_error_says_how_to_go_on(switch: str, call: Call, hub: Any) -> None:
    given = {"offline": True} if switch == "--offline" else {"environment": {"HF_HUB_OFFLINE": "1"}}
    for do in ("key", "fetch"):
        error = call(do, **given)
        assert error["exit"] == 3
        assert "`someone/tiny` at `main` is not in the local cache" in error["what"]
        assert f"drop `{switch}`" in error["hint"]
    assert hub.requests == []


@pytest.mark.parametrize(
    ("given", "exit_code", "what", "hint"),
    [
        ({"uri": "someone/nowhere"}, 2, "no model `someone/nowhere`", "HF_TOKEN"),
        ({"uri": "someone/tiny", "revision": "v9"}, 2, "no revision `v9`", "`main`"),
        ({"uri": "someone/gated"}, 3, "accept a licence", "HF_TOKEN"),
        ({"uri": "someone/pickled"}, 4, "no safetensors", "save_pretrained"),
        ({"uri": "a..b/tiny"}, 2, "not a hub id", "owner/name"),
    ],
)
def test_what_the_hub_declines_is_explained(
    given: dict[str, Any], exit_code: int, what: str, hint: str, call: Call
) -> None:
    error = call("fetch", **given)
    assert error["exit"] == exit_code
    assert what in error["what"]
    assert hint in error["hint"]


def test_a_hub_that_does_not_answer_is_a_fault_of_the_environment(call: Call, hub: Any) -> None:
    hub.close()
    for do in ("key", "fetch"):
        error = call(do)
        assert error["exit"] == 3
        assert "could not be fetched" in error["what"]
        assert "--model PATH" in error["hint"]
