"""A model in memory written as a checkpoint folder whose bytes depend on the model alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice out of the log while a model is loaded."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
