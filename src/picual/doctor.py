"""What this machine has, and which passes can run on it. Nothing heavy is imported to find out."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from picual import __version__, _lazy, hardware
from picual.passes import registry
from picual.store.local import Store

LIBRARIES = (
    "torch", "transformers", "peft", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-genai",
    "onnxruntime-genai-cuda", "onnxruntime-genai-directml", "mobius-onnx", "onnx-ir", "scikit-learn", "ray",
    "optuna", "azure-ai-ml", "mlflow-skinny", "bitsandbytes",
)  # fmt: skip


def examine(store: Path | None = None) -> dict[str, Any]:
    """Return the machine, its providers, the libraries by version (empty: absent), and what each pass lacks."""
    root = Store(store).root
    return {
        "picual": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": asdict(hardware.machine()),
        "providers": list(hardware.available_providers()),
        "store": {"folder": str(root), "disk_free": hardware.disk_free(root)},
        "hub_token": bool(os.environ.get("HF_TOKEN")),
        "libraries": {name: _lazy.version_of(name) for name in LIBRARIES},
        "passes": [_pass(name) for name in registry.names()],
    }


def _pass(name: str) -> dict[str, Any]:
    kind = registry.load(name)
    missing = [module for module in kind.imports if not _lazy.is_installed(module)]
    return {"pass": name, "missing": missing, "hint": f'pip install "picual[{kind.extra}]"' if missing else ""}
