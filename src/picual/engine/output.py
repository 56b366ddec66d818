"""The output folder: the finished model, alone and whole, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picual import __version__, _atomic, _lazy, fingerprint
from picual.engine.results import RunResult, Stage
from picual.models import HfAdapter
from picual.recipe.dump import to_mapping
from picual.store.local import Store, hand_out

LOCKED = (
    "picual", "torch", "transformers", "peft", "accelerate", "onnx", "onnx-ir", "mobius-onnx", "onnxruntime",
    "onnxruntime-genai", "tokenizers", "safetensors", "numpy",
)  # fmt: skip
ADAPTER = "adapter_config.json"


def place(result: RunResult, store: Store, *, name: str = "model") -> None:
    """Put the last stage's model into ``OUT/model`` in one step, with ``OUT/manifest.json`` beside it.

    Nothing is touched when both are there already for this very key. A model that is not the result of the run
    goes by another ``name``, and has no manifest.
    """
    stage = result.stages[-1]
    if name == "model" and is_placed(result.output, stage.key):
        result.placed = True
        return
    with _atomic.new_folder(result.output / name) as folder:
        hand_out(stage.model.whole, folder)
        if isinstance(stage.model, HfAdapter):
            _name_base(folder, stage.model)
    if name == "model":
        _atomic.write_json(result.output / "manifest.json", manifest(result, store, stage))
        result.placed = True
    result.worked = True


def move_aside(output: Path) -> Path | None:
    """Move the model of an earlier run, with its manifest, into ``OUT/earlier``; return where it is now."""
    if not (output / "model").exists():
        return None
    earlier = output / "earlier"
    _atomic.remove(earlier)
    earlier.mkdir()
    for name in ("model", "manifest.json"):
        if (output / name).exists():
            (output / name).rename(earlier / name)
    return earlier


def is_placed(output: Path, key: str) -> bool:
    """Say whether ``OUT`` holds the model of this key with every file at its size."""
    try:
        facts = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        files = facts["files"]
        return facts["key"] == key and all(
            (output / "model" / name).stat().st_size == entry["size"] for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def manifest(result: RunResult, store: Store, stage: Stage) -> dict[str, Any]:
    """Return ``manifest.json``: digests, lineage, licence, recipe, library versions."""
    plan = result.plan
    model = result.output / "model"
    known = store.find(stage.key)
    hashes = {name: str(facts["sha256"]) for name, facts in known.manifest.files.items()} if known else {}
    if isinstance(stage.model, HfAdapter):
        hashes.pop(ADAPTER, None)  # here it names its base
    files = {}
    for path in fingerprint.files_under(model):
        name = path.relative_to(model).as_posix()
        size = path.stat().st_size
        files[name] = {"size": size, "sha256": hashes.get(name) or fingerprint.file_digest(path)}
    return {
        "version": 1,
        "key": stage.key,
        "kind": stage.model.kind,
        "files": files,
        "lineage": [{"source": plan.recipe.model.uri, "key": plan.source_key}]
        + [{"step": step.name, "pass": step.pass_name, "key": step.key} for step in result.steps],
        "licence": _licence(model),
        "recipe": to_mapping(plan.recipe),
        "libraries": {"picual": __version__}
        | {name: version for name in LOCKED if (version := _lazy.version_of(name))},
    }


def _name_base(folder: Path, adapter: HfAdapter) -> None:
    """Let the adapter's folder say where its base lies; what is stored names no path."""
    config = adapter.adapter_config()
    config["base_model_name_or_path"] = str(adapter.base.path)
    _atomic.write_json(folder / ADAPTER, config)


def _licence(model: Path) -> str:
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (model / name).is_file():
            return name
    return "not stated by the input model"
