"""A model loaded in a process of its own, so that what is measured is its alone.

``python -m picual.metrics.loading`` reads JSON from stdin, imports the model's libraries, loads the model, answers
once if asked to, and prints one JSON line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from picual.errors import PicualError, StepFailed, from_wire
from picual.metrics.latency import random_ids, vocabulary_of
from picual.models import Model, OnnxModel, model_from_wire

COMMAND = ("-m", "picual.metrics.loading")
INTERVAL = 0.01  # seconds between two looks at the process's memory
# It imports itself piece by piece, which is no part of loading a model.
TRANSFORMERS = ("torch", "transformers", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
                "transformers.tokenization_utils_tokenizers")  # fmt: skip
LIBRARIES = {
    "hf": TRANSFORMERS,
    "mlflow": TRANSFORMERS,
    "hf-adapter": (*TRANSFORMERS, "peft"),
    "genai": ("onnxruntime_genai",),
    "onnx": ("onnxruntime",),
}


def load_apart(
    model: Model, *, threads: int, prompt_tokens: int = 0, new_tokens: int = 0, seed: int = 0, by: str
) -> dict[str, float]:
    """Load a model in a fresh process and return ``import_s``, ``load_s``, and peaks in bytes.

    Args:
        model: What is loaded.
        threads: For every thread pool.
        prompt_tokens: Of the answer; 0: none is given.
        new_tokens: Of the answer.
        seed: Of the prompt.
        by: The metric that asks.

    Raises:
        PicualError: What the process stopped at.
    """
    asked = {
        "model": model.to_wire(), "threads": threads, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
        "seed": seed,
    }  # fmt: skip
    # Files, not pipes: nobody reads while the process is watched, and libraries may talk much.
    with (
        tempfile.TemporaryFile("w+") as told,
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [sys.executable, *COMMAND], stdin=subprocess.PIPE, stdout=told, stderr=complaints, text=True
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        anonymous = _watch(process)
        told.seek(0)
        complaints.seek(0)
        return _answer(told.read(), complaints.read(), anonymous, by)


def _watch(process: subprocess.Popen[str]) -> int:
    """Return the most anonymous bytes that a process held while it ran."""
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, memory_of(process.pid)["anonymous"])
        time.sleep(INTERVAL)
    return peak


def _answer(told: str, complaints: str, anonymous: int, by: str) -> dict[str, float]:
    lines = told.strip().splitlines()
    answer: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in answer:
        raise from_wire(answer["error"])
    if not answer:
        last = complaints.strip().splitlines()
        raise StepFailed(f"`{by}`: the process that loads the model ended ({last[-1] if last else 'killed'})",
                         hint="use a machine with more memory")  # fmt: skip
    answer["anonymous"] = max(anonymous, answer["anonymous"])
    return answer


def memory_of(pid: int) -> dict[str, int]:
    """Return ``resident``, its peak and ``anonymous`` bytes of a process; outside Linux all are what is resident.

    Anonymous pages cannot be dropped; the pages of a mapped file can, and come back when they are read.
    """
    status = Path(f"/proc/{pid}/status")
    try:
        lines = status.read_text().splitlines() if status.exists() else []
    except (OSError, ProcessLookupError):
        lines = []  # it ended between two looks
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    names = {"resident": "VmRSS", "peak": "VmHWM", "anonymous": "RssAnon"}
    if all(name in fields for name in names.values()):
        return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}
    resident = int(psutil.Process(pid).memory_info().rss) if not status.parent.parent.exists() else 0
    return dict.fromkeys(names, resident)


def load_here(asked: Mapping[str, Any]) -> dict[str, float]:
    """Load and answer in this process, and return how long that took and what it held."""
    model = model_from_wire(asked["model"], Path())
    started = time.perf_counter()
    for name in LIBRARIES.get(model.kind, ()):
        with contextlib.suppress(ModuleNotFoundError):  # loading says which extra brings it
            importlib.import_module(name)
    imported = time.perf_counter()
    me = psutil.Process().pid
    library = memory_of(me)["resident"]
    loaded, anonymous = _load(model, asked), 0
    try:
        ready = time.perf_counter()
        anonymous = memory_of(me)["anonymous"]
        if asked["new_tokens"]:
            _answer_once(loaded, model, asked)
    finally:
        loaded.close()
    held = memory_of(me)
    return {
        "import_s": imported - started, "load_s": ready - imported, "library": library, "peak": held["peak"],
        "anonymous": max(anonymous, held["anonymous"]),
    }  # fmt: skip


def _load(model: Model, asked: Mapping[str, Any]) -> Any:
    if isinstance(model, OnnxModel):
        from picual.models.onnx_batch import OnnxBatch

        length = max(int(asked["prompt_tokens"]), 1)
        return OnnxBatch(model, batch_size=1, length=length, seed=asked["seed"], threads=asked["threads"])
    from picual.models.session import open_session

    session = open_session(model, threads=asked["threads"])
    session.warm()
    return session


def _answer_once(loaded: Any, model: Model, asked: Mapping[str, Any]) -> None:
    if isinstance(model, OnnxModel):
        loaded.run()
        return
    ids = random_ids(vocabulary_of(model), asked["prompt_tokens"], asked["seed"])
    loaded.step_times(ids, asked["new_tokens"])


def main() -> int:
    """Do what stdin asks; what libraries print goes to stderr."""
    asked = json.load(sys.stdin)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer: dict[str, Any] = load_here(asked)
    except PicualError as error:
        answer = {"error": error.to_wire()}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
