"""The files beside the weights that make up the prompt contract: whose copy goes with the merged model."""

from __future__ import annotations

import shutil
from pathlib import Path

from picual.models import HfAdapter
from picual.models.hf import COMPANIONS

# An adapter that brings one of these was trained with its own tokenizer, which then counts as a whole.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
NOT_TOKENIZER = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def prompt_folder(adapter: HfAdapter) -> Path:
    """Return the folder with the tokenizer that the last adapter of a chain was trained with."""
    for link in reversed(adapter.chain()):
        if any((link.path / name).is_file() for name in TOKENIZERS):
            return link.path
    return adapter.root().path


def copy_companions(adapter: HfAdapter, folder: Path) -> None:
    """Copy tokenizer, template, generation defaults, licence and remote code into ``folder``."""
    tokenizer, root = prompt_folder(adapter), adapter.root()
    for name in COMPANIONS:
        source = (root.path if name in NOT_TOKENIZER else tokenizer) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
    if root.trust_remote_code:
        for code in sorted(root.path.glob("*.py")):
            shutil.copyfile(code, folder / code.name)
