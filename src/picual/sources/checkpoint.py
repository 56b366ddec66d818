"""A model in memory written as a checkpoint folder whose bytes depend on the model alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picual import _atomic

# Where and with what a file was made: not part of a model.
TRACES = (
    "_name_or_path", "name_or_path", "_model_name_or_path", "transformers_version", "is_local", "local_files_only",
    "_commit_hash",
)  # fmt: skip


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a transformers model and its tokenizer, without paths, versions or times in any file."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith("config.json"):
            _clean(file)
    (folder / "README.md").unlink(missing_ok=True)


def _clean(file: Path) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    _atomic.write_json(file, {key: value for key, value in values.items() if key not in TRACES})
